"""Requests on their way from a recording to where they can be read again: checked, in order, in constant memory."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, NoReturn

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Vec
from telemetry.request_rows import MAX_SPAN_S, MAX_TOKENS, Ints
from telemetry.trace_file import fail

REQUEST = np.dtype([("arrival_s", "<f8"), ("prompt_tokens", "<i4"), ("output_tokens", "<i4")])
"""One stored request, 16 bytes."""
EXTRA = np.dtype([("cached_tokens", "<i4"), ("priority", "i1")])
"""What only some recordings say of a request; kept apart, so that the others pay nothing for it."""
Requests = NDArray[np.void]

MEMORY_BYTES = 16 * 2**20
"""Traces up to this size (a million requests) stay in memory, longer ones go to a temporary file."""
UNKNOWN = -1
"""Stands in `EXTRA` for what a recording does not say; it says it of all its requests or of none."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Some consecutive requests as a recording has them, not yet checked against each other."""

    arrival_s: Vec
    prompt_tokens: Ints
    output_tokens: Ints
    """0 is allowed here and counts as 1: prefill always yields one token."""
    cached_tokens: Ints | None = None
    """Prompt tokens that a prefix cache holds already; None: the recording does not say."""
    priority: Ints | None = None
    """0 low, 1 high; None: the recording does not say."""

    def __len__(self) -> int:
        return len(self.arrival_s)


