"""The exponent of an H200's clock, from one server's throughput without and with a lowered power limit."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from policies.models.clocks import Work, clock_under, slowdown
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.power_law import power_law
from sim_backend.fidelity.check import halves

FILE = Path("mlperf-inference-v4.1-h200") / "cap_vs_throughput.csv"
FULL_W = 700.0
CARD = "h200-sxm"
"""Gives watts, overlap and knee, from the recording of single operations; the exponent is fitted here."""
SATURATED = Work(compute_s=0.85, memory_s=0.15)
"""What a saturated server does, of both models: nearly all the time its pipes work.

llama2-70b Offline: 31,303 generated and as many prompt tokens per second are 8.6 PFLOP/s, 0.55 of the FP8 peak of the
eight GPUs or 0.84 of the time at the efficiency of 0.65 that large FP8 products reach; reading weights and KV cache at
4.8 TB/s takes 0.12 of it. Not counted for gptj, whose smaller products are less efficient: the same mix is taken.
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """Throughput under a limit over that at `FULL_W`."""

    workload: str
    limit_w: float
    kept: float
    fitted: bool


def read_losses(data: Path) -> list[Loss]:
    """The four recorded pairs; a fit sees those of the Offline scenario, as `halves` deals them."""
    with (data / FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    full = {_name(row): float(row["tokens_per_s"]) for row in rows if float(row["gpu_power_limit_w"]) == FULL_W}
    below = [row for row in rows if float(row["gpu_power_limit_w"]) < FULL_W]
    limited = sorted(((_name(row), row) for row in below), key=lambda pair: pair[0])
    seen = halves([name for name, _ in limited])
    return [
        Loss(name, float(row["gpu_power_limit_w"]), float(row["tokens_per_s"]) / full[name], bool(half))
        for (name, row), half in zip(limited, seen, strict=True)
    ]


def _name(row: dict[str, str]) -> str:
    return f"{row['workload']} {row['scenario']}"


def kept(exponent: float, limit_w: float) -> float:
    """Throughput under `limit_w` over that at `FULL_W`, as the model has it."""
    law = replace(power_law(load_gpu(CARD)), exponent=exponent)
    limited, full = slowdown(law, SATURATED, clock_under(law, SATURATED, np.array([limit_w, FULL_W])))
    return float(full / limited)


def fit(data: Path) -> float:
    """The exponent between 1 and 4, to 0.05, that gives the losses of the fitted pairs best."""
    seen = [loss for loss in read_losses(data) if loss.fitted]
    exponents = np.round(np.arange(1.0, 4.0, 0.05), 2)
    off = [sum((kept(float(n), loss.limit_w) - loss.kept) ** 2 for loss in seen) for n in exponents]
    return float(exponents[int(np.argmin(off))])
