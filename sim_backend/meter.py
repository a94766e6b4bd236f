"""The row meter: a mean over its window, delivered late; and what its series says about rises."""

import numpy as np

from policies.arrays import Vec


class RowMeter:
    """Meters of all constraints at once, fed with 1 s means."""

    def __init__(self, constraints: int, window_s: int, delay_s: int) -> None:
        """Start empty.

        Args:
            constraints: how many meters.
            window_s: each reading is the mean over this.
            delay_s: and arrives this long after its window has ended.
        """
        self.window_s, self.delay_s = window_s, delay_s
        self._ring = np.zeros((window_s + delay_s, constraints))
        self._seconds = 0

    def advance(self, constraint_w: Vec) -> Vec | None:
        """Take one more second's means [m]; the reading that arrives now, if one does [m]."""
        self._ring[self._seconds % self._ring.shape[0]] = constraint_w
        self._seconds += 1
        ended = self._seconds - self.delay_s
        if ended < self.window_s or ended % self.window_s:
            return None
        seconds = np.arange(ended - self.window_s, ended) % self._ring.shape[0]
        reading: Vec = self._ring[seconds].mean(axis=0)
        return reading


def window_means(series_w: Vec, window_s: int) -> Vec:
    """Successive means over `window_s` seconds of a 1 s series; an unfinished window is left out."""
    whole = series_w.size // window_s
    means: Vec = series_w[: whole * window_s].reshape(whole, window_s).mean(axis=1)
    return means


def largest_rise(readings: Vec, steps: int) -> float:
    """Rise(L): the largest of p(t + d) - p(t) over all t and 0 <= d <= `steps` readings; what only falls has none."""
    rises = [float((readings[d:] - readings[:-d]).max()) for d in range(1, steps + 1) if d < readings.size]
    return max((0.0, *rises))