class Spool:
    """Rows written once and read in any order; beyond `memory_bytes` they lie in a file that has no name.

    A file without a name cannot be left behind, whatever ends the program. Reads name their position, so
    processes forked from one another may share a spool.
    """

    def __init__(self, memory_bytes: int, row: np.dtype[np.void] = REQUEST) -> None:
        self.rows = 0
        self._row = row
        self._memory_bytes = memory_bytes
        self._parts: list[Requests] = []
        self._whole: Requests | None = None
        self._file: IO[bytes] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether the rows outgrew the memory allowed."""
        return self._file is not None

    def append(self, rows: Requests) -> None:
        """Add rows; may raise OSError when the disk is full."""
        self.rows += len(rows)
        if self._file is None:
            self._parts.append(rows)
            if self.rows * self._row.itemsize > self._memory_bytes:
                self._file = tempfile.TemporaryFile(prefix="overwatt-", buffering=0)  # noqa: SIM115 -- lives as long as self
                for part in self._parts:
                    self._write(part)
                self._parts.clear()
        else:
            self._write(rows)

    def _write(self, rows: Requests) -> None:
        assert self._file is not None
        rest = memoryview(rows.tobytes())
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        """No more rows will come."""
        if self._file is None:
            self._whole = np.concatenate(self._parts)
            self._whole.flags.writeable = False
            self._parts.clear()

    def read(self, start: int, stop: int) -> Requests:
        """Rows `start` to `stop` (exclusive), in order of arrival."""
        if self._whole is not None:
            return self._whole[start:stop]
        assert self._file is not None
        stop = min(stop, self.rows)
        size, offset = (stop - start) * self._row.itemsize, start * self._row.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), size, offset), dtype=self._row)

    def close(self) -> None:
        """Give memory and disk back."""
        self._whole = None
        self._parts.clear()
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()


class Intake:
    """Takes recorded requests block by block, checks what one block must know of the last, and stores them."""

    def __init__(self, name: str, memory_bytes: int) -> None:
        self.name = name
        """Of the recording, as messages give it."""
        self.first_s = 0.0
        self.last_s = 0.0
        self.zero_output_rows = 0
        self.spool = Spool(memory_bytes)
        self.extras: Spool | None = None
        self._memory_bytes = memory_bytes

    @property
    def rows(self) -> int:
        """Requests stored so far."""
        return self.spool.rows

    def store(self, recorded: Recorded, fault: Callable[[int, str], NoReturn]) -> None:
        """Add requests, each no earlier than the one before.

        Args:
            recorded: At least one request, in order.
            fault: Raises the error for the request at an index of this block.
        """
        arrival_s = recorded.arrival_s
        if arrival_s[-1] > MAX_SPAN_S:
            at = int(np.searchsorted(arrival_s, MAX_SPAN_S, side="right"))
            fault(at, "over 10 years after the first request; correct or cut the trace")
        requests = np.empty(len(arrival_s), dtype=REQUEST)
        requests["arrival_s"] = arrival_s
        requests["prompt_tokens"] = recorded.prompt_tokens
        requests["output_tokens"] = np.maximum(recorded.output_tokens, 1)
        if self.rows == 0:
            self.first_s = float(arrival_s[0])
        self.last_s = float(arrival_s[-1])
        self.zero_output_rows += int(np.count_nonzero(recorded.output_tokens == 0))
        try:
            self._append_extras(recorded)
            self.spool.append(requests)
        except OSError as error:
            folder = tempfile.tempdir if tempfile.tempdir is not None else "the temporary folder"
            fault(
                0,
                f"no room in {folder} to keep {self.spool.rows:,} requests ({error.strerror}); free space there "
                "(16 bytes per request) or set TMPDIR to a larger folder",
            )

    def _append_extras(self, recorded: Recorded) -> None:
        cached_tokens, priority = recorded.cached_tokens, recorded.priority
        if cached_tokens is None and priority is None:
            assert self.extras is None
            return
        if self.extras is None:
            assert self.spool.rows == 0
            self.extras = Spool(self._memory_bytes, EXTRA)
        extra = np.empty(len(recorded), dtype=EXTRA)
        extra["cached_tokens"] = UNKNOWN if cached_tokens is None else cached_tokens
        extra["priority"] = UNKNOWN if priority is None else priority
        self.extras.append(extra)

    def finish(self) -> None:
        """No more requests will come; at least one has."""
        self.spool.finish()
        if self.extras is not None:
            self.extras.finish()

    def close(self) -> None:
        """Give memory and disk back."""
        self.spool.close()
        if self.extras is not None:
            self.extras.close()


def check_rows(recorded: Recorded, last_s: float, fault: Callable[[int, str], NoReturn]) -> None:
    """Refuse the first request that is out of order or out of range.

    Args:
        recorded: At least one request.
        last_s: Arrival of the request before; 0 before the first.
        fault: Raises the error for the request at an index of this block.
    """
    arrival_s = recorded.arrival_s
    whole = np.concatenate(([last_s], arrival_s))
    complaints = (
        (~np.isfinite(arrival_s), "arrival is not a number of seconds; correct or remove it"),
        (arrival_s < 0.0, "arrival is before the start of the run; shift all arrivals to 0 or later"),
        (arrival_s > MAX_SPAN_S, "arrival is over 10 years from the start of the run; give seconds, not a date"),
        (whole[1:] < whole[:-1], "arrives before the request above it; sort the requests by time of arrival"),
        (recorded.prompt_tokens < 1, "fewer than 1 prompt tokens; a request has at least 1: correct or remove it"),
        (recorded.output_tokens < 0, "fewer than 0 output tokens; correct or remove it"),
        (
            np.maximum(recorded.prompt_tokens, recorded.output_tokens) > MAX_TOKENS,
            f"more than {MAX_TOKENS:,} tokens; correct or remove it",
        ),
    )
    for wrong, text in complaints:
        if wrong.any():
            fault(int(np.flatnonzero(wrong)[0]), text)
    _check_extras(recorded, fault)


def _check_extras(recorded: Recorded, fault: Callable[[int, str], NoReturn]) -> None:
    cached_tokens, priority = recorded.cached_tokens, recorded.priority
    if cached_tokens is not None:
        wrong = (cached_tokens < 0) | (cached_tokens >= recorded.prompt_tokens)
        if wrong.any():
            fault(
                int(np.flatnonzero(wrong)[0]), "cached tokens must be 0 or more and fewer than the prompt's; correct it"
            )
    if priority is not None and ((priority < 0) | (priority > 1)).any():
        fault(int(np.flatnonzero((priority < 0) | (priority > 1))[0]), "priority is neither 0 nor 1; correct it")


def require_rows(intake: Intake, place: int | None, what: str) -> None:
    """Refuse a recording that holds no request.

    Args:
        intake: What was stored.
        place: Line to name; None: the whole file.
        what: The complaint with its remedy.
    """
    if intake.rows == 0:
        fail(intake.name, place, what)
