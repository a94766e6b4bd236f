"""Tables in blanks: `dcgmi dmon` (both layouts) and `nvidia-smi dmon`.

Neither writes times unless asked to (`nvidia-smi dmon -o DT`): readings are known by their order, and their period is
given, or follows from the energy counter that dcgmi shows as TOTEC [mJ] (DCGM field 156).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from telemetry.power_rows import Floats, PowerRows, Sources, no_rows
from telemetry.trace_file import fail, line_blocks, printable, shown
from telemetry.trace_formats.cells import BadCell, numbers_of, times_of

MJ_PER_J = 1000.0
WHOLE = ("GPU", "CPU")
"""Entities with power of their own; an instance of a divided GPU (GPU-I, GPU-CI) repeats the whole GPU's."""
_DCGMI_HEADER = re.compile(rb"^[ \t]*#[ \t]*Entity[ \t][^\n]*", re.MULTILINE)
_DCGMI_ASIDE = re.compile(rb"[ \t]*(?:#[^\n]*|I[Dd](?:[ \t][^\n]*)?)?")
_SMI_HEADER = re.compile(rb"^# *(?:Date +Time +)?gpu +[^\n]*\bpwr\b[^\n]*", re.MULTILINE)


def sniff_dcgmi(head: bytes, _path: Path) -> bool:
    """Whether there is a header of dcgmi dmon near the start."""
    return _DCGMI_HEADER.search(head[:4096]) is not None


def sniff_nvidia_smi(head: bytes, _path: Path) -> bool:
    """Whether the first line is the header of nvidia-smi dmon, with power asked for."""
    return _SMI_HEADER.match(head.lstrip()) is not None


def read_dcgmi(path: Path) -> Iterator[PowerRows]:
    """Readings of each GPU, without times; DataError names a line that is no row."""
    name, sources = printable(path), Sources(printable(path))
    fields: list[str] = []
    for line, block in line_blocks(path):
        rows, defects = _Rows([], []), Counter[str]()
        for number, text in _finished(block, line, defects):
            if _DCGMI_ASIDE.fullmatch(text):
                fields = _dcgmi_fields(text, fields, name, number)
                continue
            # "GPU 0" and its fields.
            cells = text.split()
            if len(cells) != len(fields) + 2 or not fields:
                _refuse(name, number, text, "dcgmi dmon")
            if cells[0].decode("utf-8", "replace") in WHOLE:
                rows.take(cells, number)
            else:
                defects["repeats of a whole GPU"] += 1
        yield _dcgmi_rows(rows, fields, sources, name, defects) if rows.cells else no_rows(sources, defects)


class _Rows:
    """Rows of one block and their lines."""

    def __init__(self, cells: list[list[bytes]], lines: list[int]) -> None:
        self.cells, self.lines = cells, lines

    def take(self, cells: list[bytes], line: int) -> None:
        self.cells.append(cells)
        self.lines.append(line)

    def numbers(self, at: int, name: str) -> Floats:
        try:
            return numbers_of([cells[at] for cells in self.cells])
        except BadCell as bad:
            fail(name, self.lines[bad.row], f"{shown(self.cells[bad.row][at])} is not a number; correct the line")


def _finished(block: bytes, line: int, defects: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without a last one in which the logger was stopped."""
    lines = block.split(b"\n")
    if lines.pop().strip():
        defects["cut lines"] += 1
    return enumerate(lines, line)


def _dcgmi_fields(text: bytes, known: list[str], name: str, number: int) -> list[str]:
    """Names of the fields behind the entity; a header may come again, but the same one."""
    if _DCGMI_HEADER.match(text) is None:
        return known
    fields = text.decode("utf-8", "replace").replace("#", " ").split()[1:]
    if known and fields != known:
        fail(name, number, "the fields change here; cut the file in two, each with one set of fields")
    return fields


def _dcgmi_rows(rows: _Rows, fields: list[str], sources: Sources, name: str, defects: Counter[str]) -> PowerRows:
    if "POWER" in fields:
        power_w = rows.numbers(2 + fields.index("POWER"), name)
    else:
        power_w = np.full(len(rows.cells), np.nan)
    energy_j = rows.numbers(2 + fields.index("TOTEC"), name) / MJ_PER_J if "TOTEC" in fields else None
    source = sources.indices(
        [f"{cells[0].decode().lower()}{cells[1].decode('utf-8', 'replace')}" for cells in rows.cells]
    )
    return PowerRows(sources, source, None, power_w, "none", energy_j=energy_j, defects=defects)


def read_nvidia_smi(path: Path) -> Iterator[PowerRows]:
    """Readings of each GPU, with times only if the log was asked for them; DataError names a line that is no row."""
    name, sources = printable(path), Sources(printable(path))
    fields: list[str] = []
    for line, block in line_blocks(path):
        rows, defects = _Rows([], []), Counter[str]()
        for number, text in _finished(block, line, defects):
            cells = text.split()
            if _SMI_HEADER.match(text) and b"pwr" in cells:
                fields = text.decode("utf-8", "replace").lstrip("# ").split()
            elif not cells or cells[0].startswith(b"#"):
                continue
            elif fields and len(cells) == len(fields):
                rows.take(cells, number)
            else:
                _refuse(name, number, text, "nvidia-smi dmon")
        yield _smi_rows(rows, fields, sources, name, defects) if rows.cells else no_rows(sources, defects)


def _smi_rows(rows: _Rows, fields: Sequence[str], sources: Sources, name: str, defects: Counter[str]) -> PowerRows:
    power_w = rows.numbers(fields.index("pwr"), name)
    gpu = fields.index("gpu")
    source = sources.indices([f"gpu{cells[gpu].decode('utf-8', 'replace')}" for cells in rows.cells])
    if "Date" not in fields:
        return PowerRows(sources, source, None, power_w, "none", defects=defects)
    # Written as 20240501 12:00:00.
    day, clock = fields.index("Date"), fields.index("Time")
    try:
        time_s = times_of(
            [b"-".join((d[:4], d[4:6], d[6:])) + b" " + t for d, t in ((c[day], c[clock]) for c in rows.cells)]
        )
    except BadCell as bad:
        fail(name, rows.lines[bad.row], "no date and time like 20240501 12:00:00; correct or remove the line")
    return PowerRows(sources, source, time_s, power_w, "local", defects=defects)


def _refuse(name: str, number: int, text: bytes, program: str) -> None:
    fail(
        name,
        number,
        f"{shown(text.strip())} is no row of {program} under its header; the line may be cut short: fetch the file "
        "again, or remove the line",
    )
