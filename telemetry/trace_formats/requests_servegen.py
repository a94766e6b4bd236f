"""Requests drawn from ServeGen's rate windows: a folder or .tar.xz of `chunk-<i>-trace.csv` and `-dataset.json`."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from telemetry.request_reading import Reading
from telemetry.request_spool import Intake, Recorded
from telemetry.request_text import Source, open_source
from telemetry.servegen import ServeGen
from telemetry.servegen_aggregate import read_quantiles, tokens_beside, whole
from telemetry.servegen_draw import drawn, expected_rows
from telemetry.servegen_files import read_archive, read_folder
from telemetry.trace_file import fail, printable

MAX_ROWS = 50_000_000
"""Requests kept at 16 bytes each; m-small would have 1.4 thousand million in its 14 days."""
_TAR_MAGIC_AT = 257
_SUFFIX = "raw.tar"


def sniff(head: bytes, path: Path) -> bool:
    """Whether this is a folder with files of clients, or an archive."""
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return True
    return not head and path.is_dir() and any(path.glob("chunk-*-trace.csv"))


def fill(source: Source, intake: Intake, reading: Reading) -> None:
    """Draw the requests of an archive.

    If token counts of all clients lie beside it (`<name>raw.tar.xz`, `<name>tokens_6h.csv`), clients that have none of
    their own get those.

    Raises:
        DataError: a file is damaged, or the requests are none or too many.
    """
    load = read_archive(source)
    beside = tokens_beside(source.path, _SUFFIX)
    if beside is not None:
        with open_source(beside, printable(beside)) as tokens:
            load = replace(load, rest=read_quantiles(whole(tokens), tokens.name))
    store_drawn(load, intake, reading)


def fill_folder(folder: Path, intake: Intake, reading: Reading) -> None:
    """Draw the requests of a folder; see `store_drawn`."""
    store_drawn(read_folder(folder, intake.name), intake, reading)


def store_drawn(load: ServeGen, intake: Intake, reading: Reading) -> None:
    """Draw requests and keep them.

    Raises:
        DataError: there would be none, or more than are kept.
    """
    rows = expected_rows(load, reading)
    if rows > MAX_ROWS:
        text = (
            f"stands for {rows:,.0f} requests, more than the {MAX_ROWS:,} that are kept; name a recipe instead, with "
            f"factor at most {reading.factor * MAX_ROWS / rows:.2g} or fewer days (docs/requests.md)"
        )
        fail(intake.name, None, text)

    def fault(_: int, text: str) -> NoReturn:
        fail(intake.name, None, text)

    for requests in drawn(load, reading):
        prompt_tokens, output_tokens = (requests[each].astype(np.int64) for each in ("prompt_tokens", "output_tokens"))
        intake.store(Recorded(requests["arrival_s"].copy(), prompt_tokens, output_tokens), fault)
        if intake.rows > 2 * MAX_ROWS:
            fail(intake.name, None, "bursts give far more requests than their rates say; read a share or a part of it")
    if intake.rows == 0:
        fail(intake.name, None, "no request falls into the span that is read; choose a longer one or a larger factor")
