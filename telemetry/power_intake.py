"""Readings judged one block after the other: what is a reading, what is none, and what is odd about it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from telemetry.power_rows import Floats, PowerRows
from telemetry.power_spool import SAMPLE, Indices, PowerSpool, Samples

MISSING, FAILED, ZERO, REPEATED, STALE, LATE, SAME_TIME, STEPPED = (1 << bit for bit in range(8))
"""Flags of a sample; `FLAGS` says what each means."""
FLAGS = {
    MISSING: "no reading",
    FAILED: "failed readings",
    ZERO: "0 W",
    REPEATED: "repeated watts",
    STALE: "unchanged energy counter",
    LATE: "out of order",
    SAME_TIME: "same time twice",
    STEPPED: "clock set back by an hour",
}
HIGHEST_W = 1e6
"""No server or GPU draws a megawatt: DCGM writes 1.4e14 for a blank, NVML 4.3e6 W for an unsigned -1."""
HOUR_S = 3600.0
STEP_SLACK_S = 10.0
"""Between the last sample of summer time and the first of winter time lies one period, at most this."""

_STATE = np.dtype(
    [
        ("rows", "<i8"),
        ("readings", "<i8"),
        ("sum_w", "<f8"),
        ("said_s", "<f8"),
        ("time_s", "<f8"),
        ("power_w", "<f8"),
        ("energy_j", "<f8"),
        ("first_energy_j", "<f8"),
        ("first_s", "<f8"),
        ("last_s", "<f8"),
        ("shift_s", "<f8"),
        ("flags", "<i8", (8,)),
    ]
)
_UNKNOWN = ("said_s", "time_s", "power_w", "energy_j", "first_energy_j")


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Readings sorted by source, with what the source showed before each."""

    source: Indices
    first: NDArray[np.bool_]
    """Whether it is the first of its source in the block."""
    starts: Indices
    place: Indices
    """Of each among those of its source in the block."""

    def before(self, values: Floats, last: Floats) -> Floats:
        """For each reading the value before it of the same source, `last` where the block begins."""
        shifted = np.empty(len(values))
        shifted[1:] = values[:-1]
        shifted[self.starts] = last[self.source[self.starts]]
        return shifted

    @property
    def ends(self) -> Indices:
        """The last reading of each source."""
        return np.append(self.starts[1:], len(self.source)) - 1


class PowerIntake:
    """Takes blocks of readings and keeps what one block must know of the last, source by source."""

    def __init__(self, spool: PowerSpool) -> None:
        self._spool = spool
        self._state = np.zeros(0, dtype=_STATE)

    @property
    def state(self) -> NDArray[np.void]:
        """One row per source: rows, readings, their sum [W], first and last time, energies [J], count of each flag."""
        return self._state

    def take(self, rows: PowerRows, source: Indices) -> None:
        """Judge and keep a block; `source` numbers the sources of the whole trace. May raise OSError: disk full."""
        if len(source) == 0:
            return
        self._grow(int(source.max()) + 1)
        order = np.argsort(source, kind="stable")
        source = source[order]
        first = np.diff(source, prepend=-1) != 0
        starts = np.flatnonzero(first)
        place = np.arange(len(source)) - np.repeat(starts, np.diff(starts, append=len(source)))
        block = _Block(source, first, starts, place)
        samples = np.empty(len(source), dtype=SAMPLE)
        samples["power_w"], samples["flags"] = _judged(rows.power_w[order])
        self._time(samples, block, rows, order)
        self._compare(samples, block, None if rows.energy_j is None else rows.energy_j[order])
        self._count(samples, block)
        self._spool.append(source, samples)

    def _grow(self, sources: int) -> None:
        if sources > len(self._state):
            more = np.zeros(max(sources, 2 * len(self._state)) - len(self._state), dtype=_STATE)
            for each in _UNKNOWN:
                more[each] = np.nan
            more["first_s"], more["last_s"] = np.inf, -np.inf
            self._state = np.concatenate([self._state, more])

    def _time(self, samples: Samples, block: _Block, rows: PowerRows, order: Indices) -> None:
        """Times as said, or the reading's number; summer time is carried on where a local clock falls back."""
        state = self._state
        if rows.time_s is None:
            samples["time_s"] = state["rows"][block.source] + block.place
            return
        said_s = rows.time_s[order]
        time_s = said_s
        if rows.clock == "local":
            fall_s = block.before(said_s, state["said_s"]) - said_s
            stepped = np.abs(fall_s - HOUR_S + STEP_SLACK_S / 2) <= STEP_SLACK_S / 2
            total = np.cumsum(stepped, dtype=np.int64)
            steps = total - np.repeat((total - stepped)[block.starts], np.diff(block.starts, append=len(total)))
            shift_s = state["shift_s"][block.source] + steps * HOUR_S
            time_s = said_s + shift_s
            samples["flags"] |= np.where(stepped, STEPPED, 0).astype(np.uint8)
            state["shift_s"][block.source[block.ends]] = shift_s[block.ends]
        state["said_s"][block.source[block.ends]] = said_s[block.ends]
        samples["time_s"] = time_s

    def _compare(self, samples: Samples, block: _Block, energy_j: Floats | None) -> None:
        """Flag what is odd beside the sample before."""
        state = self._state
        time_s, power_w = samples["time_s"].copy(), samples["power_w"].copy()
        since_s = time_s - block.before(time_s, state["time_s"])
        flags = np.where(power_w == block.before(power_w, state["power_w"]), REPEATED, 0)
        flags |= np.where(since_s < 0.0, LATE, 0) | np.where(since_s == 0.0, SAME_TIME, 0)
        ends = block.ends
        if energy_j is not None:
            flags |= np.where(energy_j == block.before(energy_j, state["energy_j"]), STALE, 0)
            state["energy_j"][block.source[ends]] = energy_j[ends]
            at_first = block.source[block.starts]
            begun = ~np.isnan(state["first_energy_j"][at_first])
            state["first_energy_j"][at_first] = np.where(
                begun, state["first_energy_j"][at_first], energy_j[block.starts]
            )
        samples["flags"] |= flags.astype(np.uint8)
        state["time_s"][block.source[ends]] = time_s[ends]
        state["power_w"][block.source[ends]] = power_w[ends]

    def _count(self, samples: Samples, block: _Block) -> None:
        state, source = self._state, block.source
        read = ~np.isnan(samples["power_w"])
        state["rows"] += np.bincount(source, minlength=len(state))
        state["readings"] += np.bincount(source[read], minlength=len(state))
        state["sum_w"] += np.bincount(source[read], weights=samples["power_w"][read], minlength=len(state))
        np.minimum.at(state["first_s"], source[read], samples["time_s"][read])
        np.maximum.at(state["last_s"], source[read], samples["time_s"][read])
        for bit in range(8):
            flagged = (samples["flags"] >> bit & 1).astype(np.bool_)
            state["flags"][:, bit] += np.bincount(source[flagged], minlength=len(state))


def _judged(said_w: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Watts with NaN for what is no reading, and why it is none."""
    failed = (said_w < 0.0) | (said_w > HIGHEST_W)
    zero = said_w == 0.0
    flags = np.where(np.isnan(said_w), MISSING, 0) | np.where(failed, FAILED, 0) | np.where(zero, ZERO, 0)
    return np.where(failed | zero, np.nan, said_w), flags.astype(np.uint8)
