"""Requests as CSV: the schema of the Azure LLM inference traces of 2023 and 2024, or seconds."""

from pathlib import Path
from typing import NoReturn

import numpy as np

from telemetry.request_reading import Reading
from telemetry.request_rows import NS_PER_S, Rows, Schema, is_header, parse_block, read_schema
from telemetry.request_spool import Intake, Recorded, require_rows
from telemetry.request_text import Lines, Source
from telemetry.trace_file import fail


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the first line names the columns of one of the two schemas."""
    return is_header(head.partition(b"\n")[0])


def fill(source: Source, intake: Intake, _reading: Reading) -> None:
    """Read all requests; with dates the first arrives at 0 s, seconds are kept as given.

    Raises:
        DataError: damaged, out of order or out of range; names file, line and remedy.
    """
    lines = Lines(source, "a CSV file")
    reader = _Reader(intake, lines)
    for block in lines:
        reader.take(block)
    if lines.line == 0:
        fail(intake.name, None, "the file is empty; give a request trace in CSV, plain or gzip")
    require_rows(intake, 1, "no request follows the header; give a trace with at least one request")


class _Reader:
    """Turns blocks of whole lines into stored requests, and keeps what one block must know of the last."""

    def __init__(self, intake: Intake, lines: Lines) -> None:
        self._intake = intake
        self._lines = lines
        self._schema: Schema | None = None
        self._origin_ns: int | None = None
        self._last: tuple[int, np.int64 | np.float64] | None = None
        """Line and time of the last row."""

    def take(self, block: bytes) -> None:
        """Whole lines, each with its newline."""
        if self._schema is None:
            header, _, block = block.partition(b"\n")
            self._schema = read_schema(header, self._intake.name)
            self._lines.line = 1
        if not block:
            return
        rows = parse_block(block, self._schema, self._intake.name, self._lines.line + 1)
        if len(rows.ticks) > 0:
            self._check_order(rows)
            self._store(rows, self._schema)
        self._lines.line += block.count(b"\n")

    def _line_of(self, rows: Rows, index: int) -> int:
        return self._lines.line + 1 + index if rows.line is None else int(rows.line[index])

    def _check_order(self, rows: Rows) -> None:
        ticks = rows.ticks
        if self._last is not None and ticks[0] < self._last[1]:
            self._unsorted(self._line_of(rows, 0), self._last[0])
        falls = np.flatnonzero(ticks[1:] < ticks[:-1])
        if len(falls):
            at = int(falls[0])
            self._unsorted(self._line_of(rows, at + 1), self._line_of(rows, at))
        self._last = (self._line_of(rows, len(ticks) - 1), ticks[-1])

    def _unsorted(self, line: int, before: int) -> NoReturn:
        text = f"this request arrives before the one on line {before}; sort the lines by time of arrival"
        fail(self._intake.name, line, text)

    def _store(self, rows: Rows, schema: Schema) -> None:
        if schema.clock:
            if self._origin_ns is None:
                self._origin_ns = int(rows.ticks[0])
            arrival_s = (rows.ticks - self._origin_ns) / NS_PER_S
        else:
            arrival_s = rows.ticks.astype(np.float64, copy=False)

        def fault(at: int, text: str) -> NoReturn:
            fail(self._intake.name, self._line_of(rows, at), text)

        self._intake.store(Recorded(arrival_s, rows.prompt_tokens, rows.output_tokens), fault)
