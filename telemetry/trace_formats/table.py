"""Text with one row per line and commas between its cells, read in blocks of columns."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from telemetry.power_rows import Floats
from telemetry.trace_file import fail, line_blocks, printable, shown
from telemetry.trace_formats.cells import BadCell, numbers_of, times_of

MAX_COLUMNS = 2_000
"""nvidia-smi has some 220 fields; more is no table of samples."""


@dataclass(frozen=True, slots=True, eq=False)
class TableBlock:
    """Some thousand rows of one table."""

    name: str
    """Of the file, for messages."""
    header: tuple[str, ...]
    """Names of the columns, without blanks around them."""
    columns: list[list[bytes]]
    """Cells, column by column."""
    lines: range | list[int]
    """Line of each row."""
    defects: Counter[str]

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, column: int, unit: bytes = b"") -> Floats:
        """The column as numbers, NaN where it says that there is none; DataError names the line of a bad cell."""
        try:
            return numbers_of(self.columns[column], unit)
        except BadCell as bad:
            self._refuse(column, bad.row, "a number")

    def times(self, column: int) -> Floats:
        """The column of dates as seconds since 1970; DataError names the line of a bad cell."""
        try:
            return times_of(self.columns[column])
        except BadCell as bad:
            self._refuse(column, bad.row, "a date and time like 2023/07/14 10:12:46.483")

    def texts(self, column: int) -> list[str]:
        """The column as words, without blanks around them."""
        # Names repeat from row to row: decoding each once is ten times faster.
        words = {cell: cell.decode("utf-8", "replace").strip() for cell in set(self.columns[column])}
        return [words[cell] for cell in self.columns[column]]

    def _refuse(self, column: int, row: int, wanted: str) -> NoReturn:
        cell = self.columns[column][row]
        fail(
            self.name,
            self.lines[row],
            f"{shown(cell)} in column {shown(self.header[column])} is not {wanted}; correct or remove the line",
        )


def read_table(path: Path) -> Iterator[TableBlock]:
    """Blocks of a table whose first line names the columns; the first block has no rows, to look at the names.

    A line that repeats the names (logs that were continued) is skipped and counted, and so is an unfinished last line
    that lacks cells (the logger was stopped in it).

    Raises:
        DataError: the file cannot be read, or a row has more or fewer cells than the header.
    """
    name = printable(path)
    empty: TableBlock | None = None
    names = b""
    for line, block in line_blocks(path):
        rows, above = block, 0
        if empty is None:
            names, _, rows = block.partition(b"\n")
            above = 1
            header = _header(names, name)
            empty = TableBlock(name, header, [[] for _ in header], range(0), Counter())
            yield empty
        if rows:
            yield _columns(rows, line + above, empty, names)


def _header(line: bytes, name: str) -> tuple[str, ...]:
    try:
        cells = next(csv.reader([line.decode("utf-8")], skipinitialspace=True), [])
    except (UnicodeDecodeError, csv.Error):
        fail(name, 1, "no text with the names of columns; give a CSV file with a header")
    if len(cells) > MAX_COLUMNS:
        fail(name, 1, f"over {MAX_COLUMNS} columns, so this is no table of samples; check the file")
    return tuple(cell.strip() for cell in cells)


def _columns(block: bytes, line: int, empty: TableBlock, first: bytes) -> TableBlock:
    width = len(empty.header)
    if b'"' not in block and block.endswith(b"\n"):
        letters = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(letters == ord("\n"))
        commas = np.searchsorted(np.flatnonzero(letters == ord(",")), ends)
        if (
            (np.diff(commas, prepend=0) == width - 1).all()
            and first not in block
            and (width > 1 or b"\n\n" not in block)
        ):
            cells = block[:-1].replace(b"\n", b",").split(b",")
            columns = [cells[k::width] for k in range(width)]
            return TableBlock(empty.name, empty.header, columns, range(line, line + len(ends)), Counter())
    return _careful(block, line, empty, first)


def _careful(block: bytes, line: int, empty: TableBlock, first: bytes) -> TableBlock:
    """One line at a time; raises at the first that is wrong."""
    width = len(empty.header)
    rows: list[list[bytes]] = []
    lines: list[int] = []
    defects: Counter[str] = Counter()
    texts = block.split(b"\n")
    unfinished = line + len(texts) - 1
    for number, text in enumerate(texts, line):
        if not text.strip():
            continue
        if text.strip() == first.strip():
            defects["repeated headers"] += 1
            continue
        cells = _split(text, empty.name, number)
        if len(cells) == width:
            rows.append(cells)
            lines.append(number)
        elif number == unfinished:
            defects["cut lines"] += 1
        else:
            fail(
                empty.name,
                number,
                f"{len(cells)} columns where the header has {width}; the line may be cut short or damaged: fetch the "
                "file again, or remove the line",
            )
    columns = [[row[k] for row in rows] for k in range(width)]
    return TableBlock(empty.name, empty.header, columns, lines, defects)


def _split(text: bytes, name: str, number: int) -> list[bytes]:
    if b'"' not in text:
        return text.split(b",")
    try:
        return [cell.encode() for cell in next(csv.reader([text.decode("utf-8", "replace")], skipinitialspace=True))]
    except csv.Error:
        fail(name, number, f"{shown(text)} is no row of a table; correct or remove the line")
