"""What a pool of processes is given to do in its tests; another process must find it by its name."""

import os
import time
from collections.abc import Callable

from policies.errors import DataError

FOREVER_S = 3_600.0


def squared(task: int, done: Callable[[float], None]) -> int:
    done(0.5)
    return task * task


def refused(task: float, done: Callable[[float], None]) -> None:
    """Tasks of 0 are refused, others take their time."""
    if task == 0.0:
        raise DataError("trace.csv, line 3: wrong")
    time.sleep(task)


def killed(task: int, done: Callable[[float], None]) -> None:
    os._exit(9)
