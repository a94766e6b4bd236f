"""Recorded power of servers, nodes or GPUs: read from any known format, judged, on one common clock."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from policies.errors import DataError
from telemetry.power_intake import FLAGS, LATE, PowerIntake
from telemetry.power_rows import MAX_SOURCES, Clock, Floats, PowerRows, Sources
from telemetry.power_spool import PowerSpool, Samples
from telemetry.trace import detect
from telemetry.trace_file import fail, printable
from telemetry.trace_quality import Figures, SourceQuality, TraceQuality, figures_of, rhythm_of

HOLD_S = 60.0
"""How long a reading stands for its source when no other follows: three times the longest gap (20 s) of the public
recording of 64 servers. Beyond, what the source draws is unknown."""
MAX_STEPS = 50_000_000
"""Steps of one sum (400 MB): a year and a half at 1 s."""
LATEST_S = 6.9e9
"""The year 2188; later, or before 1970, a time is misread."""
HIGHEST_J = 1e15
"""A megawatt for thirty years: a counter beyond is damaged."""
SORTED_ROWS = 4_000_000
"""Samples of one source that are put in order of time in memory (70 MB)."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerTrace:
    """Readings of power by source. Times are seconds on one clock for all sources."""

    sources: tuple[str, ...]
    """Sources that have readings, in order of appearance."""
    quality: TraceQuality
    _spool: PowerSpool
    _index: dict[str, int]
    _origin_s: float
    _scale_s: float

    def series(self, source: str) -> tuple[Floats, Floats]:
        """Times [s] in order, and watts; NaN where the recording has a sample but no reading.

        Where a time comes twice both samples stay, in the order of the recording: the last one holds.
        """
        samples = self.samples(source)
        return samples["time_s"].copy(), samples["power_w"].copy()

    def samples(self, source: str) -> Samples:
        """The same with the flags of each sample (`telemetry.power_intake.FLAGS`)."""
        pieces = list(self._spool.read(self._index[source]))
        samples = np.concatenate(pieces)
        samples["time_s"] = self._common(samples["time_s"])
        if np.any(samples["flags"] & LATE):
            samples = samples[np.argsort(samples["time_s"], kind="stable")]
        return samples

    def pieces(self, source: str) -> Iterator[Samples]:
        """The samples of one source in order of time, a part at a time.

        Raises:
            DataError: they are out of order and too many to be sorted in memory.
        """
        found = next(each for each in self.quality.sources if each.source == source)
        if not found.defects.get(FLAGS[LATE]):
            for piece in self._spool.read(self._index[source]):
                samples = piece.copy()
                samples["time_s"] = self._common(samples["time_s"])
                yield samples
        elif found.samples <= SORTED_ROWS:
            yield self.samples(source)
        else:
            raise DataError(f"{source}: {found.samples:,} samples out of order; sort the recording by time first")

    def total_w(
        self, step_s: float, *, sources: Sequence[str] | None = None, longest_hold_s: float = HOLD_S
    ) -> tuple[Floats, Floats]:
        """Sum over sources on a regular grid, while all of them are recorded.

        Each source stands at its last reading, for at most `longest_hold_s`; then the sum is NaN, for a meter that is
        silent has not gone to 0 W.

        Args:
            step_s: of the grid, which begins with the first reading of the last source to begin.
            sources: of which; default all. Sensors of the same server (`ac`, `dc`) must not be added up.
            longest_hold_s: how long a reading stands.

        Raises:
            DataError: there is nothing to add up, or no time at which all are recorded.
        """
        chosen = self.sources if sources is None else tuple(sources)
        if not chosen:
            raise DataError("no source with watts, so nothing to add up; give a recording with readings of power")
        spans = {each.source: each for each in self.quality.sources}
        first_s, last_s = max(spans[each].first_s for each in chosen), min(spans[each].last_s for each in chosen)
        steps = math.floor((last_s - first_s) / step_s + 1e-9) + 1
        if last_s < first_s:
            raise DataError(
                "the recordings of the sources do not overlap in time, so their sum is never known; choose sources"
            )
        if steps > MAX_STEPS:
            raise DataError(f"{steps:,} steps of {step_s} s, at most {MAX_STEPS:,}; take a longer step")
        time_s: Floats = first_s + step_s * np.arange(steps, dtype=np.float64)
        total_w: Floats = np.zeros(steps)
        for source in chosen:
            total_w += _held(*self.series(source), time_s, longest_hold_s)
        return time_s, total_w

    def figures(self, sources: Sequence[str]) -> Figures:
        """Mean, p99 and peak over all readings of some sources."""
        readings = sum(each.watts.readings for each in self.quality.sources if each.source in set(sources))
        return figures_of(
            lambda: (piece for each in sources for piece in self._spool.read(self._index[each])), readings
        )

    def _common(self, said: Floats) -> Floats:
        return np.asarray(said * self._scale_s - self._origin_s, dtype=np.float64)

    def close(self) -> None:
        """Give memory and disk back; nothing can be read afterwards."""
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _held(time_s: Floats, power_w: Floats, at_s: Floats, longest_s: float) -> Floats:
    """What a source drew at `at_s` as far as its readings tell."""
    read = ~np.isnan(power_w)
    time_s, power_w = time_s[read], power_w[read]
    last = np.searchsorted(time_s, at_s, side="right") - 1
    known = (last >= 0) & (at_s - time_s[last] <= longest_s)
    return np.where(known, power_w[last], np.nan)


