"""Steady state of a saturated engine: a batch that is always full, with prompts joining as requests end.

Each request lasts as many steps as it has output tokens, so that of a batch of b requests b / output end in each step
in the mean, and as many prompts join. Their number per step is taken as Poisson distributed. A step is slower the more
join: its mean gives throughput and power, its median the inter-token latency that most tokens see.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, exp, sqrt

import numpy as np
from numpy.typing import NDArray

from policies.models.iteration import Iteration, iteration
from sim_backend.cards.instance import Instance

DRAWS, GROUPS = 1024, 8
"""Steps with prompts that are drawn to find how many tokens join in one, and the groups that they are counted in."""
CLOCK_STEPS = 30
"""Halvings of the clock ratio's interval: so fine that a fit can take differences."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a saturated engine is fed with."""

    batch: float
    """Requests decoding at a time, over all stages."""
    prompt_tokens: float
    """Of one request, in the mean."""
    prompt_cv: float
    """Coefficient of variation of prompt lengths (lognormal)."""
    output_tokens: float
    """Of one request, in the mean."""
    resident_ratio: float
    """Output tokens that a decoding request has behind it, in the mean over time, over `output_tokens`.

    Half for equal lengths; (1 + cv**2) / 2 for lengths with a coefficient of variation cv, because long requests are
    seen more often.
    """


@dataclass(frozen=True, slots=True)
class Saturated:
    """What a saturated engine shows."""

    mean_step_s: float
    """Batch over throughput."""
    median_step_s: float
    """Inter-token latency of the median token."""
    tokens_per_s: float
    gpu_w: float
    """Of one GPU."""
    clock_ratio: float
    """At which the power limit leaves the clock."""


@dataclass(frozen=True, slots=True)
class Joining:
    """What joins in a group of steps, in the mean of the group."""

    chance: float
    prompts: float
    tokens: float
    pairs: float


@cache
def joining(prompts: float, tokens: float, cv: float) -> tuple[Joining, ...]:
    """What joins per step: a Poisson number of prompts with lognormal lengths, from the fewest tokens to the most.

    Args:
        prompts: per step, in the mean.
        tokens: of a prompt, in the mean.
        cv: coefficient of variation of the latter.
    """
    counts = _some(prompts)
    normal = np.random.default_rng(0).standard_normal(counts.sum())
    lengths = np.exp(np.sqrt(np.log1p(cv * cv)) * normal)
    lengths *= tokens / lengths.mean()
    step = np.repeat(np.arange(DRAWS), counts)
    drawn = np.bincount(step, lengths, DRAWS)
    pairs = np.bincount(step, lengths * (lengths + 1.0) / 2.0, DRAWS)
    none = float(np.exp(-prompts))
    groups = np.array_split(np.argsort(drawn, kind="stable"), GROUPS)
    some = tuple(
        Joining(
            (1.0 - none) * len(group) / DRAWS,
            float(counts[group].mean()),
            float(drawn[group].mean()),
            float(pairs[group].mean()),
        )
        for group in groups
    )
    return (Joining(none, 0.0, 0.0, 0.0), *some)


def _some(mean: float) -> NDArray[np.int64]:
    """Poisson numbers of those steps that have any, at evenly spaced quantiles."""
    last = ceil(mean + 6.0 * sqrt(mean)) + 6
    chances, chance = np.empty(last), exp(-mean)
    for count in range(1, last + 1):
        chance *= mean / count
        chances[count - 1] = chance
    reached = np.cumsum(chances) / chances.sum()
    return np.searchsorted(reached, (np.arange(DRAWS) + 0.5) / DRAWS) + 1


def steps(case: Instance, fed: Requests, clock_ratio: float) -> list[tuple[float, list[Iteration]]]:
    """Iterations between two tokens of one stage's batch, with the probability of each group of steps."""
    model, batch = case.iteration, fed.batch / case.stages
    resident = fed.prompt_tokens + fed.resident_ratio * fed.output_tokens
    context = min(batch * resident, case.kv_tokens / case.stages)
    decode = iteration(model, batch, batch, 0.0, context, clock_ratio)
    result = []
    for group in joining(batch / fed.output_tokens, fed.prompt_tokens, fed.prompt_cv):
        if case.mixes and group.tokens:
            done = [iteration(model, batch, batch + group.tokens, group.pairs, context, clock_ratio)]
        elif group.tokens:
            done = [decode, iteration(model, group.prompts, group.tokens, group.pairs, 0.0, clock_ratio)]
        else:
            done = [decode]
        result.append((group.chance, done))
    return result


def at_clock(case: Instance, fed: Requests, clock_ratio: float) -> Saturated:
    """Steady state at a given clock."""
    cases = [
        (chance, sum(each.lasts_s for each in done), sum(each.lasts_s * each.gpu_w for each in done))
        for chance, done in steps(case, fed, clock_ratio)
    ]
    mean_s = sum(chance * lasts_s for chance, lasts_s, _ in cases)
    reached, median_s = 0.0, 0.0
    for chance, lasts_s, _ in sorted(cases, key=lambda each: each[1]):
        reached, median_s = reached + chance, lasts_s
        if reached >= 0.5:
            break
    gpu_w = sum(chance * joules for chance, _, joules in cases) / mean_s
    step_s = mean_s * case.stages
    return Saturated(step_s, median_s * case.stages, fed.batch / step_s, gpu_w, clock_ratio)


def saturated(case: Instance, fed: Requests, limit_w: float | None = None) -> Saturated:
    """Steady state under a power limit: the clock falls until the mean draw keeps it.

    Args:
        case: the engine instance.
        fed: its requests.
        limit_w: power limit of one GPU; default: as delivered.
    """
    limit_w = case.limit_w if limit_w is None else limit_w
    full = at_clock(case, fed, 1.0)
    if full.gpu_w <= limit_w:
        return full
    low, high = 0.0, 1.0
    for _ in range(CLOCK_STEPS):
        middle = (low + high) / 2.0
        if at_clock(case, fed, middle).gpu_w <= limit_w:
            low = middle
        else:
            high = middle
    return at_clock(case, fed, max(low, 2.0**-CLOCK_STEPS))
