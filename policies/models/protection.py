"""Thermal state of a breaker or UPS against its minimum-trip edge: how much of its overload time is used up."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class TripEdge:
    """The operator's minimum-trip curve: each overload is surely carried for so many seconds.

    `points` are (load over rating, seconds), rising in load and falling in time; log-log between them. An overload
    below the first point is believed to be carried no longer than that point, one beyond the last as long as the last.
    """

    points: tuple[tuple[float, float], ...]
    cooling_s: float

    def hold_s(self, load_ratio: float) -> float:
        """Seconds for which a constant `load_ratio` x the rating is surely carried; infinite up to the rating."""
        if load_ratio <= 1.0:
            return math.inf
        loads = [math.log(load) for load, _ in self.points]
        times = [math.log(seconds) for _, seconds in self.points]
        return math.exp(float(np.interp(math.log(load_ratio), loads, times)))


class Heat:
    """State of one protection device: 0 cold, 1 it may trip.

    Above the rating heat rises by dt / hold_s(load), so that a constant overload reaches 1 exactly at the
    edge; below, it decays with the cooling time constant. Conservative for real thermal elements, which also rise
    exponentially but start cooler.
    """

    def __init__(self, edge: TripEdge) -> None:
        """Start cold."""
        self.edge = edge
        self.ratio = 0.0

    def advance(self, load_ratio: float, dt_s: float) -> None:
        """Let `dt_s` pass at a constant load."""
        if load_ratio > 1.0:
            self.ratio += dt_s / self.edge.hold_s(load_ratio)
        elif self.ratio > 0.0:
            self.ratio *= math.exp(-dt_s / self.edge.cooling_s)
            if self.ratio < 1e-9:
                self.ratio = 0.0

    def left_s(self, load_ratio: float) -> float:
        """Seconds of this load until the device may trip; infinite when it is no overload."""
        hold_s = self.edge.hold_s(load_ratio)
        return math.inf if math.isinf(hold_s) else max(0.0, 1.0 - self.ratio) * hold_s
