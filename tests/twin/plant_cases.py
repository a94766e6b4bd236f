"""Small fleets and lists of requests for tests of the plant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policies.models.iteration import IterationModel
from sim_backend.arrivals import Arrivals
from sim_backend.plant import Plant
from sim_backend.profile import Profile
from sim_backend.site import Slo
from tests.twin.engine_twin import Request, Server, TwinPlant

# Round figures of the size of a DGX-H100 under a large model; tests depend on no value.
PROFILE = Profile(
    name="test server",
    gpus=8,
    tdp_w=700.0,
    idle_w=90.0,
    max_mhz=1980.0,
    min_mhz=210.0,
    min_limit_w=200.0,
    nameplate_w=10_200.0,
    other_w=2_000.0,
    other_max_w=2_500.0,
    overshoot_ratio=1.1,
    kv_tokens=50_000,
    max_batch=64,
    max_batch_tokens=2_048,
    mixed_batch_factor=1.1,
    prefill_base_s=0.027,
    prefill_per_token_s=9.0e-5,
    prefill_per_token2_s=9.7e-9,
    prefill_clock_share=0.9,
    decode_base_s=0.0355,
    decode_per_request_s=2.0e-4,
    decode_per_context_s=2.5e-7,
    decode_clock_share=0.2,
    prefill_at_128=0.55,
    prefill_per_octave=0.1,
    prefill_ceiling=1.05,
    decode_ratio=0.5,
    prefill_static_share=0.3,
    prefill_exponent=2.2,
    decode_static_share=0.45,
    decode_exponent=1.7,
)
# Small enough that every limit of the engine is met, slow enough in context that closed forms are put to the test.
TIGHT = replace(
    PROFILE,
    name="tight server",
    kv_tokens=1_500,
    max_batch=5,
    max_batch_tokens=500,
    mixed_batch_factor=1.23,
    decode_per_context_s=3.1e-5,
    decode_per_request_s=1.7e-3,
    idle_w=130.0,
)
# Two resources: decodes bound by memory, prefills by compute, with every term of the model in play.
MODEL = IterationModel(
    host_s=2.1e-3,
    host_per_request_s=4.0e-5,
    link_s=1.3e-3,
    link_per_token_s=3.0e-7,
    linear_compute_s=4.0e-4,
    linear_compute_per_token_s=6.2e-5,
    linear_memory_s=np.array([0.010, 0.011, 0.013, 0.016, 0.020]),
    linear_memory_per_token_s=1.0e-6,
    attention_compute_per_pair_s=9.0e-9,
    attention_memory_per_context_s=1.6e-7,
    attention_compute_per_context_s=2.0e-8,
    overlap=0.85,
    memory_knee=0.55,
    gpus=8,
    idle_w=95.0,
    active_w=140.0,
    compute_w=330.0,
    memory_w=120.0,
    exponent=2.1,
    head_memory_s=3.0e-4,
    head_compute_per_request_s=5.0e-6,
    state_memory_per_request_s=1.0e-5,
    busy_per_request_s=2.0e-5,
    host_exponent=0.8,
    unpack_ratio=0.3,
    voltage_floor=0.5,
    prompt_s=1.5e-3,
)
MODELLED = replace(TIGHT, name="modelled server", iteration=MODEL, limiter_s=1.0)
# At full clock it never draws more than TDP, so that without a limit nothing is regulated.
REGULATED = replace(TIGHT, name="regulated server", prefill_ceiling=1.0, limiter_s=0.7)
NO_SLO: Mapping[str, Slo] = {}


class ListSource:
    """Requests given outright, in blocks of `rows`."""

    def __init__(self, arrivals: Arrivals, duration_s: float, rows: int = 7) -> None:
        self.arrivals = arrivals
        self.duration_s = duration_s
        self.rows = rows

    def blocks(self) -> Iterator[Arrivals]:
        whole = self.arrivals
        for start in range(0, len(whole), self.rows):
            rows = slice(start, start + self.rows)
            yield Arrivals(
                whole.arrival_s[rows], whole.prompt_tokens[rows], whole.output_tokens[rows], whole.priority[rows]
            )


def requests(
    arrival_s: Sequence[float] | NDArray[np.floating],
    prompt: int | Sequence[int] | NDArray[np.integer] = 500,
    output: int | Sequence[int] | NDArray[np.integer] = 20,
    priority: int | Sequence[int] | NDArray[np.integer] = 0,
) -> Arrivals:
    times = np.asarray(arrival_s, np.float64)
    return Arrivals(
        times,
        np.broadcast_to(prompt, times.shape).astype(np.int32),
        np.broadcast_to(output, times.shape).astype(np.int32),
        np.broadcast_to(priority, times.shape).astype(np.int8),
    )


def plant_of(
    arrivals: Arrivals,
    profile: Profile = PROFILE,
    *,
    servers: int = 1,
    rows: int = 7,
    priority: NDArray[np.integer] | None = None,
    slo: Mapping[str, Slo] = NO_SLO,
) -> Plant:
    """Equal servers that keep a record, for low priority unless said otherwise."""
    if priority is None:
        priority = np.zeros(servers, np.int8)
    source = ListSource(arrivals, 1e9, rows)
    plant = Plant([profile], np.zeros(servers, np.int64), priority, source, slo)
    plant.keep_record()
    return plant


def random_requests(rng: np.random.Generator, count: int, mean_gap_s: float, longest: int) -> Arrivals:
    # Some arrive at the very same time.
    gaps_s = rng.exponential(mean_gap_s, count) * (rng.random(count) < 0.9)
    return requests(
        np.cumsum(gaps_s),
        rng.integers(1, longest, count),
        np.minimum(rng.geometric(0.04, count), longest),
        rng.integers(0, 2, count),
    )


def twin_of(arrivals: Arrivals, profiles: Sequence[Profile], priority: NDArray[np.integer]) -> TwinPlant:
    servers = [Server(i, profile, int(priority[i])) for i, profile in enumerate(profiles)]
    columns = zip(arrivals.arrival_s, arrivals.prompt_tokens, arrivals.output_tokens, arrivals.priority, strict=True)
    return TwinPlant(servers, [Request(i, float(t), int(a), int(b), int(c)) for i, (t, a, b, c) in enumerate(columns)])
