"""Tables of watts: a column of times, a column of power whose name ends in its unit, columns that name the source.

The normalised recordings of MLPerf (`t_s,node_power_w,phase` and `sensor,node,time_ms,power_w`) are such tables, and so
are most files that people write themselves.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from telemetry.power_rows import Clock, Floats, PowerRows, Sources, no_rows
from telemetry.trace_file import fail, printable, shown
from telemetry.trace_formats.table import TableBlock, read_table

TIMES = re.compile(r"(t|time|timestamp|unix|time_unix|unix_time|timestamp_unix|elapsed)(_(s|ms|us|ns))?", re.IGNORECASE)
NAMES = ("sensor", "cluster", "rack", "server", "host", "hostname", "node", "source", "uuid", "device", "gpu", "meter")
"""Columns that tell sources apart, in the order in which they make up a name."""
SCALES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
UNIX_FROM_S = 5e8
"""Seconds above count from 1970 (this is 1985), below from the start of the recording (it is 16 years)."""
_LIMITS = re.compile(r"limit|cap|budget|max|min|tdp|rated|nameplate|idle|failsafe", re.IGNORECASE)
_DATE = re.compile(rb"\s*\d{4}[-/]\d\d[-/]\d\d[ T]")


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the first line names a time and a power."""
    try:
        line = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode("utf-8")
        header = [cell.strip() for cell in next(csv.reader([line]), [])]
    except (UnicodeDecodeError, csv.Error):
        return False
    return _time_column(header) is not None and bool(_power_columns(header))


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of a table of watts; DataError where it is damaged."""
    sources = Sources(printable(path))
    clock: Clock | None = None
    rows_of: Callable[[TableBlock], tuple[Floats, Floats]] | None = None
    names: list[int] = []
    for block in read_table(path):
        if rows_of is None:
            rows_of = _layout(block)
            names = [at for word in NAMES for at, column in enumerate(block.header) if column.lower() == word]
        if len(block):
            time_s, power_w = rows_of(block)
            if clock is None:
                clock = _clock(block, time_s)
            source = sources.indices(_names(block, names))
            yield PowerRows(sources, source, time_s, power_w, clock, defects=block.defects)
        else:
            yield no_rows(sources, block.defects)


def _names(block: TableBlock, columns: Sequence[int]) -> list[str]:
    if not columns:
        return [""] * len(block)
    parts = [block.texts(at) for at in columns]
    return parts[0] if len(parts) == 1 else ["/".join(row) for row in zip(*parts, strict=True)]


def _time_column(header: Sequence[str]) -> int | None:
    return next((at for at, column in enumerate(header) if TIMES.fullmatch(column)), None)


def _power_columns(header: Sequence[str]) -> list[int]:
    """Columns of watts or kilowatts that are no limits; one that is named power before all others."""
    lower = [column.lower() for column in header]
    for plain in ("power_w", "drawn_w", "power_watts", "watts", "power_kw"):
        if plain in lower:
            return [lower.index(plain)]
    return [
        at for at, column in enumerate(lower) if re.search(r"(_w|_watts|_kw)$", column) and not _LIMITS.search(column)
    ]


def _layout(block: TableBlock) -> Callable[[TableBlock], tuple[Floats, Floats]]:
    """How to take times and watts out of the blocks of this table."""
    time_at, power_at = _time_column(block.header), _power_columns(block.header)
    if time_at is None or not power_at:
        fail(block.name, 1, "no column of times (time_s, time_ms, timestamp) and one of watts (power_w); rename them")
    if len(power_at) > 1:
        columns = ", ".join(block.header[at] for at in power_at)
        fail(block.name, 1, f"several columns of watts ({shown(columns)}); rename the one to be read to power_w")
    scale = 1e3 if block.header[power_at[0]].lower().endswith("_kw") else 1.0
    unit = TIMES.fullmatch(block.header[time_at])
    tick_s = SCALES[(unit[3] or "s").lower()] if unit is not None else 1.0

    def rows_of(rows: TableBlock) -> tuple[Floats, Floats]:
        dated = _DATE.match(rows.columns[time_at][0])
        time_s = rows.times(time_at) if dated else rows.numbers(time_at) * tick_s
        lost = np.flatnonzero(~np.isfinite(time_s))
        if len(lost):
            fail(rows.name, rows.lines[int(lost[0])], "the reading has no time; correct or remove the line")
        return time_s, rows.numbers(power_at[0]) * scale

    return rows_of


def _clock(block: TableBlock, time_s: Floats) -> Clock:
    time_at = _time_column(block.header)
    assert time_at is not None
    if _DATE.match(block.columns[time_at][0]):
        return "local"
    return "unix" if time_s[0] >= UNIX_FROM_S else "start"
