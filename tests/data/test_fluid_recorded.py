"""The screening tier on recorded requests, against the request tier on the very same ones."""

from pathlib import Path

import numpy as np
import pytest

from sim_backend.arrivals import Load, TraceArrivals
from sim_backend.fluid import Demand, ServerClass, run_fluid
from sim_backend.plant import Plant
from sim_backend.profile import load_profile
from telemetry.request_trace import read_request_trace

TRACE = Path("peer-simulator-runs") / "traces" / "azure_conv_x12.csv.gz"
FILLING_S = 30
SERVERS = 40


@pytest.mark.data
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("low_clock", [1.0, 0.7])
def test_row_power_of_w_is_that_of_the_request_tier(recordings: Path, copies: int, low_clock: float):
    """Mean within 1 %, 99th percentile within 3 %, under priorities and clock caps."""
    profile = load_profile("dgx-h100__bloom-176b")
    half = copies * SERVERS // 2
    classes = [ServerClass(half, profile, 0), ServerClass(half, profile, 1)]
    kind = np.repeat([0, 1], half)
    with read_request_trace(recordings / TRACE) as trace:
        source = TraceArrivals(trace, Load(factor=float(copies), low_share=0.5, seed=1))
        seconds = int(source.duration_s)
        caps = np.ones((seconds, 2))
        caps[seconds // 2 :, 0] = low_clock
        plant = Plant([profile, profile], kind, kind, source, {})
        exact_w = plant.run_schedule(caps[:, kind]).sum(axis=1)[FILLING_S:]
        demand = Demand.of_source(source)
    found_w = run_fluid(classes, Demand(demand.types, demand.counts[:seconds]), clock_ratio=caps).drawn_w
    found_w = found_w.sum(axis=1)[FILLING_S:]
    assert found_w.mean() == pytest.approx(exact_w.mean(), rel=0.01)
    assert np.quantile(found_w, 0.99) == pytest.approx(np.quantile(exact_w, 0.99), rel=0.03)
    assert np.corrcoef(found_w, exact_w)[0, 1] > 0.7
