"""Requests as Parquet in our own schema: arrival, prompt and output tokens, and perhaps more."""

from functools import partial
from pathlib import Path

from telemetry.request_parquet import is_requests, read_parquet, row_fault
from telemetry.request_parquet_pages import MAGIC
from telemetry.request_reading import Reading
from telemetry.request_spool import Intake, check_rows, require_rows
from telemetry.request_text import Source


def sniff(head: bytes, path: Path) -> bool:
    """Whether this is Parquet and names our columns."""
    return head.startswith(MAGIC) and is_requests(path)


def fill(source: Source, intake: Intake, _reading: Reading) -> None:
    """Read all requests; times are kept as given.

    Raises:
        DataError: damaged, out of order or out of range; names file, row and remedy.
    """
    for recorded in read_parquet(source.path, intake.name):
        fault = partial(row_fault, intake.name, intake.rows)
        check_rows(recorded, intake.last_s, fault)
        intake.store(recorded, fault)
    require_rows(intake, None, "holds no request; give a trace with at least one")
