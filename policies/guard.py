"""The envelope no policy can leave: device ranges, conservation of charges, rate-limited raises. Not pluggable."""

from dataclasses import dataclass

import numpy as np

from policies.arrays import Flags, Vec
from policies.policy import Fleet
from policies.topology import Constraints

EPSILON_W = 1e-6
"""Rounding of sums of a thousand watt values stays orders of magnitude below."""


def clipped_w(proposed_w: Vec, fallback_w: Vec, fleet: Fleet) -> Vec:
    """Caps inside [failsafe, nameplate]; NaN keeps what stands, inf means no cap."""
    known = np.where(np.isnan(proposed_w), fallback_w, proposed_w)
    return np.minimum(np.maximum(known, fleet.failsafe_w), fleet.nameplate_w)


def clipped_mhz(proposed_mhz: Vec, fallback_mhz: Vec, fleet: Fleet) -> Vec:
    """Clock caps inside the device range; NaN keeps what stands, inf means no cap."""
    known = np.where(np.isnan(proposed_mhz), fallback_mhz, proposed_mhz)
    return np.minimum(np.maximum(known, fleet.min_mhz), fleet.max_mhz)


def fitted(wanted_w: Vec, floor_w: Vec, constraints: Constraints, usable_w: Vec) -> Vec:
    """The caps nearest to `wanted_w` whose sums fit every constraint: the largest are cut first, to a common level.

    Args:
        wanted_w: caps [n], at least `floor_w`.
        floor_w: what no cap is cut below [n].
        constraints: whose sums count.
        usable_w: what each sum may be [m].

    Returns:
        Caps [n] <= `wanted_w`. If even the floors exceed a budget they are returned: raises are then impossible and
        the caller sees it in the sums.
    """
    fit_w = wanted_w
    over = constraints.total(fit_w) > usable_w + EPSILON_W
    if not over.any():
        return fit_w
    fit_w = fit_w.copy()
    # Parents stand before their children: cut from the leaves up, else a site is cut for watts that a row cannot have.
    for constraint in np.flatnonzero(over)[::-1]:
        members, share = constraints.servers(int(constraint)), constraints.shares(int(constraint))
        level_w = _level(fit_w[members], floor_w[members], share, float(usable_w[constraint]))
        fit_w[members] = np.minimum(fit_w[members], np.maximum(level_w, floor_w[members]))
    return fit_w


def _level(wanted_w: Vec, floor_w: Vec, share: Vec, usable_w: float) -> float:
    """Level L with sum(share * min(wanted, max(L, floor))) = usable: exact, from the sorted breakpoints.

    The sum is piecewise linear and rising in L, with slope = the shares of servers whose floor < L < wanted.
    """
    points = np.concatenate((floor_w, wanted_w))
    slopes = np.concatenate((share, -share))
    order = np.argsort(points, kind="stable")
    points, slope = points[order], np.cumsum(slopes[order])
    at_least = float(np.dot(share, np.minimum(wanted_w, floor_w)))
    rises = np.concatenate(((0.0,), np.cumsum(slope[:-1] * np.diff(points))))
    index = int(np.searchsorted(rises, usable_w - at_least, side="right")) - 1
    if index < 0:
        return float(points[0])
    if slope[index] <= 0.0:
        return float(points[index])
    return float(points[index] + (usable_w - at_least - rises[index]) / slope[index])


@dataclass(frozen=True, slots=True, eq=False)
class Books:
    """What the guard must know to conserve: who may draw what, all [n]."""

    granted_w: Vec
    """Last cap granted."""
    possible_w: Vec
    """Largest cap possibly in force; nameplate for what has not answered in this epoch."""
    certain: Flags
    """Fresh samples: only these may be raised."""


def conserved(target_w: Vec, books: Books, fleet: Fleet, constraints: Constraints, usable_w: Vec, raise_w: Vec) -> Vec:
    """Caps to grant now: lowerings at once, raises only out of watts that are certainly free.

    Args:
        target_w: caps that fit as a whole [n].
        books: charges and certainty.
        fleet: floors.
        constraints: whose sums count.
        usable_w: what the sum of charges of each may be [m].
        raise_w: most that may be handed out to each constraint in this step [m]: un-capping is rate-limited.
    """
    lowered_w = np.minimum(target_w, books.granted_w)
    rising = target_w > books.granted_w
    if not rising.any():
        return lowered_w
    charge_w = np.maximum(books.possible_w, fleet.failsafe_w)
    free_w = usable_w - constraints.total(charge_w)
    # Lower, confirm, then raise: a cap that is charged for more than was last granted is not confirmed yet.
    confirmed = books.possible_w <= books.granted_w
    rise_w = np.where(rising & confirmed & books.certain, target_w - books.granted_w, 0.0)
    asked_w = constraints.total(rise_w)
    room_w = np.minimum(np.maximum(free_w, 0.0), raise_w)
    factor = np.where(asked_w > room_w, room_w / np.maximum(asked_w, EPSILON_W), 1.0)
    return lowered_w + rise_w * constraints.tightest(factor, rise_w.size)


def unclocked(wanted_mhz: Vec, standing_mhz: Vec, order: Vec, at_most: int) -> Vec:
    """Clock caps with lowerings at once and at most `at_most` servers raised, taken in a fixed scattered order."""
    rising = np.flatnonzero(wanted_mhz > standing_mhz)
    if rising.size <= at_most:
        return wanted_mhz
    held = rising[np.argsort(order[rising], kind="stable")[at_most:]]
    result = wanted_mhz.copy()
    result[held] = standing_mhz[held]
    return result
