"""What a power limit costs, against recorded sweeps of limits."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim_backend.calibration import training_caps, two_limits
from sim_backend.calibration.caps import FOLDER, MAX_MHZ, STOCK_W, fit, fit_gpu, fit_share, fitted_half, read_sweeps
from sim_backend.fidelity.check import Check, halves

Floats = NDArray[np.float64]

GROUP = "Speed under power limits"
LIMIT_RTX = (0.04, True)
"""Of the loss of speed, and whether the worst point is to keep it."""
LIMIT_H200 = (0.05, True)
LIMIT_TRAINING = (0.05, False)


def checks(data: Path) -> list[Check]:
    """Speed kept under limits that no parameter was fitted to, in points of the speed without."""
    return [*_sweeps(data), *_other_model(data), _h200(data), *(_training(data, gpu) for gpu in ("v100", "a40"))]


def _sweeps(data: Path) -> list[Check]:
    lines = []
    for gpu, found in fit(data).items():
        for sweep in read_sweeps(data, gpu):
            held = ~fitted_half(sweep)
            off = (found.kept(sweep) - sweep.kept)[held]
            counts = (int((~held).sum()), int(held.sum()))
            note = (
                f"limits {sweep.limit_w[0]:.0f} to {STOCK_W[gpu]:.0f} W; the law is the GPU's, one share the workload's"
            )
            lines.append(_check(f"{gpu}, {sweep.workload}", FOLDER, counts, off, LIMIT_RTX, note))
    return lines


def _other_model(data: Path) -> list[Check]:
    """The 3090's law from the sweeps of one model alone, for the sweeps of the other, in both directions."""
    gpu = "RTX 3090"
    sweeps = read_sweeps(data, gpu)
    lines = []
    for known, unknown in (("Qwen3.6", "A3B"), ("A3B", "Qwen3.6")):
        seen = [sweep for sweep in sweeps if sweep.workload.startswith(known)]
        law = fit_gpu(seen, MAX_MHZ[gpu]).law
        others = [sweep for sweep in sweeps if sweep.workload.startswith(unknown)]
        off = [(fit_share(law, sweep).kept(sweep) - sweep.kept)[~fitted_half(sweep)] for sweep in others]
        held = np.concatenate(off)
        fitted = sum(int(fitted_half(sweep).sum()) for sweep in sweeps)
        note = f"law fitted to {known} alone; of {unknown} one compute share for each workload"
        lines.append(
            _check(f"{gpu}, {unknown} by the law of {known}", FOLDER, (fitted, held.size), held, LIMIT_RTX, note)
        )
    return lines


def _h200(data: Path) -> Check:
    exponent = two_limits.fit(data)
    losses = two_limits.read_losses(data)
    off = np.array([two_limits.kept(exponent, loss.limit_w) - loss.kept for loss in losses if not loss.fitted])
    counts = (sum(loss.fitted for loss in losses), len(off))
    note = f"llama2-70b at 500 W and gptj at 350 of 700 W, Server; exponent {exponent:g} fitted to Offline"
    return _check("H200, saturated server", two_limits.FILE.parent.name, counts, off, LIMIT_H200, note)


def _training(data: Path, gpu: str) -> Check:
    jobs = training_caps.read_jobs(data, gpu)
    values = training_caps.fit(jobs)
    held = [job for job, half in zip(jobs, halves([job.name for job in jobs]), strict=True) if not half]
    # The last limit is the reference; an error there cannot be.
    off = np.concatenate([(training_caps.kept(values, job) - job.kept)[:-1] for job in held])
    counts = (sum(len(job.limit_w) - 1 for job in jobs) - off.size, off.size)
    note = "training; one law and one share for all networks, which differ in what they need the clock for"
    return _check(f"{gpu.upper()}, {len(held)} unseen jobs", FOLDER, counts, off, LIMIT_TRAINING, note)


def _check(
    quantity: str, source: str, counts: tuple[int, int], off: Floats, limit: tuple[float, bool], note: str
) -> Check:
    return Check(
        group=GROUP,
        quantity=quantity,
        source=source,
        fitted_points=counts[0],
        held_out_points=counts[1],
        median_error=float(np.median(np.abs(off))),
        worst_error=float(np.abs(off).max()),
        limit=limit[0],
        bias=float(np.median(off)),
        unit="points",
        limit_on_worst=limit[1],
        note=note,
    )
