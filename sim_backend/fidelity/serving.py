"""Saturated serving by the shipped cards, against models of both ML.ENERGY benchmarks that no card was fitted to."""

import csv
from pathlib import Path

import numpy as np

from policies.errors import DataError
from sim_backend.calibration.mlenergy import V2, V3, read_runs
from sim_backend.calibration.serving import A100, H100, NEW, OLD, fitted_half, predicted, shipped
from sim_backend.cards.engine_card import load_engine
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.instance import instance
from sim_backend.cards.llm_card import load_llm
from sim_backend.cards.saturated import Requests, saturated
from sim_backend.fidelity.check import Check, Spread, errors_of

POWER_LIMIT = {V3: 0.08, V2: 0.10}
STEP_LIMIT = {V3: 0.15, V2: 0.10}
MLPERF, OFFLINE = "mlperf-inference-v4.1-h200", ("llama2-70b-99", "Offline")
GPUS = 8
PROMPT_CV, RESIDENT_RATIO = 0.7, 0.6
"""Assumed of MLPerf's requests; neither changes the throughput by more than 3 %."""
ENGINE = {V3: NEW, V2: OLD}
PREDICTED: dict[str, tuple[str, ...]] = {"power of a GPU": ("power",), "time per token": ("tpot", "throughput")}
"""What predictions a comparison speaks for: a full batch over the time per token is the throughput."""
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
                    spread=Spread(
                        gpu,
                        ENGINE[folder],
                        PREDICTED.get(quantity, ()),
                        float(np.percentile(np.abs(model / measured - 1.0), 90)),
                    ),
                    note="halves by model; no parameter of any one model; lengths of prompts are assumed",
                )
            )
    return [*lines, _other_gpu(data)]


def _other_gpu(data: Path) -> Check:
    """Llama-2-70B in FP8 on one H200 of eight, as many requests as its cache holds, at two power limits."""
    path = data / MLPERF / "cap_vs_throughput.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["workload"], row["scenario"]) == OFFLINE]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); fetch the recording again") from error
    built = instance(
        load_gpu("h200-sxm"), load_llm("llama-2-70b"), load_engine("trt-llm-0.11"), weights="fp8", kv="fp8"
    )
    pairs = []
    for row in rows:
        tokens_per_s = float(row["tokens_per_s"])
        output_tokens = tokens_per_s / float(row["samples_per_s"])
        batch = built.kv_tokens / (output_tokens * (1.0 + RESIDENT_RATIO))
        fed = Requests(batch, output_tokens, PROMPT_CV, output_tokens, RESIDENT_RATIO)
        limited = saturated(built, fed, float(row["gpu_power_limit_w"]))
        pairs.append((GPUS * limited.tokens_per_s, tokens_per_s))
    model, measured = np.array(pairs).T
    median, worst, bias = errors_of(model, measured)
    return Check(
        group="Serving, H200 with TensorRT-LLM of 2024 (MLPerf Inference v4.1)",
        quantity="throughput at 700 and 500 W",
        source=MLPERF,
        fitted_points=0,
        held_out_points=len(pairs),
        median_error=median,
        worst_error=worst,
        limit=0.15,
        bias=bias,
        note="another GPU and engine than those fitted; prompts are assumed as long as answers, which are recorded",
    )
