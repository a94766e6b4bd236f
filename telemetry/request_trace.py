"""Recorded requests: any length, read in constant memory, checked line by line, kept where they can be read again."""

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from telemetry.request_rows import MAX_LINE_BYTES, MAX_SPAN_S, NS_PER_S, Rows, Schema, fail, parse_block, read_schema

REQUEST = np.dtype([("arrival_s", "<f8"), ("prompt_tokens", "<i4"), ("output_tokens", "<i4")])
"""One stored request, 16 bytes."""
Requests = NDArray[np.void]

CHUNK_BYTES = 512 * 1024
"""Text read at once: some ten thousand rows, so that numpy's cost per call does not show, in a few MB of memory."""
MEMORY_BYTES = 16 * 2**20
"""Traces up to this size (a million requests) stay in memory, longer ones go to a temporary file."""
_GZIP_MAGIC = b"\x1f\x8b"


class Spool:
    """Requests written once and read in any order; beyond `memory_bytes` they lie in a file that has no name.

    A file without a name cannot be left behind, whatever ends the program. Reads name their position, so
    processes forked from one another may share a spool.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.rows = 0
        self._memory_bytes = memory_bytes
        self._parts: list[Requests] = []
        self._whole: Requests | None = None
        self._file: IO[bytes] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether the requests outgrew the memory allowed."""
        return self._file is not None

    def append(self, requests: Requests) -> None:
        """Add requests; may raise OSError when the disk is full."""
        self.rows += len(requests)
        if self._file is None:
            self._parts.append(requests)
            if self.rows * REQUEST.itemsize > self._memory_bytes:
                self._file = tempfile.TemporaryFile(prefix="overwatt-", buffering=0)  # noqa: SIM115 -- lives as long as self
                for part in self._parts:
                    self._write(part)
                self._parts.clear()
        else:
            self._write(requests)

    def _write(self, requests: Requests) -> None:
        assert self._file is not None
        rest = memoryview(requests.tobytes())
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        """No more requests will come."""
        if self._file is None:
            self._whole = np.concatenate(self._parts)
            self._whole.flags.writeable = False
            self._parts.clear()

    def read(self, start: int, stop: int) -> Requests:
        """Requests `start` to `stop` (exclusive), in order of arrival."""
        if self._whole is not None:
            return self._whole[start:stop]
        assert self._file is not None
        stop = min(stop, self.rows)
        size, offset = (stop - start) * REQUEST.itemsize, start * REQUEST.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), size, offset), dtype=REQUEST)

    def close(self) -> None:
        """Give memory and disk back."""
        self._whole = None
        self._parts.clear()
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()


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

    @property
    def duration_s(self) -> float:
        """Where the trace would start again: one mean gap behind its last request (1 s if there is no gap)."""
        gap_s = (self.last_s - self.first_s) / (self.rows - 1) if self.rows > 1 else 0.0
        return self.last_s + (gap_s if gap_s > 0.0 else 1.0)

    def read(self, start: int, stop: int) -> Requests:
        """Requests `start` to `stop` (exclusive) as an array of `REQUEST`."""
        return self.spool.read(start, stop)

    def close(self) -> None:
        """Give memory and disk back; `read` is not allowed afterwards."""
        self.spool.close()

    def __enter__(self) -> "RequestTrace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        # An open temporary file does not travel to another process: that one reads the trace anew.
        return (read_request_trace, (self.path,))


def read_request_trace(path: str | Path, *, memory_bytes: int = MEMORY_BYTES) -> RequestTrace:
    """Read a request trace, CSV or gzipped CSV, in the Azure schema or in seconds.

    With dates the first request arrives at 0 s; seconds are kept as given.

    Raises:
        DataError: the file is missing, damaged, out of order or out of range; names file, line and remedy.
    """
    name = _printable(path)
    spool = Spool(memory_bytes)
    reader = _Reader(name, spool)
    try:
        with _open(path, name) as text:
            for block in _blocks(text, reader):
                reader.take(block)
        return reader.finish(Path(path))
    except BaseException:
        spool.close()
        raise


