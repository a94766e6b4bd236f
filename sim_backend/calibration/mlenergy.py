"""Reads the ML.ENERGY benchmarks: saturated serving at a batch limit, by GPU, model and engine of the time."""

import csv
from dataclasses import dataclass
from pathlib import Path

from policies.errors import DataError
from sim_backend.cards.instance import Layout
from sim_backend.cards.llm_card import LlmCard, published_llms
from sim_backend.cards.saturated import Requests

V3 = "mlenergy-v3-h100"
V2 = "mlenergy-v2-a100-h100"


@dataclass(frozen=True, slots=True)
class Fed:
    """What a benchmark's requests are like, as far as its tables do not say."""

    prompt_tokens: float
    prompt_cv: float
    resident_ratio: float


TASKS = {
    (V3, "lm-arena-chat"): Fed(300.0, 2.5, 0.8),
    (V3, "gpqa"): Fed(250.0, 0.5, 0.5),
    (V3, "sourcegraph-fim"): Fed(840.0, 1.0, 0.8),
    (V2, "chat"): Fed(200.0, 1.5, 0.7),
    (V2, "code"): Fed(150.0, 0.5, 0.8),
}
"""Assumed, none of it recorded. Chat: the batches that just fit the KV cache (Llama-3.1-8B 691, -70B 898, Qwen3-8B 474,
Qwen3-30B 89) leave room for 250 to 350 prompt tokens if lengths of answers vary by 0.8 of their mean; between the
median and the 99th percentile of inter-token latency lie some 1,300 prompt tokens, hence the long tail. Fill in the
middle: from Qwen3-Coder-30B's cache, likewise. GPQA's questions are of one kind, its answers near their limit."""


@dataclass(frozen=True, slots=True)
class Run:
    """One model at one batch limit."""

    folder: str
    gpu: str
    """Name of its card, as for the engine."""
    engine: str
    model: str
    """As published."""
    llm: LlmCard
    layout: Layout
    weights: str
    fed: Requests
    mean_step_s: float
    """Batch over throughput."""
    median_step_s: float | None
    """Median inter-token latency, where recorded."""
    gpu_w: float


def read_runs(data: Path) -> list[Run]:
    """Runs of both versions of the benchmark whose model is known, which is all.

    Raises:
        DataError: a table that is missing or not of this form.
    """
    known = published_llms()
    runs = [_third(row, known) for row in _rows(data / V3 / "llm_h100.csv")]
    for name in ("llm_a100.csv", "llm_h100.csv"):
        runs += [_second(row, known) for row in _rows(data / V2 / name)]
    return runs


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); fetch the recording again") from error


def _third(row: dict[str, str], known: dict[str, LlmCard]) -> Run:
    gpus, batch = int(row["num_gpus"]), float(row["avg_batch_size"])
    return Run(
        folder=V3,
        gpu="h100-sxm",
        engine="vllm-0.10",
        model=row["model_id"],
        llm=known[row["model_id"]],
        # Its column says tensor_parallel 1 where experts are spread; the attention of one copy is then on all GPUs.
        layout=Layout(tensor_parallel=gpus, expert_parallel=int(row["expert_parallel"])),
        weights={"bfloat16": "bf16"}.get(row["weight_precision"], row["weight_precision"]),
        fed=_requests(TASKS[V3, row["task"]], batch, float(row["avg_output_len"])),
        mean_step_s=batch / float(row["output_throughput_tokens_per_sec"]),
        median_step_s=float(row["median_itl_ms"]) / 1e3,
        gpu_w=float(row["avg_power_watts"]) / gpus,
    )


def _second(row: dict[str, str], known: dict[str, LlmCard]) -> Run:
    return Run(
        folder=V2,
        gpu="a100-40gb" if "A100" in row["gpu"] else "h100-sxm",
        engine="vllm-0.5",
        model=row["model"],
        llm=known[row["model"]],
        layout=Layout(int(row["tensor_parallel"]), int(row["pipeline_parallel"])),
        weights="bf16",
        fed=_requests(TASKS[V2, row["task"]], float(row["avg_batch"]), float(row["avg_output_tokens"])),
        mean_step_s=float(row["avg_tpot_s"]),
        median_step_s=None,
        gpu_w=float(row["power_per_gpu_w_derived"]),
    )


def _requests(fed: Fed, batch: float, output_tokens: float) -> Requests:
    return Requests(batch, fed.prompt_tokens, fed.prompt_cv, output_tokens, fed.resident_ratio)
