"""The plant alone: work W on 40 servers, 25 times W on 1,000, and what a call into it costs.

W is 19,366 recorded requests on 40 DGX-H100 under BLOOM-176B, one priority, with the clock cap of every server
changing every second. Reading the trace and making the caps is not in the times. Medians of repeated runs and the best
of them, one core.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sim_backend.arrivals import Arrivals, Load, TraceArrivals
from sim_backend.plant import Plant
from sim_backend.profile import load_profile
from sim_backend.result import Vec
from telemetry.request_trace import read_request_trace

TRACE = Path("peer-simulator-runs") / "traces" / "azure_conv_x12.csv.gz"
SERVERS = 40
COPIES = 25
REPEATS = 15
DRAIN_S = 120
"""After the last arrival, for the last request to end under the deepest of the caps."""
CALLS = 20_000
# Requests per second of the best public simulator on these requests (NVIDIA Dynamo's replay, Rust, no power), and of
# the phase-splitting reference (splitwise-sim), each on one core.
PUBLIC_RUST_RPS = 6_130
SPLITWISE_SIM_RPS = 694


class Held:
    """Requests that are in memory already."""

    def __init__(self, source: TraceArrivals) -> None:
        self.duration_s = source.duration_s
        self._blocks = list(source.blocks())

    def blocks(self) -> Iterator[Arrivals]:
        """As they were read."""
        return iter(self._blocks)


def requests_of_w(copies: int) -> Held:
    """The recording, and shifted copies of it; docs/data.md says how to rebuild it."""
    recordings = os.environ.get("OVERWATT_DATA")
    if recordings is None or not (Path(recordings) / TRACE).exists():
        sys.exit("plant_bench: set OVERWATT_DATA to the recordings; docs/data.md says how to make them")
    with read_request_trace(Path(recordings) / TRACE) as trace:
        return Held(TraceArrivals(trace, Load(factor=float(copies), low_share=1.0)))


def plant_of(source: Held, servers: int) -> Plant:
    profile = load_profile("dgx-h100__bloom-176b")
    return Plant([profile], np.zeros(servers, np.int64), np.zeros(servers, np.int8), source, {})


def caps(source: Held, servers: int) -> Vec:
    return np.random.default_rng(0).uniform(0.7, 1.0, (int(source.duration_s) + DRAIN_S, servers))


def scheduled(source: Held, servers: int, clocks: Vec) -> tuple[float, int]:
    """Seconds of one compiled loop over all steps, and requests completed."""
    plant = plant_of(source, servers)
    began_s = time.perf_counter()
    plant.run_schedule(clocks)
    return time.perf_counter() - began_s, int(plant.stats.completed.sum())


def stepped(source: Held, servers: int, clocks: Vec) -> tuple[float, int]:
    """The same, driven from Python second by second."""
    plant = plant_of(source, servers)
    no_limit_w = np.full(servers, np.inf)
    began_s = time.perf_counter()
    for step, clock_ratio in enumerate(clocks):
        plant.set_caps(clock_ratio, no_limit_w)
        plant.advance(step + 1.0)
        plant.take_mean_w()
    return time.perf_counter() - began_s, int(plant.stats.completed.sum())


def repeated(run: Callable[[], tuple[float, int]], repeats: int = REPEATS) -> tuple[list[float], int]:
    """Seconds of each run after one to warm up, and requests completed."""
    _, completed = run()
    return [run()[0] for _ in range(repeats)], completed


def call_us(call: Callable[[], object]) -> float:
    call()
    began_s = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - began_s) / CALLS


def report(label: str, runs_s: list[float], completed: int) -> tuple[float, float]:
    """Print one line; returns nanoseconds per request, median and least: what lies between them is the machine."""
    took_s, least_s = statistics.median(runs_s), min(runs_s)
    rate_rps = completed / took_s
    print(
        f"{label:<44} {1e3 * took_s:7.2f} ms  {completed:7d} requests  {rate_rps / 1e6:5.2f} M/s "
        f"(best {completed / least_s / 1e6:5.2f})  {1e9 / rate_rps:4.0f} ns each "
        f"(best {1e9 * least_s / completed:4.0f})  "
        f"{rate_rps / PUBLIC_RUST_RPS:4.0f} x public Rust  {rate_rps / SPLITWISE_SIM_RPS:5.0f} x splitwise-sim"
    )
    return 1e9 / rate_rps, 1e9 * least_s / completed


def main() -> None:
    """Measure and print."""
    w, more = requests_of_w(1), requests_of_w(COPIES)
    clocks, more_clocks = caps(w, SERVERS), caps(more, COPIES * SERVERS)
    free = np.ones_like(clocks)
    few_ns = report("W, 40 servers, a new cap each second", *repeated(lambda: scheduled(w, SERVERS, clocks)))
    report("W, 40 servers, no caps", *repeated(lambda: scheduled(w, SERVERS, free)))
    report("W, 40 servers, driven from Python each second", *repeated(lambda: stepped(w, SERVERS, clocks)))
    many_ns = report(
        "25 x W, 1,000 servers, a new cap each second",
        *repeated(lambda: scheduled(more, COPIES * SERVERS, more_clocks), REPEATS // 3),
    )
    ratios = [many / few for many, few in zip(many_ns, few_ns, strict=True)]
    print(f"cost per request at 1,000 servers over that at 40: {ratios[0]:.2f} (best {ratios[1]:.2f})")
    plant = plant_of(w, SERVERS)
    plant.advance(0.0)
    one, none = np.ones(SERVERS), np.full(SERVERS, np.inf)
    print(f"a call that advances nothing: {call_us(lambda: plant.advance(plant.now_s)):.2f} us")
    print(f"a call that changes no cap: {call_us(lambda: plant.set_caps(one, none)):.2f} us")


if __name__ == "__main__":
    main()
