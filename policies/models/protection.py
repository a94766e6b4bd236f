"""Thermal state of a breaker or UPS against its minimum-trip edge: how much of its overload time is used up."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MULTIPLE_MAX = 20.0
"""Inverse-time relays follow their curve up to 20 x the pickup current and keep that time beyond (IEC 60255-151)."""


class Edge(Protocol):
    """The minimum-trip edge of a device: the longest time for which it surely carries a load."""

    @property
    def cooling_s(self) -> float:
        """Time constant with which heat leaves below the rating."""
        ...

    def hold_s(self, load_ratio: float) -> float:
        """Seconds for which a constant load over the rating is surely carried: infinite if for ever, 0 if not."""
        ...


@dataclass(frozen=True, slots=True)
class TripEdge:
    """A curve given by points (load over rating, seconds carried), rising in load and falling in time.

    An overload below the first point is believed to be carried no longer than that point.
    """

    points: tuple[tuple[float, float], ...]
    cooling_s: float
    hold_ratio: float = 1.0
    """Up to this load the device carries for ever."""
    stepped: bool = False
    """Between points the time of the next one holds, as in tables of UPS overloads; otherwise it falls log-log."""
    beyond_s: float | None = None
    """Carried beyond the last point; None: as long as the last point."""

    def hold_s(self, load_ratio: float) -> float:
        """As `Edge.hold_s`."""
        if load_ratio <= self.hold_ratio:
            return math.inf
        if not self.points or load_ratio > self.points[-1][0]:
            last_s = self.points[-1][1] if self.points else 0.0
            return last_s if self.beyond_s is None else self.beyond_s
        if self.stepped:
            return next(seconds for load, seconds in self.points if load_ratio <= load)
        loads = [math.log(load) for load, _ in self.points]
        times = [math.log(seconds) for _, seconds in self.points]
        return math.exp(float(np.interp(math.log(load_ratio), loads, times)))


@dataclass(frozen=True, slots=True)
class InverseTimeEdge:
    """An electronic relay: `t = multiplier * (k / (M**exponent - 1) + constant_s)` at M times the pickup current.

    IEC 60255-151 and IEEE C37.112; the least time is that less the relay's tolerance.
    """

    k: float
    exponent: float
    constant_s: float
    cooling_s: float
    time_multiplier: float = 1.0
    pickup_ratio: float = 1.0
    """Pickup current over the rating: below it the relay never trips."""
    tolerance: float = 0.05
    """By which it may be faster; 5 % is the usual class."""

    def hold_s(self, load_ratio: float) -> float:
        """As `Edge.hold_s`."""
        multiple = min(load_ratio / self.pickup_ratio, MULTIPLE_MAX)
        if multiple <= 1.0:
            return math.inf
        seconds: float = self.k / (multiple**self.exponent - 1.0) + self.constant_s
        return self.time_multiplier * seconds * (1.0 - self.tolerance)


class Heat:
    """State of one protection device: 0 cold, 1 it may trip.

    Above the rating heat rises by dt / hold_s(load), so that a constant overload reaches 1 exactly at the
    edge; below, it decays with the cooling time constant. Conservative for real thermal elements, which also rise
    exponentially but start cooler.
    """

    def __init__(self, edge: Edge) -> None:
        """Start cold."""
        self.edge = edge
        self.ratio = 0.0

    def advance(self, load_ratio: float, dt_s: float) -> None:
        """Let `dt_s` pass at a constant load."""
        hold_s = self.edge.hold_s(load_ratio)
        if not math.isinf(hold_s):
            self.ratio += dt_s / hold_s if hold_s > 0.0 else math.inf
        elif self.ratio > 0.0:
            self.ratio *= math.exp(-dt_s / self.edge.cooling_s)
            if self.ratio < 1e-9:
                self.ratio = 0.0

    def left_s(self, load_ratio: float) -> float:
        """Seconds of this load until the device may trip; infinite when it is no overload."""
        hold_s = self.edge.hold_s(load_ratio)
        return math.inf if math.isinf(hold_s) else max(0.0, 1.0 - self.ratio) * hold_s


def derated_rating(ambient_c: float, reference_c: float, share_per_k: float) -> float:
    """Share of the rating that is left at an ambient temperature above the one the curve is stated for.

    Linear, `1 - share_per_k * (ambient - reference)`, and never above 1: a cool room is no reason to load more. The
    coefficient is the manufacturer's; thermal-magnetic breakers lose some 0.3 to 1 % per kelvin.
    """
    return min(1.0, max(0.0, 1.0 - share_per_k * (ambient_c - reference_c)))
