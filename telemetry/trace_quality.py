"""What a recording of power is worth: its figures, and every defect counted.

The rule for each defect is in docs/traces.md; a reading that is none stays in the trace as NaN and never counts as 0 W.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from telemetry.power_rows import Clock, Floats
from telemetry.power_spool import Samples

WHOLE_ROWS = 500_000
"""Up to here figures are taken from the samples at once (8 MB), beyond from pieces: p99 is then one of the readings, to
a billionth of their range, where it otherwise lies between two."""
GAP_RATIO = 2.5
"""An interval of more than so many periods is a gap: two readings in a row are missing."""
_BINS = 4096
Pieces = Callable[[], Iterable[Samples]]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the readings of one or more sources [W]."""

    readings: int
    mean_w: float
    p99_w: float
    peak_w: float
    least_w: float


@dataclass(frozen=True, slots=True)
class SourceQuality:
    """One source: a server, node, GPU or sensor."""

    source: str
    samples: int
    """Rows of the recording, with or without watts."""
    watts: Figures
    period_s: float
    """Median interval between its samples; NaN if there is but one."""
    first_s: float
    last_s: float
    """Of its readings, on the trace's common clock."""
    gaps: int
    """Intervals between two readings of over 2.5 periods."""
    longest_gap_s: float
    """Longest interval between two readings: how long the meter was blind."""
    defects: dict[str, int]


@dataclass(frozen=True, slots=True)
class TraceQuality:
    """A whole recording."""

    formats: dict[str, str]
    """File -> name of its format."""
    clock: Clock
    start_unix_s: float | None
    """When the common clock reads 0: seconds since 1970, of the wall clock if the zone is unknown; None: unknown."""
    period_from: str
    """Where the times come from."""
    samples: int
    overall: Figures | None
    """Over all readings of all sources; None if there are none."""
    start_spread_s: float
    """By how much the first readings of the sources are apart."""
    sources: tuple[SourceQuality, ...]
    without_watts: tuple[str, ...]
    """Sources that the recording names but has no watts for."""
    same_readings: tuple[tuple[str, str], ...]
    """Pairs of sources whose readings are all alike: one was probably recorded twice."""
    defects: dict[str, int]
    """Over all sources, and those that the format's reader met."""


def figures_of(pieces: Pieces, readings: int) -> Figures:
    """Mean, 99th percentile (between samples: linear), peak and least of readings.

    Args:
        pieces: gives the samples, anew at each call.
        readings: how many of them have watts.
    """
    if readings <= WHOLE_ROWS:
        watts = np.concatenate([each["power_w"] for each in pieces()])
        watts = watts[~np.isnan(watts)]
        return Figures(
            readings, float(watts.mean()), float(np.percentile(watts, 99)), float(watts.max()), float(watts.min())
        )
    total_w, peak_w, least_w = 0.0, -np.inf, np.inf
    for piece in pieces():
        watts = piece["power_w"][~np.isnan(piece["power_w"])]
        if len(watts):
            total_w += float(watts.sum())
            peak_w, least_w = max(peak_w, float(watts.max())), min(least_w, float(watts.min()))
    p99_w = _order(pieces, round(0.99 * (readings - 1)), least_w, peak_w)
    return Figures(readings, total_w / readings, p99_w, peak_w, least_w)


def _order(pieces: Pieces, rank: int, low_w: float, high_w: float) -> float:
    """The reading with `rank` others below it, from counts in bins that close in on it."""
    below = 0
    for _ in range(3):
        if high_w <= low_w:
            break
        edges = np.linspace(low_w, high_w, _BINS + 1)
        counts = np.zeros(_BINS, dtype=np.int64)
        under = 0
        for piece in pieces():
            watts = piece["power_w"][~np.isnan(piece["power_w"])]
            under += int(np.count_nonzero(watts < low_w))
            counts += np.histogram(watts, _BINS, (low_w, high_w))[0]
        below = under
        at = int(np.searchsorted(below + np.cumsum(counts), rank, side="right"))
        at = min(at, _BINS - 1)
        low_w, high_w = float(edges[at]), float(edges[at + 1])
    return low_w


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When readings of one source came."""

    period_s: float
    gaps: int
    longest_gap_s: float
    checksum: tuple[int, int]
    """Of the watts; equal for sources that recorded the same."""


def rhythm_of(pieces: Pieces, scale_s: float) -> Rhythm:
    """Period and gaps of one source; `scale_s` seconds are one unit of its times."""
    period_s, gaps, longest_s = float("nan"), 0, 0.0
    for time_s, read in _times(pieces(), scale_s):
        if np.isnan(period_s):
            # The first piece has thousands of samples, or all there are.
            steps_s = np.diff(time_s)
            steps_s = steps_s[steps_s > 0.0]
            period_s = float(np.median(steps_s)) if len(steps_s) else float("nan")
        steps_s = np.diff(time_s[read])
        if len(steps_s):
            gaps += int(np.count_nonzero(steps_s > GAP_RATIO * period_s))
            longest_s = max(longest_s, float(steps_s.max()))
    # Neither sum depends on where the pieces end.
    first, second = 0, 1
    for piece in pieces():
        letters = piece["power_w"].tobytes()
        first, second = zlib.crc32(letters, first), zlib.adler32(letters, second)
    return Rhythm(period_s, gaps, longest_s, (first, second))


def _times(pieces: Iterable[Samples], scale_s: float) -> Iterator[tuple[Floats, np.ndarray]]:
    """Times of each piece in order, with the last reading of the piece before in front."""
    last_s = np.zeros(0)
    for piece in pieces:
        order = np.argsort(piece["time_s"], kind="stable")
        time_s = piece["time_s"][order] * scale_s
        read = ~np.isnan(piece["power_w"][order])
        yield np.concatenate([last_s, time_s]), np.concatenate([np.ones(len(last_s), dtype=np.bool_), read])
        if read.any():
            last_s = time_s[read][-1:]
