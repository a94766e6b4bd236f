"""What the controller believes the fleet draws: samples, meters, their ages, and the load nobody samples."""

import numpy as np

from policies.arrays import Flags, Vec
from policies.events import Metered, Sampled
from policies.policy import Fleet
from policies.topology import Constraints

HISTORY = 16
"""Sums of samples kept to compare with a late meter: meter delay and window are a few seconds."""


class Readings:
    """Last sample of each server, last reading of each meter.

    Where samples are trusted (in-band) a constraint draws their sum plus what its meter saw beyond them, if anything;
    where they are not, it draws what its meter says.
    """

    def __init__(self, fleet: Fleet, constraints: Constraints, stale_s: float, *, trust_samples: bool) -> None:
        """Start with nothing read."""
        n, m = fleet.nameplate_w.size, constraints.count
        self.fleet, self.constraints, self.stale_s, self.trust_samples = fleet, constraints, stale_s, trust_samples
        self.drawn_w = np.full(n, np.nan)
        self.clock_mhz = np.full(n, np.nan)
        self.read_at_s = np.full(n, -np.inf)
        self.fresh: Flags = np.zeros(n, dtype=np.bool_)
        self.all_fresh = False
        self.meter_w = np.full(m, np.nan)
        self.meter_at_s = np.full(m, -np.inf)
        self.measured_w = self.meter_w
        """What readings alone show each constraint to draw at the last estimate: a stale server adds nothing [m]."""
        self.unsampled_w = np.zeros(m)
        """Draw seen by the meter beyond the samples of the same time [m]."""
        self._sums: list[tuple[float, Vec]] = []

    def sampled(self, event: Sampled, now_s: float) -> None:
        """Take readings that are plausible; others leave what was known, to grow stale."""
        read_at_s = now_s - max(event.age_s, 0.0)
        plausible = (event.drawn_w >= 0.0) & (event.drawn_w <= 2.0 * self.fleet.nameplate_w[event.rows])
        if plausible.all():
            self.drawn_w[event.rows] = event.drawn_w
            self.clock_mhz[event.rows] = event.clock_mhz
            self.read_at_s[event.rows] = read_at_s
            return
        index = np.arange(self.drawn_w.size)[event.rows][plausible]
        self.drawn_w[index] = event.drawn_w[plausible]
        self.clock_mhz[index] = event.clock_mhz[plausible]
        self.read_at_s[index] = read_at_s

    def metered(self, event: Metered, now_s: float) -> None:
        """Take a domain meter's reading, and see what it counts beyond the samples of its time."""
        c, then_s = event.constraint, now_s - max(event.age_s, 0.0)
        if not 0.0 <= event.drawn_w < np.inf or then_s < self.meter_at_s[c]:
            # Implausible, or overtaken by a later reading.
            return
        self.meter_w[c], self.meter_at_s[c] = event.drawn_w, then_s
        if self.trust_samples and self._sums:
            matching = [total_w[c] for at_s, total_w in self._sums if then_s - 2.0 < at_s <= then_s + 1e-9]
            if matching:
                self.unsampled_w[c] = max(0.0, event.drawn_w - sum(matching) / len(matching))

    def estimate(self, now_s: float, possible_w: Vec) -> tuple[Vec, Vec]:
        """Draw of every server [n] and constraint [m]. Silence never lowers it: a stale server draws what it may."""
        if not self.trust_samples:
            self.measured_w = self.meter_w
            # An old meter reading is no reason to brake, nor to believe that all is well: the last one stands.
            return self.drawn_w, self.meter_w
        oldest_s = now_s - self.stale_s
        self.all_fresh = bool(self.read_at_s.min() >= oldest_s)
        if self.all_fresh:
            server_w = self.drawn_w
            if not self.fresh.all():
                self.fresh = np.ones(server_w.size, dtype=np.bool_)
        else:
            self.fresh = self.read_at_s >= oldest_s
            server_w = np.where(self.fresh, self.drawn_w, np.fmax(self.drawn_w, possible_w))
        sums_w = self.constraints.total(server_w)
        self._sums.append((now_s, sums_w))
        if len(self._sums) > HISTORY:
            del self._sums[0]
        bound_w = sums_w + self.unsampled_w
        self.measured_w = bound_w if self.all_fresh else self._measured_w(oldest_s)
        return server_w, bound_w

    def _measured_w(self, oldest_s: float) -> Vec:
        seen_w = self.constraints.total(np.where(self.fresh, self.drawn_w, 0.0)) + self.unsampled_w
        return np.where(self.meter_at_s >= oldest_s, np.fmax(seen_w, self.meter_w), seen_w)
