"""Small clusters in trouble: little memory, short queues, equal times; and the published runs by name."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sim_backend.arrivals import Arrivals
from sim_backend.pools.kinds import Kind, SpeedTable
from sim_backend.pools.pools import Pools
from sim_backend.pools.semantics import PEER
from sim_backend.pools.setup import KvLink, Setup
from tests.twin.peer_twin import Limits, PeerTwin, Speed

H100, A100, CAPPED = "h100-80gb", "a100-80gb", "h100-80gb-pcap"
RUNS = {
    "baseline_h100_40__azure_conv_x1": [(H100, 40, "mixed")],
    "baseline_h100_40__azure_conv_x12": [(H100, 40, "mixed")],
    "baseline_a100_70__azure_conv_x12": [(A100, 70, "mixed")],
    "hh_25_15__azure_conv_x12": [(H100, 25, "prompt"), (H100, 15, "token")],
    "aa_45_25__azure_conv_x1": [(A100, 45, "prompt"), (A100, 25, "token")],
    "ha_25_26__azure_conv_x12": [(A100, 26, "token"), (H100, 25, "prompt")],
    "hhcap_30_10__azure_conv_x12": [(CAPPED, 10, "token"), (H100, 30, "prompt")],
}
LINK_BYTES_PER_S = 2e4
TABLES = (
    SpeedTable(
        np.array([128.0, 512.0, 2048.0, 8192.0]),
        np.array([0.05, 0.08, 0.25, 1.4]),
        np.array([0.03, 0.031, 0.032, 0.033]),
    ),
    SpeedTable(np.array([128.0, 1024.0, 4096.0]), np.array([0.08, 0.2, 1.0]), np.array([0.044, 0.045, 0.049])),
)


@dataclass(frozen=True)
class Listed:
    """Arrivals that are a list already: seconds, prompt, output."""

    rows: list[tuple[float, int, int]]

    @property
    def duration_s(self) -> float:
        return self.rows[-1][0] + 1.0

    def blocks(self) -> Iterator[Arrivals]:
        times_s, prompts, outputs = zip(*self.rows, strict=True)
        zeros = np.zeros(len(self.rows), np.int8)
        yield Arrivals(np.array(times_s), np.array(prompts, np.int32), np.array(outputs, np.int32), zeros)


@dataclass(frozen=True)
class Case:
    roles: list[str]
    kinds: list[int]
    limits: Limits
    rows: list[tuple[float, int, int]]

    def twin(self) -> PeerTwin:
        speeds = [Speed(tuple(t.tokens), tuple(t.prefill_s), tuple(t.decode_s)) for t in TABLES]
        homes = ["" if role == "mixed" else role for role in self.roles]
        return PeerTwin([speeds[kind] for kind in self.kinds], homes, self.limits)

    def pools(self) -> Pools:
        limits = self.limits
        kinds = [
            Kind(
                name=f"table {index}",
                kv_tokens=float(limits.memory_bytes),
                max_batch=limits.batch,
                max_batch_tokens=limits.batch_tokens,
                table=table,
            )
            for index, table in enumerate(TABLES)
        ]
        rules = replace(
            PEER,
            max_batch=limits.batch,
            max_batch_tokens=limits.batch_tokens,
            max_passed_over=limits.passed_over,
            max_queue_tokens=limits.prompt_queue_tokens,
        )
        link = KvLink(1.0, LINK_BYTES_PER_S) if "token" in self.roles else None
        pools = Pools(Setup(kinds, self.kinds, self.roles, link, rules), Listed(self.rows))
        pools.keep_record()
        return pools


def drawn_case(seed: int) -> Case:
    """A cluster and its requests, all of them small, some of them at the same time."""
    draw = random.Random(seed)
    servers = draw.randint(1, 6)
    roles = ["mixed"] * servers
    if servers > 1 and draw.random() < 0.7:
        prompts = draw.randint(1, servers - 1)
        roles = ["prompt"] * prompts + ["token"] * (servers - prompts)
    limits = Limits(
        batch=draw.choice([2, 4, 8, 64, 512]),
        batch_tokens=draw.choice([64, 512, 2048]),
        passed_over=draw.choice([1, 2, 4]),
        prompt_queue_tokens=draw.choice([500, 3000, 8192]),
        memory_bytes=draw.choice([3000, 6000, 20_000, 1_000_000]),
        weight_bytes=0,
        token_bytes=1,
        link_bytes_per_s=LINK_BYTES_PER_S,
    )
    rate, longest, most = draw.choice([1, 5, 20, 100]), draw.choice([50, 1500, 2900]), draw.choice([5, 60, 300])
    rows = []
    time_s = 1.0
    for _ in range(draw.randint(20, 300)):
        time_s += draw.choice([0.0, draw.expovariate(rate)])
        prompt = draw.randint(1, longest)
        rows.append((time_s, prompt, min(draw.randint(2, most), max(2, limits.memory_bytes - prompt - 5))))
    return Case(roles, [draw.randint(0, 1) for _ in roles], limits, rows)
