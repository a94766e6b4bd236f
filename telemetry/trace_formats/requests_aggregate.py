"""Requests drawn from ServeGen's summed rates: `*aggregate_10min.csv`, with `*tokens_6h.csv` beside it."""

from pathlib import Path

from telemetry.request_reading import Reading
from telemetry.request_spool import Intake
from telemetry.request_text import Source, open_source
from telemetry.servegen_aggregate import RATE_COLUMNS, TOKENS_SUFFIX, read_aggregate, tokens_beside, whole
from telemetry.trace_file import fail, printable
from telemetry.trace_formats.requests_servegen import store_drawn

_SUFFIX = "aggregate_10min.csv"


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the first line names the columns of summed rates."""
    return head.startswith(",".join(RATE_COLUMNS).encode())


def fill(source: Source, intake: Intake, reading: Reading) -> None:
    """Draw the requests of all clients together.

    Raises:
        DataError: one of the two files is missing or damaged; names file, line and remedy.
    """
    beside = tokens_beside(source.path, _SUFFIX)
    if beside is None:
        text = f"no token counts beside it; call it <name>{_SUFFIX} and put <name>{TOKENS_SUFFIX} into the same folder"
        fail(intake.name, None, text)
    with open_source(beside, printable(beside)) as tokens:
        load = read_aggregate(whole(source), whole(tokens), source.name, tokens.name)
    store_drawn(load, intake, reading)
