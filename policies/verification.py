"""Whether caps sent over a path without acknowledgement are obeyed, judged by behaviour alone."""

import numpy as np

from policies.arrays import Ints, Vec
from policies.policy import Fleet
from policies.readings import Readings

CLOCK_TOLERANCE_MHZ = 20.0
"""More than one 15 MHz step of the clock table; a lock is obeyed to the step."""
POWER_TOLERANCE = 1.10
"""A server this far above its power cap does not obey it: firmware overshoots by about 5 % for a moment."""
GRACE_S = 2.0
"""A sensor window after the path's latency: a reading whose window began before the effect shows some of both."""


class Verification:
    """Out-of-band commands can fail without an error; what a busy GPU does tells."""

    def __init__(self, fleet: Fleet, period_s: float) -> None:
        """Look every `period_s`."""
        self.fleet = fleet
        self.period_s = period_s
        self.sent_s = np.full(fleet.nameplate_w.size, np.inf)
        self.next_s = -np.inf

    def sent(self, rows: Ints, now_s: float) -> None:
        """Commands to `rows` are on their way."""
        self.sent_s[rows] = now_s

    def due(self, now_s: float) -> bool:
        """Whether it is time to look again."""
        if now_s < self.next_s:
            return False
        self.next_s = now_s + self.period_s
        return True

    def lost(self, readings: Readings, cap_w: Vec, cap_mhz: Vec) -> Ints:
        """Servers whose busy GPUs run faster, slower or draw more than the cap sent to them explains.

        Slower counts only where nothing but an older clock cap can explain it: no power cap is asked for.
        """
        # When it was read counts: a dead sensor would have caps sent again for ever, and samples come late.
        old_enough = readings.read_at_s - self.sent_s >= self.fleet.cap_latency_s + GRACE_S
        if not old_enough.any():
            return np.empty(0, dtype=np.int64)
        clock = readings.clock_mhz
        too_fast = clock > cap_mhz + CLOCK_TOLERANCE_MHZ
        uncapped = cap_w >= self.fleet.nameplate_w
        too_slow = uncapped & (clock < cap_mhz - CLOCK_TOLERANCE_MHZ)
        too_much = ~uncapped & (readings.drawn_w > POWER_TOLERANCE * cap_w)
        return np.flatnonzero(old_enough & (too_fast | too_slow | too_much)).astype(np.int64)
