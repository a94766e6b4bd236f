"""What the real cores cost per simulated second: agents, controller, policy, guard and ledger, for several fleets.

Each fleet is POLCA's row grown or shrunk, in-band, on the day of its peak; the plant's own time is not counted.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from daemon.config import load_site
from policies.arrays import Vec
from sim_backend.closed_loop import ClosedLoop, RunSpec
from sim_backend.fleet import build_servers
from sim_backend.replay import ReplayJob, prepared
from sim_backend.site import Guarantee

SITE = Path(__file__).parent.parent / "docs" / "examples" / "polca-row-in-band.toml"
FLEETS = (1, 52, 320, 1000)
SECONDS = 1_800
CHECK_EVERY = 60
"""Steps between checks of the invariants, as everywhere in benchmarks."""
BUDGET_W_PER_SERVER = 3_600.0
"""About POLCA's row with 30 % more servers: caps are in force and move."""


class Timed(ClosedLoop):
    """A closed loop that notes what each second of control took."""

    def __init__(self, *arguments: object) -> None:
        """As the closed loop."""
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.control_s: list[float] = []

    def _control(self, server_w: Vec, constraint_w: Vec, now_s: float) -> None:
        began_s = time.perf_counter()
        super()._control(server_w, constraint_w, now_s)
        self.control_s.append(time.perf_counter() - began_s)


def cost_us(servers: int, guarantee: Guarantee) -> tuple[float, float, float]:
    """Median, mean and 99th percentile of one step [us]."""
    site = load_site(SITE)
    half = replace(site.servers[0], count=servers - servers // 2), replace(site.servers[1], count=servers // 2)
    site = replace(site, servers=tuple(g for g in half if g.count))
    site = site.with_budget("row", BUDGET_W_PER_SERVER * servers)
    days, noon = SECONDS / 86_400.0, 0.5
    job = ReplayJob(site, "six-weeks", ("polca",), (guarantee.value,), (0.0,), 1, days, noon)
    workload, _ = prepared(job)
    fleet = build_servers(site, 0.0)
    loop = Timed(RunSpec(site, "polca", guarantee, 0.0, 1, CHECK_EVERY), fleet, workload.source(servers))
    loop.run()
    steps_us = 1e6 * np.array(loop.control_s[60:])
    return statistics.median(steps_us), float(steps_us.mean()), float(np.quantile(steps_us, 0.99))


def main() -> None:
    """Print a table as Markdown."""
    print("| servers | guarantee | median us | mean us | p99 us |")
    print("|---:|---|---:|---:|---:|")
    for servers in FLEETS:
        for guarantee in Guarantee:
            median, mean, p99 = cost_us(servers, guarantee)
            print(f"| {servers} | {guarantee.value} | {median:.0f} | {mean:.0f} | {p99:.0f} |", flush=True)


if __name__ == "__main__":
    main()
