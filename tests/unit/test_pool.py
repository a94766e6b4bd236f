"""Tasks in this process or several: same results, and no waiting for what nobody wants any more."""

import os
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import pytest

from policies.errors import DataError, OverwattError
from sim_backend.pool import Pool, Tracker
from tests.twin.pool_tasks import FOREVER_S, killed, refused, squared, where


def tracker_of(told: list[float], total: float) -> Tracker:
    return Tracker(lambda share, _: told.append(share), total)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_tasks(processes: int):
    told: list[float] = []
    with Pool(processes) as pool:
        assert pool.map(squared, list(range(7)), tracker_of(told, 7.0), 1.0, "squares") == [0, 1, 4, 9, 16, 25, 36]
    assert told == sorted(told)
    assert told[-1] == 1.0
    # A task in this process also tells how far it has come; another process may do all but the first.
    assert 8 <= len(told) <= 14
    assert processes == 2 or len(told) == 14


def test_this_process_works_while_the_others_start():
    tasks = [0.3] * 4
    with Pool(2) as pool:
        did = pool.map(where, tasks, tracker_of([], 4.0), 1.0, "runs")
    assert [task for task, _ in did] == tasks
    assert did[0][1] == os.getpid()


def test_tasks_of_different_length_keep_both_busy():
    # The long one is done here; all short ones elsewhere meanwhile.
    with Pool(2) as pool:
        did = pool.map(where, [8.0, 0.01, 0.01, 0.01, 0.01], tracker_of([], 5.0), 1.0, "runs")
    assert [who == os.getpid() for _, who in did] == [True, False, False, False, False]


def test_a_pool_serves_several_maps():
    with Pool(3) as pool:
        for tasks in ([1], [], [2, 3], list(range(9))):
            assert pool.map(squared, tasks, tracker_of([], 9.0), 1.0, "squares") == [task**2 for task in tasks]


def test_progress_never_exceeds_the_whole():
    told: list[float] = []
    tracker = tracker_of(told, 2.0)
    tracker.part(0.5, 1.0, "first")
    tracker.finished(1.0, "first")
    tracker.part(0.5, 1.0, "second")
    tracker.finished(1.5, "second")
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_a_failure_is_told_without_waiting_for_the_others():
    before = set(active_children())
    with pytest.raises(DataError, match="line 3"), Pool(2) as pool:
        pool.map(refused, [FOREVER_S, 0.0], tracker_of([], 2.0), 1.0, "runs")
    assert set(active_children()) == before


def test_a_process_that_is_killed_is_one_line():
    with (
        pytest.raises(OverwattError, match="ended from outside, perhaps for lack of memory") as caught,
        Pool(2) as pool,
    ):
        pool.map(killed, [1, 2], tracker_of([], 2.0), 1.0, "runs")
    assert "\n" not in str(caught.value)


INTERRUPTED = """
import os, signal, sys, threading
from sim_backend.pool import Pool, Tracker
from tests.twin.pool_tasks import FOREVER_S, refused
try:
    threading.Timer({after_s}, lambda: os.killpg(0, signal.SIGINT)).start()
    with Pool(2) as pool:
        pool.map(refused, [FOREVER_S] * 4, Tracker(lambda *_: None, 4.0), 1.0, "runs")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("after_s", [0.02, 0.1, 1.0])
def test_an_interrupt_ends_all_processes_without_a_traceback(after_s: float):
    # While they start and while they work.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(after_s=after_s)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode in (130, -signal.SIGINT)
