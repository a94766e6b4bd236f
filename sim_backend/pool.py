"""Tasks run here one after the other, or several at a time, the others in processes of their own."""

import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Generic, TypeVar

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


def _load(run: Callable[..., object]) -> None:
    """Nothing to do: that `run` came as an argument has loaded its module."""


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
    """Runs tasks; results come back in the order of the tasks.

    This process works too: it has everything loaded, while another one needs most of a second before it can begin.
    """

    def __init__(self, processes: int) -> None:
        """With one process there is no other than this one."""
        self._others = processes - 1
        self._executor: ProcessPoolExecutor | None = None
        self._not_ours = frozenset(active_children())
        if processes > 1:
            # Compiled code and open traces do not survive a fork safely; a spawned process loads them from the cache.
            self._executor = ProcessPoolExecutor(self._others, get_context("spawn"), initializer=_end_when_interrupted)

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
        """The result of every task, each of which counts for `cost` of the progress.

        Where another process has failed, this one notices when its own task next tells how far it is.
        """
        results: dict[int, R] = {}
        todo = deque(enumerate(tasks))
        elsewhere = _Elsewhere(self._executor, run, todo)

        def collect() -> None:
            for index, result in elsewhere.take_finished():
                results[index] = result
                tracker.finished(cost, what)

        def told(share: float) -> None:
            collect()
            tracker.part(share, cost, what)

        try:
            with _interrupts_wait():
                elsewhere.begin(min(self._others, len(tasks) - 1))
            while len(results) < len(tasks):
                mine = _next_of(todo)
                if mine is None:
                    elsewhere.wait()
                else:
                    results[mine[0]] = run(mine[1], told)
                    tracker.finished(cost, what)
                collect()
        except BrokenProcessPool as error:
            raise OverwattError(
                "a simulating process was ended from outside, perhaps for lack of memory: "
                "nothing is wrong with the input; try again with fewer --processes"
            ) from error
        return [results[index] for index in range(len(tasks))]


class _Elsewhere(Generic[T, R]):
    """Tasks in other processes: whenever one ends there, the next of those still to do begins.

    A process gets its first task when it has loaded all that it needs: what it had before would be waited for, while
    this process, with nothing left to do, could long have done it.
    """

    def __init__(self, executor: ProcessPoolExecutor | None, run: Run[T, R], todo: deque[tuple[int, T]]) -> None:
        self._executor, self._run, self._todo = executor, run, todo
        self._running: dict[int, Future[R]] = {}

    def begin(self, count: int) -> None:
        """Have as many processes load what they need, and then begin."""
        for _ in range(count):
            assert self._executor is not None
            try:
                self._executor.submit(_load, self._run).add_done_callback(self._ended)
            except BrokenProcessPool:
                # One was ended from outside: what is left is done here.
                return

    def take_finished(self) -> list[tuple[int, R]]:
        """Results since the last call; raises what a task has raised."""
        finished = [(index, future) for index, future in list(self._running.items()) if future.done()]
        results = [(index, future.result()) for index, future in finished]
        for index, _ in finished:
            del self._running[index]
        return results

    def wait(self) -> None:
        """Until one has ended."""
        wait(list(self._running.values()), return_when=FIRST_COMPLETED)

    def _begin_next(self) -> None:
        task = _next_of(self._todo)
        if task is None:
            return
        assert self._executor is not None
        try:
            future = self._executor.submit(self._run, task[1], silent)
        except RuntimeError:
            # Broken or shut down meanwhile; whoever waits for this task is told so, or has gone.
            self._todo.appendleft(task)
            return
        self._running[task[0]] = future
        future.add_done_callback(self._ended)

    def _ended(self, future: Future[R] | Future[None]) -> None:
        # In the executor's own thread, so that the other process need not wait until this one's task tells something.
        if not future.cancelled() and future.exception() is None:
            self._begin_next()


def _next_of(todo: deque[tuple[int, T]]) -> tuple[int, T] | None:
    """The next task; a deque gives each to one caller only, whatever thread asks."""
    try:
        return todo.popleft()
    except IndexError:
        return None
