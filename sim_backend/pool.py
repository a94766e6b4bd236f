"""Tasks run here one after the other, or several at a time in processes of their own."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import TypeVar

from policies.errors import OverwattError

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[float, str], None]
"""Told the fraction of the whole job that is done, and what is being done."""
Run = Callable[[T, Callable[[float], None]], R]
"""Works on a task and tells the fraction of it that is done."""


def silent(share: float) -> None:
    """Progress of a task in another process is not followed."""


# An interrupt from the terminal reaches every process, and only this one is to say so. The others end at once; while
# they still load their modules, which would show a traceback, the signal waits.


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_when_interrupted() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Tracker:
    """Turns finished tasks, and the progress of the one that runs in this process, into a fraction."""

    def __init__(self, progress: Progress, total: float) -> None:
        """Nothing is done yet of `total` cost."""
        self._progress, self._total, self._done = progress, total, 0.0

    def part(self, share: float, cost: float, what: str) -> None:
        """This share of a task of `cost` is done."""
        self._progress(min(1.0, (self._done + share * cost) / self._total), what)

    def finished(self, cost: float, what: str) -> None:
        """A task of `cost` is done."""
        self._done += cost
        self._progress(min(1.0, self._done / self._total), what)


class Pool:
    """Runs tasks; results come back in the order of the tasks."""

    def __init__(self, processes: int) -> None:
        """With one process there is no other than this one."""
        self._executor: ProcessPoolExecutor | None = None
        self._not_ours = frozenset(active_children())
        if processes > 1:
            # Compiled code and open traces do not survive a fork safely; a spawned process loads them from the cache.
            self._executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_when_interrupted)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._executor is None:
            return
        if kind is not None:
            # Tasks run for minutes: whoever learns that one has failed does not wait for the rest.
            for child in set(active_children()) - self._not_ours:
                child.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def map(self, run: Run[T, R], tasks: list[T], tracker: Tracker, cost: float, what: str) -> list[R]:
        """The result of every task, each of which counts for `cost` of the progress."""
        if self._executor is None:
            found: list[R] = []
            for task in tasks:
                found.append(run(task, lambda share: tracker.part(share, cost, what)))
                tracker.finished(cost, what)
            return found
        with _interrupts_wait():
            futures: list[Future[R]] = [self._executor.submit(run, task, silent) for task in tasks]
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    tracker.finished(cost, what)
        except BrokenProcessPool as error:
            raise OverwattError(
                "a simulating process was ended from outside, perhaps for lack of memory: "
                "nothing is wrong with the input; try again with fewer --processes"
            ) from error
        return [future.result() for future in futures]
