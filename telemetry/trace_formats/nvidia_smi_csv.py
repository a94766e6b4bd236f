"""`nvidia-smi --query-gpu=... --format=csv`, with or without units, columns in any order, GPUs interleaved.

Of the columns of power the first in `COLUMNS` that has a reading is taken, row by row: `instant` is what the GPU draws
now, while `power.draw` is a mean over a second on most GPUs since Ampere (nvidia-smi --help-query-gpu).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from telemetry.power_rows import Clock, Floats, PowerRows, Sources, no_rows
from telemetry.trace_file import fail, printable
from telemetry.trace_formats.table import TableBlock, read_table

COLUMNS = ("power.draw.instant", "power.draw", "power.draw.average")
_UNIT = re.compile(r"\s*\[[^\]]*\]$")
_NO_HEADER = re.compile(rb"\s*\d{4}/\d\d/\d\d \d\d:\d\d:\d\d")


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the first line asks for the power drawn, or is a row of such a table without its header."""
    line = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0]
    return (b"power.draw" in line and b"," in line and b"--" not in line) or bool(_NO_HEADER.match(line))


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of each GPU; DataError where the table is damaged or lacks its header."""
    sources = Sources(printable(path))
    for block in read_table(path):
        header = [_UNIT.sub("", column) for column in block.header]
        if not any(column in header for column in COLUMNS):
            fail(
                block.name,
                1,
                "the names of the columns are missing or none is power.draw; log without `noheader`, or put the names "
                "(timestamp,index,power.draw,...) in a first line",
            )
        yield _rows(block, header, sources) if len(block) else no_rows(sources, block.defects)


def _rows(block: TableBlock, header: list[str], sources: Sources) -> PowerRows:
    power_w = _power(block, header)
    time_s: Floats | None = None
    clock: Clock = "none"
    if "timestamp" in header:
        time_s, clock = block.times(header.index("timestamp")), "local"
    names, everywhere = _names(block, header)
    source = sources.indices(names, everywhere=everywhere)
    return PowerRows(sources, source, time_s, power_w, clock, defects=block.defects)


def _power(block: TableBlock, header: list[str]) -> Floats:
    power_w = np.full(len(block), np.nan)
    for first, column in enumerate(each for each in COLUMNS if each in header):
        rest = np.isnan(power_w)
        if not rest.any():
            break
        read_w = block.numbers(header.index(column), b"W")
        if first:
            block.defects["from another power column"] += int(np.count_nonzero(rest & ~np.isnan(read_w)))
        power_w[rest] = read_w[rest]
    return power_w


def _names(block: TableBlock, header: list[str]) -> tuple[list[str], bool]:
    """What tells the GPUs apart, and whether it does so in other files too."""
    for column in ("uuid", "gpu_uuid"):
        if column in header:
            return block.texts(header.index(column)), True
    for column in ("index", "pci.bus_id", "gpu_bus_id", "serial"):
        if column in header:
            return [f"gpu{word}" for word in block.texts(header.index(column))], False
    return [""] * len(block), False
