"""Every figure of a run as a line a person can read: label, value, unit."""

import math
from collections.abc import Mapping

from sim_backend.report.json_out import plain
from sim_backend.result import RunResult

MISSING = "none"
_SPACE = "\N{NO-BREAK SPACE}"
S_PER_DAY = 86_400.0
_TIMES = ((S_PER_DAY, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

_WORDS = {
    "actuation": "Actuation path",
    "guarantee": "Guarantee",
    "brakes": "Brakes",
    "breaker_trips": "Breaker trips",
    "breaker_heat_max_ratio": "Breaker heat, highest (1 trips)",
    "overload_left_min_s": "Overload time left, shortest",
    "peak_over_budget": "Peak of the meter over budget",
    "p99_over_budget": "P99 of the meter over budget",
    "peak_1s_over_budget": "Peak of the 1 s mean over budget",
    "rise_2s_points": "Largest rise within 2 s, of budget",
    "rise_40s_points": "Largest rise within 40 s, of budget",
    "above_t1_s": "Time above T1",
    "above_t2_s": "Time above T2",
    "capped_s": "Time under a cap, mean per server",
    "commands": "Cap commands",
    "worst_hour_change_pct": "Latency change in the worst hour",
    "latency_change_pct": "Latency change, end to end",
    "throughput_tokens_per_s": "Throughput",
    "throughput_change_pct": "Throughput change",
    "goodput_rps": "Goodput",
    "slo_attainment_ratio": "Requests that met all targets",
    "requests": "Requests",
    "energy_j": "Energy of all servers",
    "recorded_work": "Recorded work",
    "seed": "Seed",
}
_PARTS = {"high": "high priority", "low": "low priority", "p50": "P50", "p90": "P90", "p99": "P99"}


def facts(run: RunResult) -> dict[str, tuple[str, str]]:
    """Label and value of each figure, by its dotted key in the JSON."""
    found: dict[str, tuple[str, str]] = {}
    flat = plain(run.figures)
    assert isinstance(flat, dict)
    for path, value in _leaves(flat, ()):
        found[".".join(path)] = (_label(path), value_text(path, value))
    return found


def _leaves(tree: Mapping[str, object], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], object]]:
    leaves: list[tuple[tuple[str, ...], object]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves += _leaves(value, (*path, key))
        else:
            leaves.append(((*path, key), value))
    return leaves


def _label(path: tuple[str, ...]) -> str:
    head, *tail = path
    words = _WORDS.get(head, head.replace("_", " "))
    return ", ".join([words, *(_PARTS.get(part, part.replace("_", " ")) for part in tail)])


def value_text(path: tuple[str, ...], value: object) -> str:
    """`value` with the unit that the last word of its key names; the outermost key with a unit decides."""
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return MISSING
    if path[-1] == "seed":
        return str(value)
    for key in path:
        text = _with_unit(key, float(value))
        if text is not None:
            return text
    return f"{value:,d}".replace(",", _SPACE) if isinstance(value, int) else f"{value:.4g}"


def _with_unit(key: str, value: float) -> str | None:
    if key.endswith("_tokens_per_s"):
        return f"{value:,.1f}{_SPACE}tokens/s".replace(",", _SPACE)
    match key.rpartition("_")[2]:
        case "s":
            return seconds_text(value)
        case "w":
            return _prefixed(value, "W")
        case "j":
            return f"{_prefixed(value / 3600.0, 'Wh')} ({_prefixed(value, 'J')})"
        case "pct":
            return f"{round(value, 2) + 0.0:+.2f}{_SPACE}%"
        case "points":
            return f"{value:.2f}{_SPACE}points"
        case "rps":
            return f"{value:.3f}{_SPACE}/s"
        case "budget":
            return f"{100.0 * value:.2f}{_SPACE}%"
        case "ratio":
            return f"{value:.3f}" if "heat" in key else f"{100.0 * value:.2f}{_SPACE}%"
    return None


def seconds_text(value_s: float) -> str:
    """A duration in the unit that suits it: `41.2 ms`, `3.5 h`."""
    for size, unit in _TIMES:
        # Two of the larger unit: 90 s reads better than 1.5 min.
        if abs(value_s) >= (size if size <= 1.0 else 2.0 * size):
            return f"{value_s / size:.3g}{_SPACE}{unit}"
    return f"{value_s:g}{_SPACE}s" if value_s == 0.0 else f"{value_s * 1e3:.2g}{_SPACE}ms"


def _prefixed(value: float, unit: str) -> str:
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{_SPACE}{prefix}{unit}"
    return f"{value:.4g}{_SPACE}{unit}"
