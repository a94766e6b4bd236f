"""Fits GPUs and engines to saturated serving: few parameters for all models, none for any one of them.

Speed of the kernels is known from elsewhere (single operations measured on an H200, whose SMs an H100 shares): those
parameters start there and are held there with the strength of their uncertainty, as are the watts. What is fitted to
serving is above all what lies between the kernels. Errors are taken by their logarithm; large ones count linearly, so
that a model that no common parameter explains does not bend the others. Deterministic; results have three digits.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from sim_backend.calibration.fits import rounded
from sim_backend.calibration.least_squares import least_squares
from sim_backend.calibration.mlenergy import V2, V3, Run, read_runs
from sim_backend.cards.engine_card import EngineCard, load_engine
from sim_backend.cards.gpu_card import GpuCard, load_gpu
from sim_backend.cards.instance import instance
from sim_backend.cards.saturated import Saturated, saturated
from sim_backend.fidelity.check import halves

Floats = NDArray[np.float64]

LINEAR_FROM = 0.1
"""Errors beyond this count linearly."""
PRIOR_POINTS = 9.0
"""A parameter one spread away from where it starts costs as much as so many points that are off by LINEAR_FROM."""
DIGITS = 3


@dataclass(frozen=True, slots=True)
class Free:
    """A parameter that is fitted."""

    card: str
    field: str
    start: float
    spread: float
    """Standard deviation of its logarithm, before any serving is seen."""
    ceiling: float = np.inf


H100, A100, NEW, OLD = "h100-sxm", "a100-40gb", "vllm-0.10", "vllm-0.5"

FREE = (
    Free(H100, "compute_efficiency", 0.774, 0.1, 1.0),
    Free(H100, "memory_efficiency", 0.86, 0.05, 1.0),
    Free(H100, "active_w", 200.0, 0.5),
    Free(H100, "compute_w", 550.0, 0.3),
    Free(H100, "memory_w", 215.0, 0.3),
    Free(NEW, "host_s", 1e-3, 0.7),
    Free(NEW, "host_per_request_s", 5e-6, 1.0),
    Free(NEW, "host_per_rank_s", 1e-4, 1.0),
    Free(NEW, "sample_per_word_s", 2e-10, 0.7),
    Free(NEW, "gap_s", 1.2e-5, 0.5),
    Free(NEW, "collective_s", 1.2e-5, 0.5),
    Free(NEW, "link_efficiency", 0.7, 0.3, 1.0),
    Free(NEW, "expert_gap_s", 3e-5, 0.4),
    Free(NEW, "expert_memory_efficiency", 0.95, 0.1, 1.0),
    Free(NEW, "expert_compute_efficiency", 0.5, 0.3, 1.0),
    Free(NEW, "unpack_flops", 150.0, 0.7),
    Free(NEW, "cache_efficiency", 0.9, 0.1, 1.0),
    Free(NEW, "prompt_gap_s", 4e-4, 0.7),
    Free(OLD, "host_s", 5e-3, 1.0),
    Free(OLD, "host_per_request_s", 4e-4, 1.0),
    Free(OLD, "host_exponent", 0.85, 0.2, 1.0),
    Free(OLD, "host_per_rank_s", 8e-3, 1.0),
    Free(OLD, "sample_per_word_s", 2e-10, 1.0),
    Free(OLD, "gap_s", 7e-5, 0.5),
    Free(OLD, "collective_s", 2e-5, 0.7),
    Free(OLD, "cache_efficiency", 0.7, 0.3, 1.0),
    Free(OLD, "expert_compute_efficiency", 0.75, 0.3, 1.0),
    Free(OLD, "expert_memory_efficiency", 0.9, 0.1, 1.0),
    Free(A100, "active_w", 100.0, 0.5),
    Free(A100, "compute_w", 220.0, 0.3),
    Free(A100, "memory_w", 120.0, 0.3),
)
"""Fitted together: the H100 is the same one under both engines, the older engine the same one on both GPUs."""

Cards = dict[str, GpuCard | EngineCard]


def shipped() -> Cards:
    """The cards that serving is fitted to, as they are."""
    return {H100: load_gpu(H100), A100: load_gpu(A100), NEW: load_engine(NEW), OLD: load_engine(OLD)}


def predicted(runs: list[Run], cards: Cards) -> list[Saturated]:
    """What the cards say of each run."""
    built, results = {}, []
    for run in runs:
        key = (run.gpu, run.engine, run.llm.name, run.layout, run.weights)
        if key not in built:
            gpu, engine = cards[run.gpu], cards[run.engine]
            assert isinstance(gpu, GpuCard)
            assert isinstance(engine, EngineCard)
            # What a recorded run shows is that its weights fitted, whatever was kept free for activations.
            engine = msgspec.structs.replace(engine, reserve_bytes=0.0)
            built[key] = instance(gpu, run.llm, engine, run.layout, run.weights)
        results.append(saturated(built[key], run.fed))
    return results


def errors(runs: list[Run], cards: Cards) -> Floats:
    """Logarithms of model over measured: mean step and power of all runs, then median step where recorded."""
    results = predicted(runs, cards)
    pairs = [(each.mean_step_s, run.mean_step_s) for each, run in zip(results, runs, strict=True)]
    pairs += [(each.gpu_w, run.gpu_w) for each, run in zip(results, runs, strict=True)]
    medians = zip(results, runs, strict=True)
    pairs += [(each.median_step_s, run.median_step_s) for each, run in medians if run.median_step_s is not None]
    model, measured = np.array(pairs).T
    result: Floats = np.log(model / measured)
    return result


def fitted_half(runs: list[Run]) -> NDArray[np.bool_]:
    """Runs that parameters are fitted to: those of every other model of each benchmark."""
    chosen = np.zeros(len(runs), dtype=np.bool_)
    for folder in (V3, V2):
        inside = [i for i, run in enumerate(runs) if run.folder == folder]
        chosen[inside] = halves([runs[i].model for i in inside])
    return chosen


def with_values(cards: Cards, free: tuple[Free, ...], values: Floats) -> Cards:
    """The cards with other values of the free parameters."""
    changed = dict(cards)
    for each, value in zip(free, values, strict=True):
        changed[each.card] = msgspec.structs.replace(changed[each.card], **{each.field: float(value)})
    return changed


def fit_free(runs: list[Run], cards: Cards, free: tuple[Free, ...]) -> Cards:
    """The cards with the free parameters fitted to `runs`, rounded."""
    start = np.log([each.start for each in free])
    ceiling = np.log([each.ceiling for each in free])
    spread = np.array([each.spread for each in free])

    def residuals(logs: Floats) -> Floats:
        error = errors(runs, with_values(cards, free, np.exp(logs))) / LINEAR_FROM
        # The square of this is 2 (sqrt(1 + e**2) - 1): as e**2 for small errors, as 2 |e| for large ones.
        softened = np.sign(error) * np.sqrt(2.0 * (np.sqrt(1.0 + error**2) - 1.0))
        prior = np.sqrt(PRIOR_POINTS) * (logs - start) / spread
        return np.concatenate([softened, prior])

    logs = least_squares(residuals, start, np.full(len(free), -np.inf), ceiling)
    return with_values(cards, free, np.array([rounded(float(value), DIGITS) for value in np.exp(logs)]))


def fit(data: Path) -> dict[str, dict[str, float]]:
    """Fitted fields of each card, by the card's name.

    Args:
        data: folder that holds the two benchmarks.

    Raises:
        DataError: a benchmark is missing.
    """
    runs = read_runs(data)
    half = [run for run, fits in zip(runs, fitted_half(runs), strict=True) if fits]
    cards = fit_free(half, shipped(), FREE)
    found: dict[str, dict[str, float]] = {}
    for each in FREE:
        found.setdefault(each.card, {})[each.field] = getattr(cards[each.card], each.field)
    return found
