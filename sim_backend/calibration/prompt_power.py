"""What an A100 draws at the peak of a prompt, from the prompt's size: the roofline's power law, and the log law."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.models.gpu_power import prefill_ratio
from policies.models.roofline import busy_w, overlapped_s
from sim_backend.calibration.fits import ramp_fit, rounded
from sim_backend.calibration.least_squares import least_squares
from sim_backend.fidelity.check import halves

Floats = NDArray[np.float64]

FILE = Path("splitwise-perf-model") / "perf_model.csv.gz"
PARAMS = {"bloom-176b": 176e9, "llama2-70b": 69e9}
TDP_W = 400.0
IDLE_W = 60.0
"""An A100 with its clocks up (gpu-power-sensor: 59 W)."""
FLOPS, MEMORY_BYTES_PER_S = 312e12, 2.04e12
"""Data sheet, A100 SXM 80 GB, BF16."""
BYTES = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts measured on A100s, medians over repeats; each array by point."""

    layout: list[str]
    """Model and tensor parallel."""
    keys: list[str]
    tokens: Floats
    compute_s: Floats
    """Of the linear layers, at the data sheet's rate."""
    memory_s: Floats
    """Reading the weights, at the data sheet's rate."""
    peak_w: Floats

    def fitted(self) -> NDArray[np.bool_]:
        """The points a fit may see: every other setting."""
        return halves(self.keys)


def read_prompts(data: Path) -> Prompts:
    """The settings whose peak power was measured; zero stands for not measured.

    Batches of the same number of tokens in prompts of 512 and in one prompt are two settings.
    """
    peaks: dict[tuple[str, int, int, int], list[float]] = {}
    with gzip.open(data / FILE, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["hardware"] == "a100-80gb" and float(row["peak_power"]) > 0.0:
                prompt = int(row["prompt_size"])
                key = (row["model"], int(row["tensor_parallel"]), prompt * int(row["batch_size"]), prompt)
                peaks.setdefault(key, []).append(float(row["peak_power"]))
    chosen = sorted(peaks)
    tokens = np.array([float(key[2]) for key in chosen])
    share = np.array([PARAMS[key[0]] / key[1] for key in chosen])
    return Prompts(
        layout=[f"{key[0]} tp{key[1]}" for key in chosen],
        keys=["/".join(f"{part:>6}" for part in key) for key in chosen],
        tokens=tokens,
        compute_s=2.0 * share * tokens / FLOPS,
        memory_s=BYTES * share / MEMORY_BYTES_PER_S,
        peak_w=TDP_W * np.array([float(np.median(peaks[key])) for key in chosen]),
    )


@dataclass(frozen=True, slots=True)
class PromptPower:
    """Power of a GPU at the peak of a prompt, for any model and layout."""

    compute_w: float
    memory_w: float
    other_s: float
    """Of a prompt's time in which neither pipes nor memory work: launches, links, small kernels."""
    ceiling_w: float
    """What the limiter lets through in the sensor's 25 ms."""

    def peak_w(self, prompts: Prompts) -> Floats:
        """Watts of each prompt."""
        lasts_s = overlapped_s(prompts.compute_s, prompts.memory_s, 1.0) + self.other_s
        compute, memory = prompts.compute_s / lasts_s, prompts.memory_s / lasts_s
        drawn_w = busy_w(IDLE_W, 1.0, self.compute_w * compute, self.memory_w * memory)
        return np.minimum(drawn_w, self.ceiling_w)


_START = np.array([350.0, 150.0, 0.03, 410.0])
_LOW = np.array([0.0, 0.0, 0.001, 390.0])
_HIGH = np.array([600.0, 600.0, 0.2, 440.0])


def fit(prompts: Prompts) -> PromptPower:
    """The four numbers that give the peaks of the fitted half best, by relative error."""
    seen = prompts.fitted()

    def residuals(x: Floats) -> Floats:
        return (PromptPower(*x).peak_w(prompts) / prompts.peak_w - 1.0)[seen]

    return PromptPower(*(rounded(float(value), 3) for value in least_squares(residuals, _START, _LOW, _HIGH)))


def log_law_w(prompts: Prompts) -> Floats:
    """Watts by `gpu_power.prefill_ratio`, three numbers for each layout, fitted to the same half."""
    seen, layouts = prompts.fitted(), np.array(prompts.layout)
    model_w = np.empty_like(prompts.peak_w)
    for layout in sorted(set(prompts.layout)):
        own = layouts == layout
        octaves = np.log2(prompts.tokens[own & seen] / 128.0)
        values = ramp_fit(octaves, prompts.peak_w[own & seen] / TDP_W)
        model_w[own] = TDP_W * prefill_ratio(prompts.tokens[own], *values)
    return model_w
