"""One power law for all training jobs of a GPU, from sweeps of limits: how far it goes without knowing the job."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.models.clocks import PowerLaw, Work, clock_under, slowdown
from sim_backend.calibration.least_squares import least_squares
from sim_backend.fidelity.check import halves

Floats = NDArray[np.float64]

LIMITS_MIN = 4
"""Of a job; fewer say nothing about its slope."""
_START = np.array([60.0, 0.6, 0.8])
_LOW = np.array([10.0, 0.1, 0.05])
_HIGH = np.array([90.0, 1.0, 1.0])
_MIN_RATIO = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A network at a batch size under rising limits; the last is the GPU's own."""

    name: str
    limit_w: Floats
    epoch_s: Floats
    natural_w: float
    """Mean draw under the last limit."""

    @property
    def kept(self) -> Floats:
        """Speed over that under the last limit."""
        kept: Floats = self.epoch_s[-1] / self.epoch_s
        return kept


def read_jobs(data: Path, gpu: str) -> list[Job]:
    """The jobs recorded on `gpu`, "v100" or "a40", sorted by name."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    path = data / "power-cap-sweeps" / f"zeus_train_power_limit_{gpu}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = " ".join(row[key] for key in ("dataset", "network", "batch_size", "optimizer"))
            cells = (row["power_limit"], row["time_per_epoch"], row["average_power"])
            rows.setdefault(name, []).append((float(cells[0]), float(cells[1]), float(cells[2])))
    jobs = []
    for name, points in sorted(rows.items()):
        limit_w, epoch_s, drawn_w = np.array(sorted(points)).T
        if len(points) >= LIMITS_MIN:
            jobs.append(Job(name, limit_w, epoch_s, float(drawn_w[-1])))
    return jobs


def kept(values: Floats, job: Job) -> Floats:
    """Speed under each limit over that under the last, from what the job draws without a limit.

    Args:
        values: watts that no clock removes, voltage floor, share of the time that goes with the clock.
        job: gives its limits and its natural draw only.
    """
    idle_w, floor, share = (float(value) for value in values)
    law = PowerLaw(idle_w, job.natural_w - idle_w, 0.0, 0.0, 3.0, floor, overlap=0.0, min_ratio=_MIN_RATIO)
    work = Work(share, 1.0 - share)
    result: Floats = 1.0 / slowdown(law, work, clock_under(law, work, job.limit_w))
    return result


def fit(jobs: list[Job]) -> Floats:
    """The three values of one GPU, from every other job."""
    seen = [job for job, half in zip(jobs, halves([job.name for job in jobs]), strict=True) if half]

    def residuals(values: Floats) -> Floats:
        return np.concatenate([kept(values, job) - job.kept for job in seen])

    return least_squares(residuals, _START, _LOW, _HIGH)
