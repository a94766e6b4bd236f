"""A thousand servers for a week, request by request: 1.06 billion requests, with caps from an array or the real cores.

By default some simulated minutes are run and the week is their multiple; `--whole` runs all of it. Requests are drawn
as the week goes on, with the prompts and outputs of work W and a rate that goes up and down with the day, and none is
stored; drawing them is in the times. One core.

    python -m benchmarks.week_bench [--minutes 10] [--whole] [--only caps|cores]
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.plant_bench import TRACE
from daemon.config import load_site
from sim_backend.arrivals import Arrivals
from sim_backend.closed_loop import ClosedLoop, RunSpec
from sim_backend.fleet import build_servers
from sim_backend.plant import Plant
from sim_backend.site import Guarantee
from telemetry.request_trace import read_request_trace

SERVERS = 1_000
WEEK_S = 604_800
RATE_RPS = 1_753.0
"""Mean over a day: as many per server as in W, 1.06 billion in the week."""
SWING = 0.15
"""Of the rate, up and down within a day."""
CHUNK_S = 300
"""Seconds per call into compiled code, and of warm-up before a slice: by then the servers hold what they will hold."""
BLOCK = 1 << 15
SITE = Path(__file__).parent.parent / "docs" / "examples" / "work-w.toml"
CHECK_EVERY = 60
"""Steps between checks of the invariants, as everywhere in benchmarks."""


class Drawn:
    """Requests drawn block by block: Poisson arrivals, lengths of recorded requests."""

    def __init__(self, duration_s: float) -> None:
        """For `duration_s`."""
        data = os.environ.get("OVERWATT_DATA")
        if data is None or not (Path(data) / TRACE).exists():
            sys.exit("week_bench: set OVERWATT_DATA to the recordings; docs/data.md says how to make them")
        with read_request_trace(Path(data) / TRACE) as trace:
            rows = trace.read(0, trace.rows)
        self.duration_s = duration_s
        self._prompt = np.array(rows["prompt_tokens"], np.int32)
        self._output = np.array(rows["output_tokens"], np.int32)

    def blocks(self) -> Iterator[Arrivals]:
        """Without end; a block is shorter than a minute, so that the rate follows the day."""
        rng = np.random.default_rng(1)
        priority = np.ones(BLOCK, np.int8)
        now_s = 0.0
        while now_s < self.duration_s:
            rate_rps = RATE_RPS * (1.0 + SWING * np.sin(2.0 * np.pi * now_s / 86_400.0))
            arrival_s = now_s + np.cumsum(rng.standard_exponential(BLOCK)) / rate_rps
            now_s = float(arrival_s[-1])
            which = rng.integers(0, len(self._prompt), BLOCK)
            yield Arrivals(arrival_s, self._prompt[which], self._output[which], priority)


def capped(duration_s: int, warm_up_s: int) -> tuple[float, int]:
    """Seconds of the plant under a new cap for every server in every second, and requests completed in them."""
    servers = build_servers(load_site(SITE), 0.0)
    sku, priority = np.zeros(SERVERS, np.int64), np.ones(SERVERS, np.int64)
    plant = Plant(servers.profiles, sku, priority, Drawn(duration_s), {})
    clocks = np.random.default_rng(0).uniform(0.7, 1.0, (CHUNK_S, SERVERS))
    began_s, before = time.perf_counter(), 0
    for start in range(0, duration_s, CHUNK_S):
        if start == warm_up_s // CHUNK_S * CHUNK_S:
            began_s, before = time.perf_counter(), int(plant.stats.completed.sum())
        steps = min(CHUNK_S, duration_s - start)
        server_w = plant.run_schedule(clocks[:steps])
        assert np.isfinite(server_w).all()
    return time.perf_counter() - began_s, int(plant.stats.completed.sum()) - before


class Marked(ClosedLoop):
    """A closed loop that notes when its warm-up ended."""

    warm_up_s = 0
    began_s = 0.0
    before = 0

    def _second(self, now_s: float) -> None:
        if now_s == self.warm_up_s + 1:
            self.began_s, self.before = time.perf_counter(), int(self.plant.stats.completed.sum())
        super()._second(now_s)


def closed(duration_s: int, warm_up_s: int) -> tuple[float, int]:
    """The same with the real cores under POLCA, a step a second."""
    site = load_site(SITE)
    per_server_w = float(site.domains[0].budget_w or 0.0) / site.servers[0].count
    site = replace(site, servers=(replace(site.servers[0], count=SERVERS),))
    site = site.with_budget(site.domains[0].name, per_server_w * SERVERS)
    spec = RunSpec(site, "polca", Guarantee.REACTIVE, 0.0, 0, CHECK_EVERY)
    loop = Marked(spec, build_servers(site, 0.0), Drawn(duration_s))
    loop.warm_up_s = warm_up_s
    loop.run(lambda share: print(f"  {100.0 * share:.1f} %", flush=True))
    return time.perf_counter() - loop.began_s, int(loop.plant.stats.completed.sum()) - loop.before


def measure(label: str, run: Callable[[int, int], tuple[float, int]], minutes: float, *, whole: bool) -> None:
    """Run the slice or the week, and print what it took and what the week takes."""
    warm_up_s = 0 if whole else CHUNK_S
    duration_s = WEEK_S if whole else warm_up_s + round(60.0 * minutes)
    took_s, completed = run(duration_s, warm_up_s)
    simulated_s = duration_s - warm_up_s
    week_min = took_s * WEEK_S / simulated_s / 60.0
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    print(
        f"{label}: {simulated_s} s of {SERVERS} servers, {completed} requests in {took_s:.1f} s: "
        f"{completed / took_s / 1e6:.2f} M/s, {1e9 * took_s / completed:.0f} ns each; "
        f"the week {'took' if whole else 'would take'} {week_min:.1f} min; peak {peak_mb:.0f} MB",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated, after a warm-up")
    parser.add_argument("--whole", action="store_true", help="the whole week")
    parser.add_argument("--only", choices=("caps", "cores"))
    chosen = parser.parse_args()
    if chosen.only != "cores":
        measure("caps from an array", capped, chosen.minutes, whole=chosen.whole)
    if chosen.only != "caps":
        measure("the real cores", closed, chosen.minutes, whole=chosen.whole)


if __name__ == "__main__":
    main()
