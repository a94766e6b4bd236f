"""ServeGen's fitted production load: who sends how many requests in each window of time, how bursty, how long."""

import bisect
from dataclasses import dataclass, field
from functools import cache
from math import gamma, lgamma, log

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Vec

WINDOW_S = 600
"""Length of a window of rates in the published files."""
LENGTHS_S = 21_600
"""Length of a window of token counts in the published files."""
_SHAPES = np.geomspace(0.08, 2000.0, 8_000)
"""Weibull shapes whose coefficients of variation span 0.0006 to 2,000: wider than any that is accepted."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenCounts:
    """A distribution of token counts, as the counts that occur and how often."""

    counts: NDArray[np.int32]
    cumulative: Vec
    """Running sum of the probabilities; the last need not be exactly 1 [k]."""

    def draw(self, rng: np.random.Generator, rows: int) -> NDArray[np.int32]:
        """Independent counts [rows]."""
        at = np.searchsorted(self.cumulative, rng.random(rows) * self.cumulative[-1], side="right")
        drawn: NDArray[np.int32] = self.counts[np.minimum(at, len(self.counts) - 1)]
        return drawn


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Prompt and output lengths of one client in one window; the source has no joint distribution of the two."""

    prompt: TokenCounts
    output: TokenCounts


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """One client: only windows in which it sends anything are kept."""

    number: int
    """As in the name of its file; random numbers depend on it."""
    start_s: NDArray[np.int64]
    """Rising multiples of `WINDOW_S` [windows]."""
    rate_rps: Vec
    """Above 0 [windows]."""
    cv: Vec
    """Coefficient of variation of the gaps between requests [windows]."""
    weibull: NDArray[np.bool_]
    """Which family the gaps are of; False: gamma [windows]."""
    lengths: dict[int, Lengths]
    """Start of a window of lengths -> lengths; empty: the source has none of this client."""

    def lengths_at(self, at_s: float) -> Lengths:
        """Those of the window at `at_s`, or of the nearest that has any; the earlier of two."""
        return self.lengths[_nearest(sorted(self.lengths), at_s)]


@dataclass(frozen=True, slots=True, eq=False)
class ServeGen:
    """All clients of one category of the data."""

    clients: tuple[Client, ...]
    """At least one of them has lengths."""
    end_s: int
    """End of the last window, idle ones included."""
    rest: dict[int, Lengths] = field(default_factory=dict)
    """Lengths of clients that have none of their own, by window; empty: they are pooled from those that have."""
    _pooled: dict[int, Lengths] = field(default_factory=dict, init=False)

    def rates(self) -> tuple[NDArray[np.int64], Vec, NDArray[np.int64]]:
        """Start of each window, requests per second of all clients in it, and how many send any."""
        windows = self.end_s // WINDOW_S
        rate_rps, active = np.zeros(windows), np.zeros(windows, dtype=np.int64)
        for client in self.clients:
            rate_rps[client.start_s // WINDOW_S] += client.rate_rps
            active[client.start_s // WINDOW_S] += 1
        return np.arange(windows, dtype=np.int64) * WINDOW_S, rate_rps, active

    def pooled(self, at_s: float) -> Lengths:
        """Lengths for clients of which the source has none: `rest` if there is any, else those of all others.

        The others are weighted by their rates in the window.
        A known client that has no lengths in this window stands with those of its nearest one. If no known client
        sends anything in the window, all weigh the same.
        """
        if self.rest:
            return self.rest[_nearest(sorted(self.rest), at_s)]
        start_s = int(at_s // LENGTHS_S) * LENGTHS_S
        if start_s not in self._pooled:
            self._pooled[start_s] = self._pool(start_s)
        return self._pooled[start_s]

    def _pool(self, start_s: int) -> Lengths:
        donors = [client for client in self.clients if client.lengths]
        weights = np.array([_mean_rate_rps(client, start_s) for client in donors])
        if not weights.any():
            weights = np.ones(len(donors))
        kept = [
            (client.lengths_at(start_s), weight) for client, weight in zip(donors, weights, strict=True) if weight > 0
        ]
        return Lengths(
            mixture([(lengths.prompt, weight) for lengths, weight in kept]),
            mixture([(lengths.output, weight) for lengths, weight in kept]),
        )


def mixture(parts: list[tuple[TokenCounts, float]]) -> TokenCounts:
    """One distribution of several, each with its weight."""
    shares = [np.diff(each.cumulative, prepend=0.0) * (weight / each.cumulative[-1]) for each, weight in parts]
    return TokenCounts(np.concatenate([each.counts for each, _ in parts]), np.cumsum(np.concatenate(shares)))


def _mean_rate_rps(client: Client, start_s: int) -> float:
    inside = (client.start_s >= start_s) & (client.start_s < start_s + LENGTHS_S)
    return float(client.rate_rps[inside].sum()) * WINDOW_S / LENGTHS_S


def _nearest(starts_s: list[int], at_s: float) -> int:
    """The window that holds `at_s` if there is one, else the one whose start or end is nearest; the earlier of two."""
    after = bisect.bisect_right(starts_s, at_s)
    if after == 0:
        return starts_s[0]
    before_s = starts_s[after - 1]
    if after == len(starts_s) or at_s - (before_s + LENGTHS_S) <= starts_s[after] - at_s:
        return before_s
    return starts_s[after]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps between requests: a renewal process of given rate and coefficient of variation.

    The published files also carry fitted parameters. For Weibull windows these contradict the stated rate and CV: the
    rate that they imply is off by -47% to +10% in the middle 80% of the windows of m-small. Rate and CV are
    measurements, so the parameters are made from them: gamma with shape 1/CV^2, Weibull with the shape whose CV it is.
    """

    shape: float
    scale_s: float
    weibull: bool

    @staticmethod
    def of(rate_rps: float, cv: float, *, weibull: bool) -> "Gaps":
        """Parameters of the family that give this rate and CV."""
        if not weibull:
            return Gaps(1.0 / cv**2, cv**2 / rate_rps, weibull=False)
        log_cv, log_shape = _weibull_table()
        shape = float(np.exp(np.interp(np.log(cv), log_cv, log_shape)))
        return Gaps(shape, 1.0 / (rate_rps * gamma(1.0 + 1.0 / shape)), weibull=True)

    def first_s(self, rng: np.random.Generator) -> float:
        """Time from any moment to the next request, in equilibrium.

        Started this way, the expected number of requests of a window is exactly rate times length, whatever the CV:
        a uniform part of a gap that is drawn in proportion to its length.
        """
        if self.weibull:
            long_s = self.scale_s * rng.gamma(1.0 + 1.0 / self.shape) ** (1.0 / self.shape)
        else:
            long_s = self.scale_s * rng.gamma(1.0 + self.shape)
        return float(long_s * rng.random())

    def draw(self, rng: np.random.Generator, rows: int) -> Vec:
        """Independent gaps [rows]."""
        return self.scale_s * (rng.weibull(self.shape, rows) if self.weibull else rng.gamma(self.shape, size=rows))


@cache
def _weibull_table() -> tuple[Vec, Vec]:
    """Logarithms of CV (rising) and shape: CV^2 + 1 = G(1 + 2/k) / G(1 + 1/k)^2, gamma function G, shape k."""
    log_cv = [0.5 * log(np.expm1(lgamma(1.0 + 2.0 / k) - 2.0 * lgamma(1.0 + 1.0 / k))) for k in _SHAPES.tolist()]
    return np.array(log_cv[::-1]), np.log(_SHAPES[::-1])
