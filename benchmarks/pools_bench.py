"""The pools: how fast, how close to the published runs, and what each rule changes on the way from those to ours.

Requests are the 19,366 of the Azure 2023 conversation trace, twelve times as fast as recorded, on 40 DGX-H100 under
BLOOM-176B. `speed`: with the power of every server and a new clock cap for it each second, reading the trace and making
the caps not in the times, best of several runs on one core. `peer`: the published rules. `ladder`: from these to ours,
one at a time, at less load.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sim_backend.arrivals import Arrivals, Load, TraceArrivals
from sim_backend.histogram import quantile
from sim_backend.pools.kinds import kind_of_profile
from sim_backend.pools.peer_runs import PEER_MODELS, peer_setup
from sim_backend.pools.pools import Pools
from sim_backend.pools.semantics import DEFAULT, PEER, Semantics
from sim_backend.pools.setup import KvLink, Setup
from sim_backend.profile import load_profile
from telemetry.request_trace import read_request_trace

TRACES = Path("peer-simulator-runs") / "traces"
TRACE = TRACES / "azure_conv_x12.csv.gz"
RECORDED = TRACES / "azure_conv_x1.csv.gz"
LADDER_COPIES = (6.0, 9.0)
"""Times the recorded rate. By our rules more than that is more than 15 servers can decode."""
PROFILE = Path("splitwise-perf-model")
SERVERS = 40
REPEATS = 7
DRAIN_S = 120
LINK_BYTES_PER_S = 50e9
"""One 400 Gbit/s port for each server, as DGX-H100 would share by 8 GPUs were it the only one."""
LINK_LATENCY_S = 1e-3
MODEL = "bloom-176b"
LADDERS = {
    "disaggregated": [("h100-80gb", 25, "prompt"), ("h100-80gb", 15, "token")],
    "collocated": [("h100-80gb", 40, "mixed")],
}
# Each rule in turn; those that need each other change together.
STEPS: list[dict[str, object]] = [
    {},
    {"decode_key": "context"},
    {"mixed_factor": 0.0},
    {"kv": "whole"},
    {"pool_moves": False},
    {"second_choice": "after_prefill"},
    {"link": "shared"},
    {"router": "outstanding"},
    {"events": "servers_first"},
    {"batching": "chunked"},
]


class Held:
    """Requests that are in memory already."""

    def __init__(self, source: TraceArrivals) -> None:
        self.duration_s = source.duration_s
        self._blocks = list(source.blocks())

    def blocks(self) -> Iterator[Arrivals]:
        """As they were read."""
        return iter(self._blocks)


def recordings() -> Path:
    folder = os.environ.get("OVERWATT_DATA")
    if folder is None or not (Path(folder) / TRACE).exists():
        sys.exit("pools_bench: set OVERWATT_DATA to the recordings; docs/data.md says how to make them")
    return Path(folder)


def requests(copies: float = 1.0, trace_name: Path = TRACE) -> Held:
    with read_request_trace(recordings() / trace_name) as trace:
        return Held(TraceArrivals(trace, Load(factor=copies, low_share=1.0)))


def run_s(setup: Setup, source: Held, clocks: np.ndarray) -> float:
    """Seconds of one run."""
    pools = Pools(setup, source)
    began_s = time.process_time()
    pools.run_schedule(clocks)
    lasts_s = time.process_time() - began_s
    assert pools.in_flight.sum() == 0, "not all requests were served: the figures would flatter"
    return lasts_s


def speed() -> None:
    source = requests()
    kind = kind_of_profile(load_profile("dgx-h100__bloom-176b"))
    link = KvLink(float(PEER_MODELS[MODEL].kv_bytes_per_token), LINK_BYTES_PER_S, LINK_LATENCY_S)
    clocks = np.random.default_rng(0).uniform(0.7, 1.0, (int(source.duration_s) + DRAIN_S, SERVERS))
    layouts = {
        "chunked prefill, 40 servers": (["mixed"] * SERVERS, None),
        "disaggregated, 16 + 24 servers": (["prompt"] * 16 + ["token"] * 24, link),
    }
    count = sum(len(block) for block in source.blocks())
    for name, (roles, over) in layouts.items():
        setup = Setup([kind], [0] * SERVERS, roles, over)
        best_s = min(run_s(setup, source, clocks) for _ in range(REPEATS))
        print(f"{name:34} {count / best_s:12,.0f} requests/s with 1 s power and a cap per server and second")


def shown(pools: Pools) -> str:
    """Percentiles of a run."""
    stats = pools.stats
    cells = []
    for counts in (stats.ttft_s, stats.tbt_s, stats.e2e_s):
        cells += [f"{quantile(counts.sum(axis=0), share):9.4f}" for share in (0.5, 0.99)]
    return " ".join(cells) + f" {pools.transfers:7d} {int(pools.in_flight.sum()):7d}"


def ladder(name: str, copies: float) -> None:
    source = requests(copies, RECORDED)
    rules: Semantics = PEER
    power = {"h100-80gb": load_profile("dgx-h100__bloom-176b")}
    print(f"{f'{name}, {copies:g} x':28} ttft p50     p99   tbt p50     p99   e2e p50     p99    sent   stuck")
    for changed in STEPS:
        if name == "collocated" and changed.keys() & {"pool_moves", "second_choice", "link"}:
            rules = replace(rules, **changed)  # type: ignore[arg-type]
            continue
        rules = replace(rules, **changed)  # type: ignore[arg-type]
        pools = Pools(peer_setup(recordings() / PROFILE, MODEL, LADDERS[name], rules, power), source)
        pools.drain()
        print(f"{'; '.join(f'{k} = {v}' for k, v in changed.items()) or 'the published rules':28} {shown(pools)}")
    assert replace(rules, max_batch=0, max_batch_tokens=0) == DEFAULT


def peer() -> None:
    source = requests()
    for name, groups in LADDERS.items():
        took_s = []
        for _ in range(REPEATS):
            pools = Pools(peer_setup(recordings() / PROFILE, MODEL, groups), source)
            began_s = time.process_time()
            pools.drain()
            took_s.append(time.process_time() - began_s)
        print(f"published rules, {name:17} {19_366 / min(took_s):12,.0f} requests/s")


if __name__ == "__main__":
    asked = sys.argv[1:] or ["speed", "peer"]
    if "speed" in asked:
        speed()
    if "peer" in asked:
        peer()
    if "ladder" in asked:
        for each in LADDERS:
            for copies in LADDER_COPIES:
                ladder(each, copies)
