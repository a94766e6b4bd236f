"""What a power limit costs: fits the power laws of GPUs to recorded sweeps of limits, and of an H200 to two limits."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.models.clocks import PowerLaw, Work, clock_under, slowdown
from sim_backend.calibration.fits import rounded
from sim_backend.calibration.least_squares import least_squares

Floats = NDArray[np.float64]

FOLDER = "power-cap-sweeps"
STOCK_W = {"RTX 3090": 370.0, "RTX 4090": 450.0}
"""The boards' limit as delivered; the speed there is what losses are counted from."""
MAX_MHZ = {"RTX 3090": 2100.0, "RTX 4090": 3105.0}
MIN_MHZ = 210.0
EXPONENT = 3.0
"""Voltage in proportion to the clock above its floor: not fitted."""
OVERLAP = 0.0
"""llama.cpp unpacks quantised weights before it multiplies: the two resources take turns. Not fitted."""
CLOCK_WEIGHT = 0.2
"""Of a relative error of the clock against an error of the speed; clocks were sampled once, in 15 MHz steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One workload on one GPU under rising limits."""

    workload: str
    limit_w: Floats
    drawn_w: Floats
    speed: Floats
    clock_mhz: Floats
    """NaN where it was not recorded."""
    stock: int
    """Index of the stock limit."""

    @property
    def kept(self) -> Floats:
        """Speed over that at the stock limit."""
        kept: Floats = self.speed / self.speed[self.stock]
        return kept

    @property
    def binding_w(self) -> Floats:
        """The limit, or less where the board's other limits hold the draw below it.

        Both boards draw a constant power over the last 30 to 200 W below their stock limit; a 3090 draws more again
        above it: its limits of single supply rails, which one number for the board does not describe.
        """
        return np.minimum(self.limit_w, float(np.median(self.drawn_w[self.stock - 2 : self.stock + 1])))


@dataclass(frozen=True, slots=True)
class CapFit:
    """A GPU's power law and the compute share of each workload's time at full clock."""

    law: PowerLaw
    compute: dict[str, float]

    def kept(self, sweep: Sweep) -> Floats:
        """Speed under each limit over that at the stock limit, as the model has it."""
        work = Work(self.compute[sweep.workload], 1.0 - self.compute[sweep.workload])
        took = slowdown(self.law, work, clock_under(self.law, work, sweep.binding_w))
        kept: Floats = took[sweep.stock] / took
        return kept


def read_sweeps(data: Path, gpu: str) -> list[Sweep]:
    """The sweeps of `gpu` ("RTX 3090" or "RTX 4090") up to its stock limit."""
    path = data / FOLDER / "llm_power_cap_rtx3090_4090.csv"
    rows: dict[str, list[list[float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["gpu"] == gpu and float(row["power_cap_w"]) <= STOCK_W[gpu]:
                name = f"{row['model'].split()[0]} {row['phase']}"
                cells = (row["power_cap_w"], row["actual_power_w"], row["tokens_per_s"], row["sm_clock_mhz"])
                rows.setdefault(name, []).append([float(cell) if cell else np.nan for cell in cells])
    return [_sweep(name, np.array(points)) for name, points in sorted(rows.items())]


def _sweep(name: str, points: Floats) -> Sweep:
    limit_w, drawn_w, speed, clock_mhz = points[np.argsort(points[:, 0])].T
    return Sweep(name, limit_w, drawn_w, speed, clock_mhz, len(limit_w) - 1)


def fitted_half(sweep: Sweep) -> NDArray[np.bool_]:
    """The points a fit may see: every other limit, the lowest first."""
    seen: NDArray[np.bool_] = np.arange(len(sweep.limit_w)) % 2 == 0
    return seen


# Watts while nothing is issued, by a running kernel, by full pipes, by the memory; clock ratios of voltage floor, knee.
_START = np.array([100.0, 200.0, 400.0, 40.0, 0.7, 0.3])
_LOW = np.array([20.0, 0.0, 0.0, 0.0, 0.1, 0.0])
_HIGH = np.array([160.0, 3000.0, 3000.0, 150.0, 1.0, 0.9])
_SHARE = (0.6, 0.02, 1.0)


def fit_gpu(sweeps: list[Sweep], max_mhz: float) -> CapFit:
    """The law that gives the speeds (and clocks, where recorded) of every other limit of all sweeps best.

    Six parameters of the GPU and one of each workload.
    """
    count = len(sweeps)

    def residuals(x: Floats) -> Floats:
        fit = _unpacked(x, sweeps, max_mhz)
        return np.concatenate([_errors(fit, sweep, max_mhz) for sweep in sweeps])

    bounds = [
        np.concatenate([part, np.full(count, share)]) for part, share in zip((_START, _LOW, _HIGH), _SHARE, strict=True)
    ]
    best = _unpacked(least_squares(residuals, *bounds), sweeps, max_mhz)
    law = replace(best.law, **{name: rounded(getattr(best.law, name), 3) for name in FITTED})
    return CapFit(law, {name: rounded(share, 3) for name, share in best.compute.items()})


FITTED = ("idle_w", "active_w", "compute_w", "memory_w", "voltage_floor", "memory_knee")


def _unpacked(x: Floats, sweeps: list[Sweep], max_mhz: float) -> CapFit:
    idle_w, active_w, compute_w, memory_w, floor, knee = (float(value) for value in x[: len(FITTED)])
    law = PowerLaw(idle_w, active_w, compute_w, memory_w, EXPONENT, floor, knee, OVERLAP, MIN_MHZ / max_mhz)
    shares = x[len(FITTED) :]
    return CapFit(law, {sweep.workload: float(share) for sweep, share in zip(sweeps, shares, strict=True)})


def _errors(fit: CapFit, sweep: Sweep, max_mhz: float) -> Floats:
    seen = fitted_half(sweep)
    work = Work(fit.compute[sweep.workload], 1.0 - fit.compute[sweep.workload])
    clocks = clock_under(fit.law, work, sweep.binding_w[seen])
    off = fit.kept(sweep)[seen] - sweep.kept[seen]
    if np.isnan(sweep.clock_mhz).any():
        return off
    return np.concatenate([off, CLOCK_WEIGHT * (clocks * max_mhz / sweep.clock_mhz[seen] - 1.0)])


def fit_share(law: PowerLaw, sweep: Sweep) -> CapFit:
    """The compute share, to 0.01, with which a known law gives the speeds of every other limit of `sweep` best."""
    seen = fitted_half(sweep)
    tried = [CapFit(law, {sweep.workload: float(share)}) for share in np.arange(2, 101) / 100.0]
    off = [float((((one.kept(sweep) - sweep.kept)[seen]) ** 2).sum()) for one in tried]
    return tried[int(np.argmin(off))]


def fit(data: Path) -> dict[str, CapFit]:
    """The fits of both boards, by name."""
    return {gpu: fit_gpu(read_sweeps(data, gpu), MAX_MHZ[gpu]) for gpu in STOCK_W}
