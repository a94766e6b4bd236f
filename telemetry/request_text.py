"""Bytes of a recording, unpacked on the way: gzip and xz, with a bound on memory and one line about damage."""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from telemetry.request_rows import MAX_LINE_BYTES
from telemetry.trace_file import fail, open_unpacked, reason

CHUNK_BYTES = 512 * 1024
"""Text read at once: some ten thousand rows, so that numpy's cost per call does not show, in a few MB of memory."""
HEAD_BYTES = 4096
"""Enough of a file to know its format: a header line, or the first block of an archive."""


@contextmanager
def open_source(path: str | Path, name: str) -> Iterator["Source"]:
    """The file, unpacked on the way if it starts like gzip or xz.

    Raises:
        DataError: it cannot be opened.
    """
    with open_unpacked(path) as stream:
        yield Source(Path(path), name, stream)


class Source:
    """A file whose first bytes have been looked at; the rest comes once, and may come through a pipe."""

    def __init__(self, path: Path, name: str, stream: IO[bytes]) -> None:
        self.path = path
        self.name = name
        """The path, as messages give it."""
        self._stream = stream
        self.head = self._read(HEAD_BYTES, self.damaged)
        """Its first bytes, unpacked."""

    def damaged(self, text: str) -> NoReturn:
        """Raise the error of a file that is damaged before anything of it is known."""
        fail(f"{self.name}, byte 1", None, text)

    def chunks(self, damaged: Callable[[str], NoReturn]) -> Iterator[bytes]:
        """All bytes, unpacked; `damaged` raises the error when they cannot be read on."""
        chunk = self.head
        while chunk:
            yield chunk
            chunk = self._read(CHUNK_BYTES, damaged)

    def _read(self, size: int, damaged: Callable[[str], NoReturn]) -> bytes:
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            damaged(f"from about here the packed file is damaged or cut short ({error}); fetch it again")
        except OSError as error:
            damaged(f"cannot be read on ({reason(error)}); check the disk")


class Lines:
    """Text of a recording as blocks of whole lines; knows at which line it stands."""

    def __init__(self, source: Source, what: str) -> None:
        self.line = 0
        """Lines that whoever reads has finished with."""
        self._source = source
        self._what = what

    def __iter__(self) -> Iterator[bytes]:
        """Some hundred kilobytes at once, each line with its newline; only the file's last may have lacked it."""
        rest = b""
        for chunk in self._source.chunks(self.fault):
            at = chunk.rfind(b"\n") + 1
            if at == 0 and len(rest) + len(chunk) <= MAX_LINE_BYTES:
                rest += chunk
                continue
            block = rest + (chunk[:at] if at else chunk)
            self._check_lines(block)
            yield block
            rest = chunk[at:]
        if rest:
            self._check_lines(rest)
            yield rest + b"\n"

    def fault(self, text: str) -> NoReturn:
        """Raise the error of what follows the lines finished with."""
        fail(self._source.name, self.line + 1, text)

    def _check_lines(self, block: bytes) -> None:
        """Refuse endless lines before anything tries to take them apart."""
        if len(block) <= MAX_LINE_BYTES:
            return
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
        lengths = np.diff(ends, prepend=-1, append=len(block))
        long = np.flatnonzero(lengths > MAX_LINE_BYTES)
        if len(long):
            text = f"longer than {MAX_LINE_BYTES // 1024} KiB, so this is no list of requests; give {self._what}"
            fail(self._source.name, self.line + 1 + int(long[0]), text)
