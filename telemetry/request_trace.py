"""Recorded requests: any length, read in constant memory, checked line by line, kept where they can be read again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telemetry.request_parquet_pages import MAGIC
from telemetry.request_reading import READ_WHOLE, Reading
from telemetry.request_rows import Ints
from telemetry.request_spool import MEMORY_BYTES, UNKNOWN, Intake, Recorded, Requests, Spool
from telemetry.request_text import open_source
from telemetry.trace_file import printable
from telemetry.trace_formats import (
    requests_aggregate,
    requests_csv,
    requests_mooncake,
    requests_parquet,
    requests_recipe,
    requests_servegen,
)

_TRIED = (requests_servegen, requests_mooncake, requests_aggregate, requests_recipe)
"""Formats that know their files; what none of them knows must be CSV, whose reader says best what is wrong with it."""
BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class RequestTrace:
    """A checked trace: in order, in range, ready to be read any number of times."""

    path: Path
    rows: int
    first_s: float
    last_s: float
    """Arrival of the last request [s from the start of the run]."""
    zero_output_rows: int
    """Requests recorded with 0 generated tokens; prefill always yields one, so they count as 1."""
    spool: Spool
    extras: Spool | None = None
    """Cached tokens and priority, where the recording says anything of them."""
    reading: Reading = READ_WHOLE

    @property
    def duration_s(self) -> float:
        """Where the trace would start again: one mean gap behind its last request (1 s if there is no gap)."""
        gap_s = (self.last_s - self.first_s) / (self.rows - 1) if self.rows > 1 else 0.0
        return self.last_s + (gap_s if gap_s > 0.0 else 1.0)

    def read(self, start: int, stop: int) -> Requests:
        """Requests `start` to `stop` (exclusive) as an array of `REQUEST`."""
        return self.spool.read(start, stop)

    def read_extras(self, start: int, stop: int) -> Requests | None:
        """Of the same requests, an array of `EXTRA`; None: the recording says nothing beyond arrival and lengths."""
        return None if self.extras is None else self.extras.read(start, stop)

    def blocks(self, block_rows: int = BLOCK_ROWS) -> Iterator[Recorded]:
        """All requests in order, at most `block_rows` at once."""
        for start in range(0, self.rows, block_rows):
            requests, extras = self.read(start, start + block_rows), self.read_extras(start, start + block_rows)
            yield Recorded(
                requests["arrival_s"].copy(),
                requests["prompt_tokens"].astype(np.int64),
                requests["output_tokens"].astype(np.int64),
                *(_said(extras, column) for column in ("cached_tokens", "priority")),
            )

    def close(self) -> None:
        """Give memory and disk back; `read` is not allowed afterwards."""
        self.spool.close()
        if self.extras is not None:
            self.extras.close()

    def __enter__(self) -> "RequestTrace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        # An open temporary file does not travel to another process: that one reads the trace anew.
        return (read_request_trace, (self.path, self.reading))


def _said(extras: Requests | None, column: str) -> Ints | None:
    """One column of what is known beyond arrival and lengths; None: the recording does not say."""
    if extras is None or extras[column][0] == UNKNOWN:
        return None
    return extras[column].astype(np.int64)


def read_request_trace(
    path: str | Path, reading: Reading = READ_WHOLE, *, memory_bytes: int = MEMORY_BYTES
) -> RequestTrace:
    """Read a request trace of any format that docs/requests.md lists, plain, gzip or xz; ServeGen's may be a folder.

    With dates the first request arrives at 0 s; seconds are kept as given.

    Raises:
        DataError: the file is missing, damaged, out of order or out of range; names file, line and remedy.
    """
    name = printable(path)
    intake = Intake(name, memory_bytes)
    try:
        _fill(Path(path), name, intake, reading)
        intake.finish()
    except BaseException:
        intake.close()
        raise
    return RequestTrace(
        Path(path),
        intake.rows,
        intake.first_s,
        intake.last_s,
        intake.zero_output_rows,
        intake.spool,
        intake.extras,
        reading,
    )


def _fill(path: Path, name: str, intake: Intake, reading: Reading) -> None:
    if requests_servegen.sniff(b"", path):
        requests_servegen.fill_folder(path, intake, reading)
        return
    with open_source(path, name) as source:
        if source.head.startswith(MAGIC):  # damaged, it may no longer name its columns
            requests_parquet.fill(source, intake, reading)
            return
        known = (each for each in _TRIED if each.sniff(source.head, path))
        next(known, requests_csv).fill(source, intake, reading)