class _Reader:
    """Turns blocks of whole lines into stored requests, and keeps what one block must know of the last."""

    def __init__(self, name: str, spool: Spool) -> None:
        self.name = name
        self.line = 0
        """Lines taken so far."""
        self._spool = spool
        self._schema: Schema | None = None
        self._origin_ns: int | None = None
        self._first_s = 0.0
        self._last: tuple[int, np.int64 | np.float64] | None = None
        """Line and time of the last row."""
        self._last_s = 0.0
        self._zero_output_rows = 0

    def take(self, block: bytes) -> None:
        """Whole lines, each with its newline."""
        if self._schema is None:
            header, _, block = block.partition(b"\n")
            self._schema = read_schema(header, self.name)
            self.line = 1
        if not block:
            return
        rows = parse_block(block, self._schema, self.name, self.line + 1)
        if len(rows.ticks) > 0:
            self._check_order(rows)
            self._store(rows)
        self.line += block.count(b"\n")

    def _line_of(self, rows: Rows, index: int) -> int:
        return self.line + 1 + index if rows.line is None else int(rows.line[index])

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
        fail(
            self.name, line, f"this request arrives before the one on line {before}; sort the lines by time of arrival"
        )

    def _store(self, rows: Rows) -> None:
        assert self._schema is not None
        if self._schema.clock:
            if self._origin_ns is None:
                self._origin_ns = int(rows.ticks[0])
            arrival_s = (rows.ticks - self._origin_ns) / NS_PER_S
        else:
            arrival_s = rows.ticks.astype(np.float64, copy=False)
        if arrival_s[-1] > MAX_SPAN_S:
            at = int(np.searchsorted(arrival_s, MAX_SPAN_S, side="right"))
            fail(self.name, self._line_of(rows, at), "over 10 years after the first request; correct or cut the trace")
        if self._spool.rows == 0:
            self._first_s = float(arrival_s[0])
        self._last_s = float(arrival_s[-1])
        requests = np.empty(len(arrival_s), dtype=REQUEST)
        requests["arrival_s"] = arrival_s
        requests["prompt_tokens"] = rows.prompt_tokens
        requests["output_tokens"] = np.maximum(rows.output_tokens, 1)
        self._zero_output_rows += int(np.count_nonzero(rows.output_tokens == 0))
        try:
            self._spool.append(requests)
        except OSError as error:
            folder = tempfile.tempdir if tempfile.tempdir is not None else "the temporary folder"
            fail(
                self.name,
                self._line_of(rows, 0),
                f"no room in {folder} to keep {self._spool.rows:,} requests ({error.strerror}); free space there "
                "(16 bytes per request) or set TMPDIR to a larger folder",
            )

    def finish(self, path: Path) -> RequestTrace:
        """All lines have been taken."""
        if self.line == 0:
            fail(self.name, None, "the file is empty; give a request trace in CSV, plain or gzip")
        if self._spool.rows == 0:
            fail(self.name, 1, "no request follows the header; give a trace with at least one request")
        self._spool.finish()
        return RequestTrace(path, self._spool.rows, self._first_s, self._last_s, self._zero_output_rows, self._spool)


def _printable(path: str | Path) -> str:
    """The path on one line that any terminal takes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@contextmanager
def _open(path: str | Path, name: str) -> Iterator[IO[bytes]]:
    """The text of the file, decompressed on the way if it starts like gzip."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(Path(path).open("rb"))
            packed = file.peek(2)[:2] == _GZIP_MAGIC
        except FileNotFoundError:
            fail(name, None, "no such file; check the path")
        except IsADirectoryError:
            fail(name, None, "is a folder; give a file in it")
        except (OSError, ValueError) as error:
            fail(name, None, f"cannot be read ({_reason(error)}); check path and permissions")
        yield cast("IO[bytes]", opened.enter_context(gzip.GzipFile(fileobj=file))) if packed else file


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(error) if strerror is None else str(strerror)


def _blocks(text: IO[bytes], reader: _Reader) -> Iterator[bytes]:
    """Whole lines, some hundred kilobytes at once; the last line may lack its newline."""
    rest = b""
    while chunk := _read(text, reader):
        at = chunk.rfind(b"\n") + 1
        if at == 0 and len(rest) + len(chunk) <= MAX_LINE_BYTES:
            rest += chunk
            continue
        block = rest + (chunk[:at] if at else chunk)
        _check_lines(block, reader)
        yield block
        rest = chunk[at:]
    if rest:
        _check_lines(rest, reader)
        yield rest + b"\n"


def _read(text: IO[bytes], reader: _Reader) -> bytes:
    try:
        return text.read(CHUNK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fail(
            reader.name,
            reader.line + 1,
            f"from about here the gzip file is damaged or cut short ({error}); fetch it again",
        )
    except OSError as error:
        fail(reader.name, reader.line + 1, f"cannot be read on ({_reason(error)}); check the disk")


def _check_lines(block: bytes, reader: _Reader) -> None:
    """Refuse endless lines before anything tries to take them apart."""
    if len(block) <= MAX_LINE_BYTES:
        return
    ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
    lengths = np.diff(ends, prepend=-1, append=len(block))
    long = np.flatnonzero(lengths > MAX_LINE_BYTES)
    if len(long):
        line = reader.line + 1 + int(long[0])
        fail(
            reader.name,
            line,
            f"longer than {MAX_LINE_BYTES // 1024} KiB, so this is no list of requests; give a CSV file",
        )
