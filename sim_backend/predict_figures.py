"""What a prediction says: every figure with the band it may be off by, and what a reader must know beside it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.arrays import Vec
from sim_backend.fidelity.bands import QUANTITIES, Given, band_of, read_bands
from sim_backend.predict import FULL_SHARE, Assembled, Question, Steady, phase_w, server_w
from sim_backend.versions import versions

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
Figure = dict[str, float]

ASIDE = frozenset({"idle_w", "limiter_s", "overshoot_ratio", "min_limit_w", "max_mhz", "min_mhz"})
"""Numbers of a GPU's card that decide no figure of a prediction without a limit."""


def figures(question: Question, parts: Assembled, steady: Steady) -> dict[str, Any]:
    """All that is said, as it goes into the JSON (docs/predict.md)."""
    table = read_bands()
    bands = {name: band_of(table, parts.gpu.name, parts.engine.name, name) for name in QUANTITIES}
    sizes = question.sizes
    return {
        "command": question.command,
        "versions": versions(),
        "gpu": parts.gpu.name,
        "gpus": parts.profile.gpus,
        "model": parts.llm.name,
        "engine": parts.engine.name,
        "server": None if parts.server is None else parts.server.name,
        "rps": question.rps,
        "prompt_tokens": float(sizes.prompt_tokens.mean()),
        "output_tokens": float(sizes.output_tokens.mean()),
        "clock_mhz": parts.clock_ratio * parts.gpu.max_mhz,
        "limit_w": min(parts.limit_w, parts.gpu.tdp_w),
        "stable": steady.stable,
        "load_ratio": question.rps / steady.largest_rps,
        "largest_stable_rps": bands["throughput"].around(FULL_SHARE * steady.largest_rps),
        **_power(question, parts, steady, bands["power"]),
        **_latencies(steady, bands),
        **_throughput(steady, bands),
        "mean_batch": steady.mean_batch,
        "kv_tokens": parts.instance.kv_tokens,
        "requests_counted": len(steady.e2e_s),
        "simulated_s": steady.lasts_s,
        "bands": {
            name: {"error": band.error, "measured": band.measured, "source": band.source}
            for name, band in bands.items()
        },
        "notes": _notes(question, parts, steady, bands),
    }


def _power(question: Question, parts: Assembled, steady: Steady, band: Given) -> dict[str, Any]:
    def mean_and_p99(watts: Vec) -> dict[str, Figure]:
        return {"mean": band.around(float(watts.mean())), "p99": band.around(float(np.quantile(watts, 0.99)))}

    whole_w = server_w(parts, steady.gpus_w)
    return {
        "server_w": None if whole_w is None else mean_and_p99(whole_w),
        "gpus_w": mean_and_p99(steady.gpus_w),
        "gpu_w": {name: band.around(watts) for name, watts in phase_w(parts, steady, question.sizes).items()},
    }


def _latencies(steady: Steady, bands: Mapping[str, Given]) -> dict[str, Any]:
    def quantiles(values: Vec, band: Given) -> dict[str, Figure] | None:
        if not len(values):
            return None
        return {name: band.around(float(np.quantile(values, share))) for name, share in SHARES.items()}

    whole = max(bands["ttft"], bands["tpot"], key=lambda band: band.error)
    # While the queue grows, how long one waits is decided by when one asks.
    return {
        "ttft_s": quantiles(steady.ttft_s, bands["ttft"]) if steady.stable else None,
        "tpot_s": quantiles(steady.tpot_s, bands["tpot"]),
        "e2e_s": quantiles(steady.e2e_s, whole) if steady.stable else None,
    }


def _throughput(steady: Steady, bands: Mapping[str, Given]) -> dict[str, Figure]:
    def served(value: float) -> Figure:
        # What is sent is served while the queue is stable, however fast the instance may be.
        if steady.stable:
            return {"value": value, "low": value, "high": value}
        return bands["throughput"].around(value)

    tokens_per_s = float(steady.output_tokens.sum()) / steady.lasts_s
    return {
        "served_rps": served(len(steady.e2e_s) / steady.lasts_s),
        "output_tokens_per_s": served(tokens_per_s),
        "joules_per_output_token": bands["power"].around(float(steady.gpus_w.mean()) / max(tokens_per_s, 1e-9)),
    }


def _notes(question: Question, parts: Assembled, steady: Steady, bands: Mapping[str, Given]) -> list[str]:
    """What a reader must know beside the figures."""
    notes = []
    if not steady.stable:
        notes.append(
            "the queue grows without end: power and tokens are those of an instance that is always full, "
            "times to first token depend on when one asks and are left out"
        )
    unmeasured = [name for name, band in bands.items() if not band.measured]
    if unmeasured:
        notes.append(
            f"{', '.join(unmeasured)} of {parts.engine.name} on {parts.gpu.name}: never measured, so the band is "
            "wider, and chosen rather than measured (bands in --json say how)"
        )
    if parts.llm.experts:
        notes.append(
            "a mixture of experts: measured ones were up to 35 % off in time and 57 % in power at small batches "
            "(docs/models.md), more than the bands say"
        )
    for card in (parts.gpu, parts.engine, parts.llm):
        taken = [name for name, source in card.source.items() if "unverified" in source and name not in ASIDE]
        if taken:
            notes.append(f"numbers of {card.name} that nobody measured, taken over or assumed: {', '.join(taken)}")
    if parts.server is None:
        notes.append(f"no kind of server with {parts.gpu.name} is known: only the GPUs' own watts are given")
    elif parts.server.gpus > parts.profile.gpus:
        idle = parts.server.gpus - parts.profile.gpus
        notes.append(f"server_w is of a whole {parts.server.name}, its other {idle} GPUs without work")
    longest, budget = int(question.sizes.prompt_tokens.max()), parts.instance.max_batch_tokens
    if longest > budget:
        notes.append(f"prompts of up to {longest} tokens run whole, though the engine cuts them to {budget}")
    if not parts.instance.mixes:
        notes.append(f"{parts.engine.name} runs prompts alone; they are simulated together with decodes")
    return notes
