"""Kinds of servers and small drawn clusters under our own rules."""

import random
from dataclasses import dataclass

import numpy as np

from policies.models.iteration import IterationModel
from sim_backend.pools.kinds import Kind, kind_of_profile
from sim_backend.pools.pools import Pools
from sim_backend.pools.setup import KvLink, Setup
from sim_backend.profile import load_profile
from tests.twin.chunk_twin import ChunkTwin
from tests.twin.peer_cases import Listed

PROFILE = load_profile("dgx-h100__bloom-176b")
AFFINE = kind_of_profile(PROFILE)
MODEL = IterationModel(
    host_s=0.002,
    host_per_request_s=2e-5,
    link_s=0.003,
    link_per_token_s=1e-6,
    linear_compute_s=0.001,
    linear_compute_per_token_s=8e-5,
    linear_memory_s=np.array([0.0, 0.012, 0.014, 0.015]),
    linear_memory_per_token_s=1e-7,
    attention_compute_per_pair_s=2e-9,
    attention_memory_per_context_s=6e-8,
    attention_compute_per_context_s=1e-8,
    overlap=0.9,
    memory_knee=0.5,
    gpus=4,
    idle_w=110.0,
    active_w=150.0,
    compute_w=350.0,
    memory_w=180.0,
    exponent=2.2,
    head_memory_s=4e-4,
    head_compute_per_request_s=1e-6,
    state_memory_per_request_s=3e-6,
    window_tokens=150.0,
    window_share=0.5,
    busy_per_request_s=5e-6,
    host_exponent=0.8,
    unpack_ratio=0.3,
    prompt_s=0.001,
    voltage_floor=0.5,
)
TWO_RESOURCES = Kind(
    name="two resources",
    kv_tokens=60_000.0,
    max_batch=64,
    max_batch_tokens=1024,
    gpus=MODEL.gpus,
    other_w=900.0,
    min_clock_ratio=0.2,
    iteration=MODEL,
)


@dataclass(frozen=True)
class Case:
    setup: Setup
    rows: list[tuple[float, int, int]]
    clock_ratio: float

    def twin(self) -> ChunkTwin:
        setup = self.setup
        kinds = [setup.kinds[kind] for kind in setup.kind]
        return ChunkTwin(kinds, setup.role, setup.link, self.clock_ratio, setup.cached_share)

    def pools(self) -> Pools:
        pools = Pools(self.setup, Listed(self.rows))
        pools.keep_record()
        servers = len(self.setup.kind)
        pools.set_caps(np.full(servers, self.clock_ratio), np.full(servers, np.inf))
        return pools


def sized(kind: Kind, draw: random.Random) -> Kind:
    """The same kind, so small that memory, batch and budget matter."""
    return Kind(
        name=kind.name,
        kv_tokens=float(draw.choice([3500, 9000, 60_000])),
        max_batch=draw.choice([2, 5, 64]),
        max_batch_tokens=draw.choice([64, 300, 2048]),
        gpus=kind.gpus,
        other_w=kind.other_w,
        min_clock_ratio=kind.min_clock_ratio,
        mixed_factor=1.05,
        profile=kind.profile,
        iteration=kind.iteration,
        stages=draw.choice([1, 2]) if kind.iteration is not None else 1,
    )


def drawn_case(seed: int) -> Case:
    draw = random.Random(seed)
    servers = draw.randint(1, 5)
    roles = ["mixed"] * servers
    if servers > 1 and draw.random() < 0.6:
        prompts = draw.randint(1, servers - 1)
        roles = ["prompt"] * prompts + ["token"] * (servers - prompts)
    kind = sized(draw.choice([AFFINE, TWO_RESOURCES]), draw)
    link = KvLink(1e5, draw.choice([1e8, 1e10]), draw.choice([0.0, 0.004])) if "token" in roles else None
    rate, longest, most = draw.choice([0.5, 3.0, 20.0]), draw.choice([60, 1500, 3000]), draw.choice([3, 40, 300])
    rows = []
    time_s = 0.5
    for _ in range(draw.randint(5, 120)):
        time_s += draw.choice([0.0, draw.expovariate(rate)])
        rows.append((time_s, draw.randint(1, longest), draw.randint(1, most)))
    setup = Setup([kind], [0] * servers, roles, link, cached_share=draw.choice([0.0, 0.0, 0.35]))
    return Case(setup, rows, draw.choice([1.0, 0.7, 0.3]))
