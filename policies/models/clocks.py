"""Which clock a power limit leaves, and what that costs: `roofline` solved for the clock.

Dynamic power is switched capacitance times clock times voltage squared. Above a voltage floor the voltage follows the
clock, so that power goes with a power of it (3 if in proportion); below the floor the voltage stays and only the clock
is left to fall. That is why the last watts cost the most speed: measured on an RTX 3090, 10 W below 290 W take 7 % of
the clock and 10 W above it 3 %.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.models.roofline import memory_stretch, overlapped_s

Floats = NDArray[np.float64]
Num = TypeVar("Num", float, Floats)

# Halvings of [lowest clock, 1]: 2 ** -30 is far below the step of any clock table.
HALVINGS = 30


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """What a GPU draws at a clock; the fields of `roofline.busy_w` and two limits of the clock."""

    idle_w: float
    active_w: float
    compute_w: float
    memory_w: float
    exponent: float
    voltage_floor: float = 0.0
    """Clock ratio below which the voltage no longer falls; 0: it always does."""
    memory_knee: float = 0.0
    overlap: float = 1.0
    min_ratio: float = 0.01
    """Lowest clock over the highest: a limit that asks for less is not obeyed."""


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one piece of work at full clock; only their ratios matter for what a clock does to it."""

    compute_s: float
    memory_s: float
    waiting_s: float = 0.0
    """The GPU waits for the host."""


def dynamic_ratio(clock_ratio: Num, exponent: Num | float, voltage_floor: Num | float) -> Num:
    """Dynamic power at `clock_ratio` over that at full clock, of a GPU that is equally busy.

    Args:
        clock_ratio: phi = f / f_max.
        exponent: of the clock where the voltage follows it.
        voltage_floor: clock ratio at and below which the voltage is at its least; there power goes with the clock.
    """
    result: Num = clock_ratio * np.maximum(clock_ratio, voltage_floor) ** (exponent - 1.0)
    return result


def slowdown(law: PowerLaw, work: Work, clock_ratio: Num) -> Num:
    """Time of `work` at `clock_ratio` over its time at full clock."""
    full_s = overlapped_s(work.compute_s, work.memory_s, law.overlap) + work.waiting_s
    result: Num = _lasts_s(law, work, clock_ratio) / full_s
    return result


def drawn_w(law: PowerLaw, work: Work, clock_ratio: Num) -> Num:
    """Mean draw of a GPU that does `work` again and again at `clock_ratio`.

    The memory is charged for what it moves: below the knee it waits for the SMs and draws less.
    """
    lasts_s = _lasts_s(law, work, clock_ratio)
    busy = 1.0 - work.waiting_s / lasts_s
    switched_w = law.active_w * busy + law.compute_w * (work.compute_s / clock_ratio / lasts_s)
    dynamic = dynamic_ratio(clock_ratio, law.exponent, law.voltage_floor)
    result: Num = law.idle_w + dynamic * switched_w + law.memory_w * (work.memory_s / lasts_s)
    return result


def clock_under(law: PowerLaw, work: Work, limit_w: float | Floats) -> Floats:
    """The highest clock ratio at which `work` draws no more than `limit_w`.

    1 where the limit does not bind, `law.min_ratio` where no clock is low enough: there the GPU draws more than its
    limit.
    """
    limit = np.asarray(limit_w, dtype=np.float64)
    low, high = np.full(limit.shape, law.min_ratio), np.ones(limit.shape)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        over = drawn_w(law, work, middle) > limit
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    unlimited = drawn_w(law, work, np.ones(limit.shape)) <= limit
    return np.where(unlimited, 1.0, low)


def _lasts_s(law: PowerLaw, work: Work, clock_ratio: Num) -> Num:
    stretched_s = work.memory_s * memory_stretch(clock_ratio, law.memory_knee)
    result: Num = overlapped_s(work.compute_s / clock_ratio, stretched_s, law.overlap) + work.waiting_s
    return result
