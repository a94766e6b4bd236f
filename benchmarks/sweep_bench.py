"""What a second process brings to a sweep: the same job with one and with two, in turns, and what the machine allows.

The ceiling is how much two processes that share nothing get done beside each other, over one alone: below 2 where the
cores share a clock, a cache or a hypervisor, and below 1 while others use the machine. `ratio` is of the medians of
wall time, `cpu_ratio` what it would be if nobody else ran: processor time of one over that of the busier of two.
"""

import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from daemon.config import load_site
from policies import POLICIES
from sim_backend.replay import ReplayJob, run_replay

SITE = Path(__file__).parent.parent / "docs" / "examples" / "polca-row.toml"
REPEATS = 2
DAYS = 0.5
WANTED = 1.8


def job(processes: int, days: float = DAYS) -> ReplayJob:
    """Every policy at four sizes of fleet, as the tables of results have them."""
    site = load_site(SITE)
    return ReplayJob(
        site, "six-weeks", tuple(POLICIES), ("reactive",), (0.0, 10.0, 20.0, 30.0), 1, days, processes=processes
    )


def took_s(processes: int) -> tuple[float, float]:
    """Wall seconds of the sweep, and processor seconds of the process that used most."""
    began_s, before = time.perf_counter(), os.times()
    run_replay(job(processes), lambda share, what: None)
    wall_s, after = time.perf_counter() - began_s, os.times()
    own_s = after.user + after.system - before.user - before.system
    other_s = after.children_user + after.children_system - before.children_user - before.children_system
    return wall_s, max(own_s, other_s)


def alone_s(_: int) -> float:
    """Wall seconds of one run of it in this process, after everything is loaded."""
    one = replace(job(1), policies=("polca",), add_servers_pct=(0.0,))
    run_replay(replace(one, days=0.01), lambda share, what: None)
    began_s = time.perf_counter()
    run_replay(one, lambda share, what: None)
    return time.perf_counter() - began_s


def ceiling() -> float:
    """Work done by two processes beside each other over that of one alone, in the same time."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        single_s = pool.submit(alone_s, 0).result()
        both_s = list(pool.map(alone_s, (0, 1)))
    return sum(single_s / each_s for each_s in both_s)


def main() -> None:
    """Measure and print; the last line is one JSON object."""
    run_replay(job(1, 0.01), lambda share, what: None)
    one, two = [], []
    for _ in range(REPEATS):
        one.append(took_s(1))
        two.append(took_s(2))
        wall, cpu = one[-1][0] / two[-1][0], one[-1][1] / two[-1][1]
        print(f"one process {one[-1][0]:.2f} s, two {two[-1][0]:.2f} s: {wall:.2f} (by processor time {cpu:.2f})")
    one_s, two_s = (statistics.median(wall_s for wall_s, _ in runs) for runs in (one, two))
    one_cpu_s, two_cpu_s = (statistics.median(cpu_s for _, cpu_s in runs) for runs in (one, two))
    figures = {
        "one_s": round(one_s, 2),
        "two_s": round(two_s, 2),
        "ratio": round(one_s / two_s, 2),
        "cpu_ratio": round(one_cpu_s / two_cpu_s, 2),
        "ceiling": round(ceiling(), 2),
        "wanted": WANTED,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