def read_power(
    paths: str | Path | Sequence[str | Path],
    format: str | None = None,  # noqa: A002 -- the word of the command line
    *,
    period_s: float | None = None,
) -> PowerTrace:
    """Read recordings of power, of one or several files, as one trace.

    Args:
        paths: files, plain, gzip or xz; the formats may differ, the clocks may not.
        format: name of the format of all files; default: each file is asked.
        period_s: interval of the samples, for recordings that give no times.

    Raises:
        DataError: a file is missing, of no known format or damaged; names file, place and remedy.
    """
    files = [Path(each) for each in ([paths] if isinstance(paths, str | Path) else paths)]
    spool = PowerSpool()
    try:
        reading = _Reading(files, spool)
        for path in files:
            reading.take(path, format)
        return reading.finish(period_s)
    except BaseException:
        spool.close()
        raise


class _Reading:
    """Files on their way to one trace."""

    def __init__(self, files: Sequence[Path], spool: PowerSpool) -> None:
        self._prefixes = _prefixes(files)
        self._single = len(files) == 1
        self._spool = spool
        self._intake = PowerIntake(spool)
        self._names: dict[str, int] = {}
        self._formats: dict[str, str] = {}
        self._clock: Clock | None = None
        self._clock_file = ""
        self._defects: Counter[str] = Counter()

    def take(self, path: Path, forced: str | None) -> None:
        """Read one file to its end."""
        name = printable(path)
        found = detect(path, forced)
        if found.kind != "power":
            fail(name, None, f"holds {found.kind} ({found.name}), not power; give a recording of power")
        self._formats[name] = found.name
        numbers: list[int] = []
        for rows in found.open(path):
            self._defects.update(rows.defects)
            self._number(rows.sources, numbers, path)
            if len(rows.source):
                self._agree(rows, name)
                _check_times(rows, name)
                try:
                    self._intake.take(rows, np.array(numbers, dtype=np.int64)[rows.source])
                except OSError as error:
                    fail(name, None, f"no room for temporary files ({error.strerror}); set TMPDIR to a larger folder")

    def _number(self, sources: Sources, numbers: list[int], path: Path) -> None:
        """Give the sources of the file that are new their number in the trace."""
        for at in range(len(numbers), len(sources.names)):
            name = sources.names[at]
            if not sources.everywhere[at] and not (self._single and name):
                prefix = self._prefixes[path]
                name = f"{prefix}:{name}" if name else prefix
            if len(self._names) == MAX_SOURCES and name not in self._names:
                fail(printable(path), None, f"over {MAX_SOURCES:,} sources in all; read fewer files at once")
            numbers.append(self._names.setdefault(name, len(self._names)))

    def _agree(self, rows: PowerRows, name: str) -> None:
        words = {
            "unix": "counts from 1970 in UTC",
            "local": "has a local clock without a zone",
            "start": "counts from its own start",
            "none": "gives no times",
        }
        if self._clock is None:
            self._clock, self._clock_file = rows.clock, name
        elif rows.clock != self._clock:
            fail(
                name,
                None,
                f"{words[rows.clock]}, while {self._clock_file} {words[self._clock]}, so there is no common clock; "
                "import them one by one",
            )

    def finish(self, period_s: float | None) -> PowerTrace:
        """All files have been taken."""
        self._spool.flush()
        state = self._intake.state
        clock: Clock = "none" if self._clock is None else self._clock
        scale_s, period_from = self._scale(clock, period_s)
        read = {name: at for name, at in self._names.items() if at < len(state) and state["readings"][at] > 0}
        origin_s = 0.0
        if read and clock in ("unix", "local"):
            origin_s = min(float(state["first_s"][at]) for at in read.values())
        qualities: list[SourceQuality] = []
        checksums: dict[tuple[int, int], list[str]] = {}
        for name, at in read.items():
            found, checksum = self._source(name, at, scale_s, origin_s)
            qualities.append(found)
            if found.watts.readings > 20 and found.watts.least_w < found.watts.peak_w:
                checksums.setdefault(checksum, []).append(name)
        quality = TraceQuality(
            formats=self._formats,
            clock=clock,
            start_unix_s=origin_s if read and clock in ("unix", "local") else None,
            period_from=period_from,
            samples=int(state["rows"].sum()),
            overall=self._overall(read),
            start_spread_s=max((each.first_s for each in qualities), default=0.0)
            - min((each.first_s for each in qualities), default=0.0),
            sources=tuple(qualities),
            without_watts=tuple(name for name in self._names if name not in read),
            same_readings=tuple((same[0], other) for same in checksums.values() for other in same[1:]),
            defects={**_flagged(state["flags"].sum(axis=0)), **{word: n for word, n in self._defects.items() if n}},
        )
        return PowerTrace(tuple(read), quality, self._spool, read, origin_s, scale_s)

    def _source(self, name: str, at: int, scale_s: float, origin_s: float) -> tuple[SourceQuality, tuple[int, int]]:
        row = self._intake.state[at]
        rhythm = rhythm_of(lambda: self._spool.read(at), scale_s)
        found = SourceQuality(
            source=name,
            samples=int(row["rows"]),
            watts=figures_of(lambda: self._spool.read(at), int(row["readings"])),
            period_s=rhythm.period_s,
            first_s=float(row["first_s"]) * scale_s - origin_s,
            last_s=float(row["last_s"]) * scale_s - origin_s,
            gaps=rhythm.gaps,
            longest_gap_s=rhythm.longest_gap_s,
            defects=_flagged(row["flags"]),
        )
        return found, rhythm.checksum

    def _overall(self, read: dict[str, int]) -> Figures | None:
        if not read:
            return None
        readings = int(sum(self._intake.state["readings"][at] for at in read.values()))
        return figures_of(lambda: (piece for at in read.values() for piece in self._spool.read(at)), readings)

    def _scale(self, clock: Clock, period_s: float | None) -> tuple[float, str]:
        """Seconds per unit of the times, and in words where they come from."""
        if clock != "none":
            return 1.0, "the recording's own times"
        if period_s is not None:
            return period_s, "the period given"
        return self._counted()

    def _counted(self) -> tuple[float, str]:
        """The period of samples without times."""
        state = self._intake.state[self._intake.state["rows"] > 1]
        if len(state) == 0:
            return 0.0, "one sample of each source, without a time"
        energy_j = state["energy_j"] - state["first_energy_j"]
        used = (energy_j > 0.0) & (energy_j < HIGHEST_J) & (state["readings"] > 0)
        if not used.any():
            fail(self._clock_file, None, "gives no times; say with --period-s how many seconds lie between two samples")
        mean_w = state["sum_w"][used] / state["readings"][used]
        return float(np.median(energy_j[used] / mean_w / (state["rows"][used] - 1))), "the energy counter"


