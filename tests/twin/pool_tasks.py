"""What a pool of processes is given to do in its tests; another process must find it by its name."""

import os
import time
from collections.abc import Callable
from multiprocessing import parent_process

from policies.errors import DataError

FOREVER_S = 3_600.0
STEP_S = 0.01


def squared(task: int, done: Callable[[float], None]) -> int:
    done(0.5)
    return task * task


def refused(task: float, done: Callable[[float], None]) -> None:
    """Tasks of 0 are refused, others take their time and tell how far they are."""
    if task == 0.0:
        raise DataError("trace.csv, line 3: wrong")
    until_s = time.monotonic() + task
    while (left_s := until_s - time.monotonic()) > 0.0:
        time.sleep(min(left_s, STEP_S))
        done(1.0 - left_s / task)


def killed(task: int, done: Callable[[float], None]) -> None:
    """A process that is not the first one is gone at once; the first goes on until it is told."""
    if parent_process() is not None:
        os._exit(9)
    refused(FOREVER_S, done)


def where(task: float, done: Callable[[float], None]) -> tuple[float, int]:
    """The task and who did it, after as many seconds."""
    refused(task, done)
    return task, os.getpid()
