"""Requests on their way to the fleet: one interface for recorded traces and for generated load."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.errors import ConfigError
from sim_backend.result import Vec
from telemetry.request_spool import UNKNOWN
from telemetry.request_trace import RequestTrace

BLOCK_ROWS = 250_000
"""No block of arrivals is longer than this: a consumer's memory is bounded whatever the length of the run."""
MIN_COPY_ROWS = 256
"""A copy of a trace reads at least this many requests at once: else numpy's cost per call would dominate."""
MAX_FACTOR = 10_000.0
"""Each copy holds its few requests in memory: at this factor some 60 MB."""
DAY_S = 86_400.0
TRACE_STREAM = 1
"""Keeps the random numbers of recorded traces apart from those of other parts that share the run's seed."""
_MERGED = np.dtype(
    [("arrival_s", np.float64), ("prompt_tokens", np.int32), ("output_tokens", np.int32), ("priority", np.int8)]
)


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Some consecutive requests, in order of arrival."""

    arrival_s: Vec
    """Seconds from the start of the run, non-decreasing [k]."""
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    priority: NDArray[np.int8]
    """0 low, 1 high [k]."""

    def __len__(self) -> int:
        return len(self.arrival_s)


class ArrivalSource(Protocol):
    """Where requests come from. Reading twice gives the same requests."""

    @property
    def duration_s(self) -> float:
        """Length of the run; every arrival is before it."""
        ...

    def blocks(self) -> Iterator[Arrivals]:
        """Consecutive requests in time order, at most `BLOCK_ROWS` at once, never an empty block."""
        ...


@dataclass(frozen=True, slots=True)
class Silence:
    """No requests at all, for a while."""

    duration_s: float

    def blocks(self) -> Iterator[Arrivals]:
        """None."""
        return iter(())


@dataclass(frozen=True, slots=True)
class Load:
    """What is made of a recorded trace."""

    factor: float = 1.0
    """Requests per recorded request: rate multiplier times servers over servers before any were added."""
    compress_time: float = 1.0
    """Arrival times are divided by this."""
    low_share: float = 0.5
    """Share of the requests that are low priority, where the recording does not say which are."""
    days: float | None = None
    """The run ends after this much simulated time; None: with the trace."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.factor <= MAX_FACTOR:
            raise ConfigError(
                f"load factor {self.factor} must be above 0 and at most {MAX_FACTOR:g}: otherwise no request is left, "
                "or the copies no longer fit in memory"
            )
        if not (0.0 < self.compress_time < np.inf):
            raise ConfigError(f"compress_time={self.compress_time} must be above 0: arrival times are divided by it")
        if not 0.0 <= self.low_share <= 1.0:
            raise ConfigError(f"low_share={self.low_share} must lie between 0 and 1: it is a share of all requests")
        if self.days is not None and not (0.0 < self.days < np.inf):
            raise ConfigError(f"days={self.days} must be above 0: otherwise nothing is left to run")


