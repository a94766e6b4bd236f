"""Work W: 19,366 requests on 40 DGX-H100, power at 1 s, caps changing; ends in one JSON line.

`requests_per_s` is the plant alone with caps from an array, `requests_per_s_with_cores` the closed loop with the real
cores at 1 s, `wall_s` and `peak_mb` the whole command with its outputs written. Medians; one core.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from daemon.config import load_site
from sim_backend.arrivals import ArrivalSource
from sim_backend.closed_loop import ClosedLoop, RunSpec
from sim_backend.fleet import build_servers
from sim_backend.plant import Plant
from sim_backend.site import Guarantee
from sim_backend.workload import Workload

REPEATS = 7
SITE = Path(__file__).parent.parent / "docs" / "examples" / "work-w.toml"
CHECK_EVERY = 60
"""Steps between checks of the invariants, as everywhere in benchmarks."""


def trace_of_w() -> Path:
    """Where the recording lies; docs/data.md says how to rebuild it."""
    data = os.environ.get("OVERWATT_DATA")
    trace = Path(data) / "peer-simulator-runs" / "traces" / "azure_conv_x12.csv.gz" if data else None
    if trace is None or not trace.exists():
        sys.exit("bench-w: set OVERWATT_DATA to the recordings; docs/data.md says how to make them")
    return trace


def median_s(run: Callable[[], float]) -> float:
    """Median of what `run` says it took, after one run to warm up."""
    run()
    return statistics.median(run() for _ in range(REPEATS))


class Drained:
    """A workload with time added at its end, so that every request of W is served to its last token."""

    DRAIN_S = 60

    def __init__(self, source: ArrivalSource) -> None:
        """Add to `source`."""
        self.duration_s = source.duration_s + self.DRAIN_S
        self.blocks = source.blocks


def plant_s(trace: Path) -> tuple[float, int]:
    """Seconds for the plant with caps changing each second, and the requests it completed."""
    site = load_site(SITE)
    servers = build_servers(site, 0.0)
    workload = Workload(str(trace), 0, None, 0.0, 1.0, 1.0, site.low_share, {}, servers.count)
    completed = 0

    def run() -> float:
        nonlocal completed
        source = Drained(workload.source(servers.count))
        clocks = np.random.default_rng(0).uniform(0.7, 1.0, (int(source.duration_s), servers.count))
        plant = Plant(servers.profiles, servers.sku, servers.priority, source, site.slo)
        began_s = time.perf_counter()
        plant.run_schedule(clocks)
        took_s = time.perf_counter() - began_s
        completed = int(plant.stats.completed.sum())
        return took_s

    return median_s(run), completed


def cores_s(trace: Path) -> tuple[float, int, int]:
    """Seconds for the closed loop under POLCA, requests completed, and cap commands sent."""
    site = load_site(SITE)
    servers = build_servers(site, 0.0)
    workload = Workload(str(trace), 0, None, 0.0, 1.0, 1.0, site.low_share, {}, servers.count)
    completed = sent = 0

    def run() -> float:
        nonlocal completed, sent
        spec = RunSpec(site, "polca", Guarantee.REACTIVE, 0.0, 0, CHECK_EVERY)
        loop = ClosedLoop(spec, servers, Drained(workload.source(servers.count)))
        began_s = time.perf_counter()
        loop.run()
        took_s = time.perf_counter() - began_s
        completed, sent = int(loop.plant.stats.completed.sum()), loop.actuators.sent
        return took_s

    return median_s(run), completed, sent


def command_cost(trace: Path) -> tuple[float, float]:
    """Wall seconds and peak memory [MB] of the whole command, outputs written."""
    peaks: list[float] = []

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            argv = [sys.executable, "-m", "daemon.cli", "replay", "--requests", str(trace), "--site", str(SITE)]
            argv += ["--policy", "polca", "--add-servers", "0"]
            argv += ["--json", str(out / "w.json"), "--html", str(out / "w.html")]
            began_s = time.perf_counter()
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as command:
                _, status, usage = os.wait4(command.pid, 0)
                command.returncode = os.waitstatus_to_exitcode(status)
            took_s = time.perf_counter() - began_s
            if command.returncode != 0 or not (out / "w.html").exists():
                sys.exit(f"bench-w: the command failed with status {command.returncode}")
            peaks.append(usage.ru_maxrss / 1024.0)
        return took_s

    return median_s(run), max(peaks)


def main() -> None:
    """Measure and print."""
    trace = trace_of_w()
    plant_took_s, requests = plant_s(trace)
    print(f"plant alone, caps from an array: {requests} requests in {1e3 * plant_took_s:.1f} ms")
    cores_took_s, with_cores, sent = cores_s(trace)
    print(f"with the real cores at 1 s: {with_cores} requests in {1e3 * cores_took_s:.1f} ms, {sent} caps sent")
    wall_s, peak_mb = command_cost(trace)
    print(f"whole command, outputs written: {wall_s:.2f} s, {peak_mb:.0f} MB")
    figures = {
        "requests_per_s": round(requests / plant_took_s),
        "wall_s": round(wall_s, 3),
        "peak_mb": round(peak_mb, 1),
        "requests_per_s_with_cores": round(with_cores / cores_took_s),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
