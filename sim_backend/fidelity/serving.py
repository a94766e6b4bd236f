"""Saturated serving by the shipped cards, against models of both ML.ENERGY benchmarks that no card was fitted to."""

from pathlib import Path

import numpy as np

from sim_backend.calibration.mlenergy import V2, V3, read_runs
from sim_backend.calibration.serving import A100, H100, fitted_half, predicted, shipped
from sim_backend.fidelity.check import Check, errors_of

POWER_LIMIT = {V3: 0.08, V2: 0.10}
STEP_LIMIT = {V3: 0.15, V2: 0.10}
_BENCHMARKS = (
    (V3, H100, "Serving, H100 with vLLM of 2025 (ML.ENERGY v3)"),
    (V2, H100, "Serving, H100 with vLLM of 2024 (ML.ENERGY v2)"),
    (V2, A100, "Serving, A100 with vLLM of 2024 (ML.ENERGY v2)"),
)


def checks(data: Path) -> list[Check]:
    """Power, time per output token and, where recorded, inter-token latency, against batch.

    Args:
        data: folder that holds both benchmarks.

    Raises:
        DataError: a benchmark is missing.
    """
    runs = read_runs(data)
    half, results = fitted_half(runs), predicted(runs, shipped())
    lines = []
    for folder, gpu, group in _BENCHMARKS:
        inside = [i for i, run in enumerate(runs) if run.folder == folder and run.gpu == gpu]
        held_out = [i for i in inside if not half[i]]
        quantities = [
            ("power of a GPU", POWER_LIMIT[folder], [(results[i].gpu_w, runs[i].gpu_w) for i in held_out]),
            ("time per token", STEP_LIMIT[folder], [(results[i].mean_step_s, runs[i].mean_step_s) for i in held_out]),
        ]
        medians = [(results[i].median_step_s, runs[i].median_step_s) for i in held_out]
        seen = [(model_s, measured_s) for model_s, measured_s in medians if measured_s is not None]
        if seen:
            quantities.append(("inter-token latency, median", STEP_LIMIT[folder], seen))
        for quantity, limit, pairs in quantities:
            model, measured = np.array(pairs).T
            median, worst, bias = errors_of(model, measured)
            lines.append(
                Check(
                    group=group,
                    quantity=quantity,
                    source=folder,
                    fitted_points=len(inside) - len(held_out),
                    held_out_points=len(held_out),
                    median_error=median,
                    worst_error=worst,
                    limit=limit,
                    bias=bias,
                    note="halves by model; no parameter of any one model; lengths of prompts are assumed",
                )
            )
    return lines
