"""Power logs of MLPerf: the analyser's (`spl.txt`, written by PTDaemon) and the per-node ones of training runs.

PTDaemon writes `Time,MM-DD-YYYY HH:MM:SS.mmm,Watts,<total>,Volts,...` once per second, in the measuring host's local
time, and a negative total where the analyser failed. A training node writes one JSON object per line behind `:::MLLOG`;
those with key `power_reading` carry whole watts and Unix milliseconds.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from telemetry.power_rows import Floats, PowerRows, Sources, no_rows
from telemetry.trace_file import fail, line_blocks, printable, shown
from telemetry.trace_formats.cells import BadCell, numbers_of, times_of

MS_PER_S = 1000.0
_ANALYSER = re.compile(rb"Time,(\d\d-\d\d-\d{4} [^,\n]*),Watts,([^,\n]*),")
_ANALYSER_LINE = re.compile(rb"^Time,([^,\n]*),Watts,([^,\n]*),[^\n]*\n", re.MULTILINE)
_MARK = b":::MLLOG"
_READING_LINE = re.compile(
    rb'^:::MLLOG \{"namespace": ?"[^"\n]*", ?"time_ms": ?(\d+), ?"event_type": ?"POINT_IN_TIME", ?'
    rb'"key": ?"power_reading", ?"value": ?(-?\d+(?:\.\d+)?), ?"metadata": ?(?:""|\{[^{}\n]*\})\}\n',
    re.MULTILINE,
)


def sniff_analyser(head: bytes, _path: Path) -> bool:
    """Whether the first line is a reading of PTDaemon."""
    return _ANALYSER.match(head.lstrip()) is not None


def read_analyser(path: Path) -> Iterator[PowerRows]:
    """Readings of the analyser's total; DataError names a line that is none."""
    name, sources = printable(path), Sources(printable(path))
    meter = sources.index("")
    for line, unfinished in line_blocks(path):
        defects: Counter[str] = Counter()
        block = _finished(unfinished, defects)
        rows = _ANALYSER_LINE.findall(block)
        lines: range | list[int] = range(line, line + len(rows))
        if len(rows) != block.count(b"\n"):
            lines = _lines_of(block, line, name)
        if not rows:
            yield no_rows(sources, defects)
            continue
        try:
            time_s = times_of([row[0] for row in rows], month_first=True)
            power_w = numbers_of([row[1] for row in rows])
        except BadCell as bad:
            _refuse(name, lines[bad.row], b",".join(rows[bad.row]))
        yield PowerRows(sources, np.full(len(rows), meter, np.int32), time_s, power_w, "local", defects=defects)


def _lines_of(block: bytes, first_line: int, name: str) -> list[int]:
    """Lines of the readings where some lines are blank; raises at the first line that is neither."""
    lines = []
    for number, text in enumerate(block.splitlines(keepends=True), first_line):
        if _ANALYSER_LINE.match(text):
            lines.append(number)
        elif text.strip():
            _refuse(name, number, text)
    return lines


def _refuse(name: str, line: int, text: bytes) -> NoReturn:
    fail(
        name,
        line,
        f"{shown(text)} is no reading of a power analyser (Time,MM-DD-YYYY HH:MM:SS.mmm,Watts,...); "
        "fetch the file again, or remove the line",
    )


def _finished(block: bytes, defects: Counter[str]) -> bytes:
    """The block without a last line in which the logger was stopped; whether it is whole cannot be seen."""
    whole, newline, rest = block.rpartition(b"\n")
    if rest.strip():
        defects["cut lines"] += 1
    return whole + newline


def sniff_node(head: bytes, _path: Path) -> bool:
    """Whether the file is an MLPerf log that holds readings of power."""
    return _MARK in head[:4096] and (b'"power_reading"' in head or b'"power_measurement_start"' in head)


def read_node(path: Path) -> Iterator[PowerRows]:
    """Readings of one node; other events of the log are passed over. DataError names a line that is damaged."""
    name, sources = printable(path), Sources(printable(path))
    node = sources.index("")
    for line, unfinished in line_blocks(path):
        defects: Counter[str] = Counter()
        block = _finished(unfinished, defects)
        found = _READING_LINE.findall(block)
        if found and len(found) == block.count(b"\n"):
            time_ms, power_w = (np.array(column, dtype=np.bytes_) for column in zip(*found, strict=True))
            ticks: Floats = time_ms.astype(np.float64)
            watts: Floats = power_w.astype(np.float64)
        else:
            pairs = [pair for pair in _readings(block, line, name) if pair is not None]
            ticks, watts = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        source = np.full(len(ticks), node, np.int32)
        yield PowerRows(sources, source, ticks / MS_PER_S, watts, "unix", defects=defects)


def _readings(block: bytes, first_line: int, name: str) -> Iterator[tuple[float, float] | None]:
    for number, text in enumerate(block.split(b"\n"), first_line):
        match = _READING_LINE.match(text + b"\n")
        if match is not None:
            yield float(match[1]), float(match[2])
        elif _MARK in text:
            yield _event(text.partition(_MARK)[2], name, number)


def _event(text: bytes, name: str, number: int) -> tuple[float, float] | None:
    """Time and watts of one event of the log; None if it is about something else."""
    try:
        event = json.loads(text)
        if event["key"] != "power_reading":
            return None
        reading = event["value"]
        return float(event["time_ms"]), float("nan") if reading is None else float(reading)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        fail(name, number, f"{shown(text)} is no event of an MLPerf log; fetch the file again, or remove the line")
