"""Fits a server's profile to Splitwise's published measurements and writes it with the source of every number."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from policies.errors import ConfigError, DataError
from policies.models.gpu_power import clock_ratio_at, prefill_ratio
from policies.models.latency import decode_s, prefill_s
from sim_backend.calibration.fits import Fit, nonnegative_fit, ramp_fit, relative_errors, rounded
from sim_backend.calibration.hardware import (
    CLOCK_LAW,
    ENGINE,
    HARDWARE,
    LLMS,
    MEDIAN_OUTPUT_TOKENS,
    MEDIAN_PROMPT_TOKENS,
    MEMORY_SHARE,
    POLCA_BLOOM_LOSS,
    POLCA_BLOOM_PEAK_REDUCTION,
    POLCA_LOSS_AT_LOW_MHZ,
    POLCA_LOW_MHZ,
    POLCA_MAX_MHZ,
    Fact,
    Hardware,
    Llm,
)
from sim_backend.calibration.profile_text import profile_text
from sim_backend.calibration.splitwise import Row, medians, read_rows
from telemetry.whole_file import write_whole

# An engine forms prefills of up to max_batch_tokens, or of one longer prompt alone; the longest measured had 8,192.
PREFILL_TOKENS_MAX = 8192
# Runs in which prompts take less than this share of the time: their average power is that of decode.
DECODE_ONLY_SHARE = 0.03
# From here on the published averages contain idle time (0.17-0.18 of TDP).
IDLE_FROM_PROMPT = 4096
# Below this, a fit of three parameters says nothing.
POINTS_MIN = 4

_SOURCE = "fitted to Splitwise's perf_model.csv (8-GPU tensor parallel, medians over repeats)"

Known = TypeVar("Known")
Facts = dict[str, dict[str, Fact]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """One fitted profile, and what the fits were not made for."""

    name: str
    command: str
    facts: Facts
    """Every number of the profile, by section and key."""
    fits: dict[str, Fit]
    """By section; power sections lack where power was never measured."""
    checks: dict[str, str]
    """Comparisons with measurements that are in no fit, by section, in words."""


def calibrate(splitwise: Path, model: str, hardware: str, out: Path) -> Calibration:
    """Fit `model` on `hardware` and write the profile to `out`, whole or not at all.

    Args:
        splitwise: Splitwise's `perf_model.csv`, plain or gzipped, or its folder.
        model: "bloom-176b" or "llama2-70b".
        hardware: "dgx-a100" or "dgx-h100".
        out: the TOML file.

    Raises:
        ConfigError: an unknown model or hardware.
        DataError: measurements that cannot be used.
    """
    calibration = fit_profile(splitwise, model, hardware)
    text = profile_text(calibration.name, calibration.command, calibration.facts, calibration.fits)
    write_whole(out, text.encode())
    return calibration


def fit_profile(splitwise: Path, model: str, hardware: str) -> Calibration:
    """All numbers of the profile of `model` on `hardware`, nothing written."""
    server, llm = _known(HARDWARE, hardware, "hardware"), _known(LLMS, model, "model")
    rows = read_rows(splitwise, model, server.gpu)
    facts: Facts = {section: dict(values) for section, values in server.facts.items()}
    facts["engine"] = {"kv_tokens": _kv_tokens(llm, server), **ENGINE}
    fits: dict[str, Fit] = {}
    checks: dict[str, str] = {}
    facts["prefill_time"], fits["prefill_time"], checks["prefill_time"] = _prefill_time(rows)
    facts["decode_time"], fits["decode_time"] = _decode_time(rows)
    facts["prefill_time"]["clock_share"] = Fact(
        1.0, "prefill is bound by compute, its time goes with 1/clock (POLCA, Splitwise); not swept by itself"
    )
    facts["decode_time"]["clock_share"] = _decode_clock_share(facts, model, server)
    if server.power:
        for section, values in server.power.items():
            facts[section] = {**values, **CLOCK_LAW}
    else:
        facts["prefill_power"], fits["prefill_power"] = _prefill_power(rows)
        facts["decode_power"], fits["decode_power"] = _decode_power(rows)
        checks["decode_power"] = _average_power_check(rows, facts)
    name = f"{hardware}__{model}"
    command = f"overwatt calibrate --data $OVERWATT_DATA --out {name}.toml"
    return Calibration(name, command, facts, fits, checks)


def _known(table: dict[str, Known], key: str, what: str) -> Known:
    if key not in table:
        raise ConfigError(f"{what} '{key}' is not known; use one of {', '.join(sorted(table))}")
    return table[key]


def _enough(rows: tuple[Row, ...], least: int, what: str) -> tuple[Row, ...]:
    if len(rows) < least:
        raise DataError(f"only {len(rows)} usable points for {what}, {least} are needed; use the whole perf_model.csv")
    return rows


def _kv_tokens(llm: Llm, server: Hardware) -> Fact:
    gpus = server.facts["server"]["gpus"].value
    room_bytes = gpus * server.gpu_bytes * MEMORY_SHARE - llm.weights_bytes
    per_token_bytes = 2 * llm.layers * llm.kv_width * 2
    tokens = int(room_bytes // per_token_bytes)
    return Fact(
        tokens,
        f"derived: ({gpus} x {server.gpu_bytes / 1e9:g}e9 B x {MEMORY_SHARE:g} - {llm.weights_bytes / 1e9:g}e9 B) / "
        f"(2 x {llm.layers} x {llm.kv_width} x 2 B) = {room_bytes / 1e9:g}e9 / {per_token_bytes} = {tokens}; "
        f"{llm.why}; {MEMORY_SHARE:g} of memory is vLLM's default",
    )


def _prefill_time(rows: tuple[Row, ...]) -> tuple[dict[str, Fact], Fit, str]:
    points = medians(rows, lambda r: (r.tokens, r.prompt))
    inside = _enough(tuple(r for r in points if r.tokens <= PREFILL_TOKENS_MAX), POINTS_MIN, "prefill time")
    tokens = np.array([r.tokens for r in inside], dtype=np.float64)
    measured_s = np.array([r.prefill_s for r in inside])
    columns = np.column_stack([np.ones_like(tokens), tokens, tokens**2])
    base_s, per_token_s, per_token2_s = (rounded(c) for c in nonnegative_fit(columns, measured_s))
    model_s = prefill_s(tokens, base_s, per_token_s, per_token2_s)
    fit = Fit((base_s, per_token_s, per_token2_s), len(inside), *relative_errors(model_s, measured_s))
    source = (
        f"{_SOURCE}: prompt_time against prompt_size x batch_size, {inside[0].tokens} to {inside[-1].tokens} tokens; "
        "not to be used far beyond"
    )
    facts = {key: Fact(value, source) for key, value in zip(_PREFILL_KEYS, fit.values, strict=True)}
    beyond = [
        f"{prefill_s(float(r.tokens), base_s, per_token_s, per_token2_s) / r.prefill_s:.2f} x at {r.tokens:,} tokens"
        for r in points
        if r.tokens > PREFILL_TOKENS_MAX
    ]
    return facts, fit, f"model over measured beyond the fitted range: {', '.join(beyond)}" if beyond else ""


_PREFILL_KEYS = ("base_s", "per_token_s", "per_token2_s")
_DECODE_KEYS = ("base_s", "per_request_s", "per_context_s")


def _decode_time(rows: tuple[Row, ...]) -> tuple[dict[str, Fact], Fit]:
    points = _enough(medians(rows, lambda r: (r.prompt, r.batch, r.output)), POINTS_MIN, "decode time")
    batch = np.array([r.batch for r in points], dtype=np.float64)
    context = np.array([r.context_tokens for r in points])
    measured_s = np.array([r.decode_s for r in points])
    columns = np.column_stack([np.ones_like(batch), batch, context])
    values = tuple(rounded(c) for c in nonnegative_fit(columns, measured_s))
    model_s = decode_s(batch, context, *values)
    fit = Fit(values, len(points), *relative_errors(model_s, measured_s))
    source = (
        f"{_SOURCE}: token_time against batch and total context, batch x (prompt + half the generated tokens); "
        f"batches 1 to {batch.max():.0f}, up to {context.max():.0f} tokens of context"
    )
    return {key: Fact(value, source) for key, value in zip(_DECODE_KEYS, values, strict=True)}, fit


def _decode_clock_share(facts: Facts, model: str, server: Hardware) -> Fact:
    """Share of decode bound by the SM clock, from what POLCA says a lower clock costs whole requests."""
    prefill = [facts["prefill_time"][key].value for key in _PREFILL_KEYS]
    decode = [facts["decode_time"][key].value for key in _DECODE_KEYS]
    in_prefill_s = prefill_s(float(MEDIAN_PROMPT_TOKENS), *prefill)
    context = MEDIAN_PROMPT_TOKENS + MEDIAN_OUTPUT_TOKENS / 2
    in_decode_s = MEDIAN_OUTPUT_TOKENS * decode_s(1.0, context, *decode)
    share = in_prefill_s / (in_prefill_s + in_decode_s)
    # A request loses (1/phi - 1)(w + (1 - w) c): w in prefill, bound by the clock; the rest in decode, c of it bound.
    stretch, loss = [POLCA_MAX_MHZ / POLCA_LOW_MHZ - 1.0], [POLCA_LOSS_AT_LOW_MHZ]
    said = f"POLCA: <= 7 % at {POLCA_LOW_MHZ:.0f} of {POLCA_MAX_MHZ:.0f} MHz, 1/phi - 1 = {stretch[0]:.3f}"
    if model.startswith("bloom"):
        law = CLOCK_LAW["static_share"].value, CLOCK_LAW["exponent"].value
        stretch.append(1.0 / clock_ratio_at(1.0 - POLCA_BLOOM_PEAK_REDUCTION, *law) - 1.0)
        loss.append(POLCA_BLOOM_LOSS)
        said += f", and 5 % for BLOOM at 13 % less peak power, by the power law 1/phi - 1 = {stretch[1]:.3f}"
    bound = sum(s * x for s, x in zip(stretch, loss, strict=True)) / sum(s * s for s in stretch)
    value = rounded((bound - share) / (1.0 - share), 2)
    reached = ", ".join(f"{100 * s * (share + (1.0 - share) * value):.1f} %" for s in stretch)
    if len(loss) == 1:
        said += f", of other models ({model} was not tested)"
    hopper = (
        "; taken over from the A100 although Hopper decode seems less bound: unchanged at 350 of 700 W (Splitwise), "
        "below 1 % loss at 780 of 1980 MHz on an H200 (arXiv 2605.11999)"
    )
    return Fact(
        value,
        f"unverified, derived from the loss of a whole request ({said}) for the median conversation request of "
        f"{MEDIAN_PROMPT_TOKENS} + {MEDIAN_OUTPUT_TOKENS} tokens: w = {in_prefill_s:.3f} s / "
        f"({in_prefill_s:.3f} + {in_decode_s:.3f}) s = {share:.3f} is prefill, loss = (1/phi - 1)(w + (1 - w) c), "
        f"{'least squares' if len(loss) > 1 else 'the bound taken as reached'}: w + (1 - w) c = {bound:.4f}, "
        f"c = {value:g}; gives {reached}{hopper if server.power else ''}",
    )


def _prefill_power(rows: tuple[Row, ...]) -> tuple[dict[str, Fact], Fit]:
    measured = tuple(r for r in rows if r.peak_ratio > 0.0)
    points = _enough(medians(measured, lambda r: (r.tokens, r.prompt)), POINTS_MIN, "prefill power")
    tokens = np.array([r.tokens for r in points], dtype=np.float64)
    ratio = np.array([r.peak_ratio for r in points])
    values = tuple(rounded(c) for c in ramp_fit(np.log2(tokens / 128.0), ratio))
    fit = Fit(values, len(points), *relative_errors(prefill_ratio(tokens, *values), ratio))
    source = (
        f"{_SOURCE}: peak_power where measured, {points[0].tokens} to {points[-1].tokens} prompt tokens; peaks of "
        "100 ms samples, so lower bounds of the true peak and upper bounds of the mean"
    )
    keys = ("at_128", "per_octave", "ceiling")
    return {**{k: Fact(v, source) for k, v in zip(keys, values, strict=True)}, **CLOCK_LAW}, fit


def _decode_power(rows: tuple[Row, ...]) -> tuple[dict[str, Fact], Fit]:
    measured = tuple(r for r in rows if r.average_ratio > 0.0 and r.prefill_s < DECODE_ONLY_SHARE * r.e2e_s)
    points = _enough(medians(measured, lambda r: (r.tokens, r.prompt)), 1, "decode power")
    ratio = np.array([r.average_ratio for r in points])
    value = rounded(float(np.median(ratio)))
    fit = Fit((value,), len(points), *relative_errors(np.full_like(ratio, value), ratio))
    share = f"{100 * DECODE_ONLY_SHARE:g} %"
    source = f"{_SOURCE}: average_power of runs with less than {share} of their time in prompts, median"
    return {"ratio": Fact(value, source), **CLOCK_LAW}, fit


def _average_power_check(rows: tuple[Row, ...], facts: Facts) -> str:
    """How far run averages with long prompts lie from prefill at its peak and decode at its level."""
    measured = tuple(r for r in rows if r.average_ratio > 0.0 and r.prompt < IDLE_FROM_PROMPT)
    points = medians(measured, lambda r: (r.tokens, r.prompt))
    power = [facts["prefill_power"][key].value for key in ("at_128", "per_octave", "ceiling")]
    decode = facts["decode_power"]["ratio"].value
    error = []
    for r in points:
        share = r.prefill_s / r.e2e_s
        model = share * prefill_ratio(float(r.tokens), *power) + (1.0 - share) * decode
        error.append(model / r.average_ratio - 1.0)
    return (
        f"run averages predicted from the two phases, {len(points)} runs with prompts below {IDLE_FROM_PROMPT:,} "
        f"tokens: median {100 * np.median(error):+.1f} %, largest {100 * max(error, key=abs):+.1f} % "
        "(prefill is charged its peak throughout)"
    )