def _check_times(rows: PowerRows, name: str) -> None:
    if rows.time_s is not None and not ((rows.time_s >= 0.0) & (rows.time_s <= LATEST_S)).all():
        at = int(np.argmin((rows.time_s >= 0.0) & (rows.time_s <= LATEST_S)))
        fail(
            name,
            None,
            f"a sample at {rows.time_s[at]:g} s, and times lie between 0 and {LATEST_S:g} s (the year 2188); correct "
            "it, or check the unit of the column of times",
        )


def _flagged(counts: np.ndarray) -> dict[str, int]:
    """Counts of flags by what they mean, without those that did not occur."""
    return {words: int(counts[at]) for at, words in enumerate(FLAGS.values()) if counts[at]}


def _prefixes(files: Sequence[Path]) -> dict[Path, str]:
    """For each file the shortest end of its path that no other has, without what only says how it is packed."""
    ends = {path: (*path.parts[:-1], _stem(path.name)) for path in files}
    longest = max((len(parts) for parts in ends.values()), default=1)
    for length in range(1, longest + 1):
        short = {path: "/".join(parts[-length:]) for path, parts in ends.items()}
        if len(set(short.values())) == len(files):
            return {path: printable(text) for path, text in short.items()}
    raise DataError(f"{printable(files[0])} and others: a file is given twice; give each once")


def _stem(name: str) -> str:
    stem = name
    for end in (".gz", ".xz", ".txt", ".csv", ".json", ".prom", ".xml", ".parquet", ".log"):
        stem = stem.removesuffix(end)
    return stem if stem else name