class TraceArrivals:
    """A recorded trace, its load multiplied without touching its time axis.

    A factor m is floor(m) copies of the trace and one more of which each request is kept with probability m - floor(m).
    The first copy is the trace as recorded; each other one is shifted by an offset of its own, what runs over the
    end coming in at the start. Every random number depends on seed, copy and request alone, so a larger factor only
    ever adds requests: those of factor 1.3 are among those of factor 1.5, at the same times, with the same priority.
    """

    def __init__(self, trace: RequestTrace, load: Load, *, block_rows: int = BLOCK_ROWS) -> None:
        self._trace = trace
        self._load = load
        self._block_rows = block_rows

    @property
    def duration_s(self) -> float:
        """The trace's length after compression, or `days` if that is shorter."""
        whole_s = self._trace.duration_s / self._load.compress_time
        return whole_s if self._load.days is None else min(whole_s, self._load.days * DAY_S)

    def blocks(self) -> Iterator[Arrivals]:
        """Merge the copies, a bounded number of requests at once."""
        duration_s = self.duration_s
        for merged in _merge(self._copies()):
            arrival_s = merged["arrival_s"] / self._load.compress_time
            inside = int(np.searchsorted(arrival_s, duration_s))
            for start in range(0, inside, self._block_rows):
                rows = merged[start : min(start + self._block_rows, inside)]
                yield Arrivals(
                    arrival_s[start : start + len(rows)],
                    np.ascontiguousarray(rows["prompt_tokens"]),
                    np.ascontiguousarray(rows["output_tokens"]),
                    np.ascontiguousarray(rows["priority"]),
                )
            if inside < len(merged):
                return

    def _copies(self) -> list["_Copy"]:
        # 9 decimals: 1.1 x 10 is 11.000000000000002 in binary, and needs no twelfth copy.
        factor = round(self._load.factor, 9)
        count = int(np.ceil(factor))
        rows = max(MIN_COPY_ROWS, 2 * self._block_rows // (3 * count))  # a copy holds up to 1.5 times as many
        return [_Copy(self._trace, self._load, index, min(1.0, factor - index), rows) for index in range(count)]


class _Copy:
    """One copy of the trace, read forward from its own offset; holds at most `rows` requests."""

    def __init__(self, trace: RequestTrace, load: Load, index: int, kept_share: float, rows: int) -> None:
        priority, thinning, offset = (
            np.random.default_rng(np.random.SeedSequence(load.seed, spawn_key=(TRACE_STREAM, index, stream)))
            for stream in range(3)
        )
        self._trace = trace
        self._low_share = load.low_share
        self._kept_share = kept_share
        self._rows = rows
        self._priority = priority
        self._thinning = thinning
        self._period_s = trace.duration_s
        self._offset_s = 0.0 if index == 0 else float(offset.random()) * self._period_s
        self._at = self._first_wrapped()
        self._left = trace.rows
        self.waiting = np.empty(0, dtype=_MERGED)
        """Requests read but not yet taken, in time order."""

    def _first_wrapped(self) -> int:
        """Index of the first request that the shift carries over the end of the trace."""
        low, high = 0, self._trace.rows
        while low < high:
            middle = (low + high) // 2
            if float(self._trace.read(middle, middle + 1)["arrival_s"][0]) + self._offset_s >= self._period_s:
                high = middle
            else:
                low = middle + 1
        return low

    def fill(self) -> bool:
        """Have requests waiting, or say that none are left.

        Reads on when half are gone: if copies read only when empty, the merge would wait for each of them in turn.
        """
        while len(self.waiting) <= self._rows // 2 and self._left > 0:
            if self._at == self._trace.rows:
                self._at = 0
            stop = min(self._at + min(self._rows, self._left), self._trace.rows)
            read = self._trace.read(self._at, stop)
            self._at, self._left = stop, self._left - len(read)
            merged = np.empty(len(read), dtype=_MERGED)
            shifted_s = read["arrival_s"] + self._offset_s
            merged["arrival_s"] = np.where(shifted_s >= self._period_s, shifted_s - self._period_s, shifted_s)
            merged["prompt_tokens"] = read["prompt_tokens"]
            merged["output_tokens"] = read["output_tokens"]
            drawn = self._priority.random(len(read)) >= self._low_share
            extras = self._trace.read_extras(stop - len(read), stop)
            recorded = drawn if extras is None else extras["priority"]
            merged["priority"] = np.where(recorded == UNKNOWN, drawn, recorded)
            if self._kept_share < 1.0:
                merged = merged[self._thinning.random(len(read)) < self._kept_share]
            self.waiting = merged if len(self.waiting) == 0 else np.concatenate([self.waiting, merged])
        return len(self.waiting) > 0

    def take(self, until_s: float, *, inclusive: bool) -> NDArray[np.void]:
        """Remove and return what waits up to `until_s`."""
        stop = int(np.searchsorted(self.waiting["arrival_s"], until_s, side="right" if inclusive else "left"))
        taken, self.waiting = self.waiting[:stop], self.waiting[stop:]
        return taken


def _merge(copies: list[_Copy]) -> Iterator[NDArray[np.void]]:
    """All requests of all copies in order of (time, copy), without holding more than each copy's own few.

    What every copy has read up to the earliest of their last times is complete: later reads only bring later requests.
    """
    while True:
        copies = [copy for copy in copies if copy.fill()]
        if not copies:
            return
        until_s, short = min((float(copy.waiting["arrival_s"][-1]), index) for index, copy in enumerate(copies))
        taken = np.concatenate([copy.take(until_s, inclusive=index <= short) for index, copy in enumerate(copies)])
        yield taken[np.argsort(taken["arrival_s"], kind="stable")]
