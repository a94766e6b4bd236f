"""Whether a run stayed within what an operator would sign, and how many servers each policy therefore holds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from sim_backend.result import ReplayResult, RunResult

T1_RATIO = 0.80
"""First threshold over the budget, preset `polca-a100-2023`: Patel et al., ASPLOS 2024."""
T2_RATIO = 0.89
"""Second threshold over the budget, same source."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure that must stay strictly below `below`."""

    name: str
    path: tuple[str, ...]
    """Where the figure stands in a run's JSON."""
    below: float
    unit: str = ""

    @property
    def words(self) -> str:
        """The limit as it is written for people."""
        return f"0 {self.name}" if self.below == 1.0 and not self.unit else f"{self.name} < {self.below:g}{self.unit}"


# Service levels of Patel et al., ASPLOS 2024. Only the 1 % on the median of high priority is quoted from the text;
# the other three are recalled and not verified, so a replay may carry its own under `limits` in the header.
_PERCENT = "\N{NO-BREAK SPACE}%"
DEFAULT_LIMITS = {
    "brakes": Limit("brakes", ("brakes",), 1.0),
    "breaker_trips": Limit("trips", ("breaker_trips",), 1.0),
    "high_p50": Limit("HP P50", ("latency_change_pct", "high", "p50"), 1.0, _PERCENT),
    "high_p99": Limit("HP P99", ("latency_change_pct", "high", "p99"), 5.0, _PERCENT),
    "low_p50": Limit("LP P50", ("latency_change_pct", "low", "p50"), 5.0, _PERCENT),
    "low_p99": Limit("LP P99", ("latency_change_pct", "low", "p99"), 50.0, _PERCENT),
    "work_lost": Limit("work lost", ("recorded_work", "lost_pct"), 5.0, _PERCENT),
}
WORK_LOST = "work_lost"
"""Applies only where servers do recorded work. The 5 % is a choice, as for low-priority requests."""


class Outcome(StrEnum):
    """What the limits say of a run."""

    WITHIN = "within"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"
    """Nothing broken, but a figure is missing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, and the limits that decided it."""

    outcome: Outcome
    broken: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The outcome as text: `yes`, or `no: ` and the limits broken."""
        match self.outcome:
            case Outcome.WITHIN:
                return "yes"
            case Outcome.OUTSIDE:
                return f"no: {', '.join(self.broken)}"
            case Outcome.UNKNOWN:
                return f"unknown: no {', '.join(self.missing)}"


@dataclass(frozen=True, slots=True)
class Held:
    """What a policy carried on one path."""

    guarantee: str
    actuation: str
    policy: str
    add_servers_pct: float | None
    """Largest tested addition up to which every tested one stayed within the limits; None: not even the smallest."""
    servers: int | None
    is_most_tested: bool
    """Nothing larger was tried, so more may be possible."""


def limits_of(header: Mapping[str, object]) -> tuple[Limit, ...]:
    """The limits of this replay: the defaults, or what `limits` in the header puts in their place."""
    own = header.get("limits")
    given: Mapping[str, float] = own if isinstance(own, Mapping) else {}
    return tuple(
        Limit(limit.name, limit.path, float(given[key]), limit.unit) if key in given else limit
        for key, limit in DEFAULT_LIMITS.items()
        if key != WORK_LOST or header.get("recorded_servers")
    )


def figure(figures: Mapping[str, object], path: Iterable[str]) -> float | None:
    """The number at `path`; None where it is missing, null or not finite."""
    value: object = figures
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def judge(run: RunResult, limits: Iterable[Limit]) -> Verdict:
    """Hold a run's figures against the limits.

    A missing figure is never taken for a good one, with one exception: a class from which nobody asked anything
    cannot have been slowed.
    """
    broken, missing = [], []
    for limit in limits:
        value = figure(run.figures, limit.path)
        if value is None:
            if not _nobody_asked(run, limit):
                missing.append(limit.name)
        elif value >= limit.below:
            broken.append(limit.name)
    if broken:
        return Verdict(Outcome.OUTSIDE, tuple(broken), tuple(missing))
    if missing:
        return Verdict(Outcome.UNKNOWN, (), tuple(missing))
    return Verdict(Outcome.WITHIN)


def _nobody_asked(run: RunResult, limit: Limit) -> bool:
    priority = limit.path[1] if len(limit.path) == 3 else None
    if priority is None:
        return False
    asked = figure(run.figures, ("requests", "arrived", priority))
    if asked is None:
        asked = figure(run.figures, ("requests", priority, "arrived"))
    return asked == 0.0


def sections(result: ReplayResult) -> dict[tuple[str, str], list[RunResult]]:
    """Runs by (guarantee, actuation), in the order in which they were asked for."""
    found: dict[tuple[str, str], list[RunResult]] = {}
    for run in result.runs:
        found.setdefault((str(run.guarantee), str(run.actuation)), []).append(run)
    return found


def held(result: ReplayResult) -> list[Held]:
    """What each policy held, per guarantee and path, in the order in which they were asked for."""
    limits = limits_of(result.header)
    ladders: dict[tuple[str, str, str], list[RunResult]] = {}
    for (guarantee, actuation), runs in sections(result).items():
        for run in runs:
            ladders.setdefault((guarantee, actuation, run.policy), []).append(run)
    return [_held(key, ladder, limits) for key, ladder in ladders.items()]


def _held(key: tuple[str, str, str], ladder: list[RunResult], limits: Iterable[Limit]) -> Held:
    ladder = sorted(ladder, key=lambda run: run.add_servers_pct)
    good = list(takewhile(lambda run: judge(run, limits).outcome is Outcome.WITHIN, ladder))
    if not good:
        return Held(*key, add_servers_pct=None, servers=None, is_most_tested=False)
    return Held(
        *key,
        add_servers_pct=good[-1].add_servers_pct,
        servers=good[-1].servers,
        is_most_tested=len(good) == len(ladder),
    )
