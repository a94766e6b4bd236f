"""Append-only record of what a core was told and what it asked for: what replay reads."""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from policies.commands import Command
from policies.errors import DataError
from telemetry.wire import VERSION, encode

MAGIC = b"overwatt-journal\n"
_LENGTH = struct.Struct("<II")
END = "end"
"""Begins the last record, which holds the number of steps: a journal cut off between two records lacks it."""
MAX_RECORD_BYTES = 64 * 1024 * 1024
"""A step of ten thousand servers is under 2 MB; what claims more is damage, not data."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one core."""

    core: str
    now_s: float
    event: bytes
    commands: tuple[bytes, ...]


class JournalWriter:
    """Writes to `path` + '.part' and renames when closed without an error, so that no half journal bears the name."""

    def __init__(self, path: Path, header: dict[str, object]) -> None:
        """Begin a journal whose header says how to build the cores."""
        self.path = path
        # A device (/dev/null) cannot be renamed onto without destroying it.
        self._part = path if path.exists() and not path.is_file() else path.with_name(path.name + ".part")
        self._steps = 0
        try:
            self._file: BinaryIO = self._part.open("wb")
        except OSError as error:
            raise self._unwritable(error) from error
        self._write(MAGIC)
        self._record({"version": VERSION, **header})

    def wrote(self, core: str, event: object, now_s: float, commands: list[Command]) -> None:
        """Append one step."""
        self._record((core, now_s, encode(event), [encode(c) for c in commands]))
        self._steps += 1

    def close(self) -> None:
        """Finish and give the file its name."""
        self._record((END, self._steps))
        try:
            self._file.close()
            if self._part != self.path:
                self._part.replace(self.path)
        except OSError as error:
            self.abandon()
            raise self._unwritable(error) from error

    def abandon(self) -> None:
        """Leave nothing behind."""
        # What is still buffered may not fit the disk either; nobody wants it any more.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._part != self.path:
            self._part.unlink(missing_ok=True)

    def _record(self, content: object) -> None:
        record = msgspec.msgpack.encode(content)
        self._write(_LENGTH.pack(len(record), zlib.crc32(record)) + record)

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
        except OSError as error:
            self.abandon()
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f"{self.path}: cannot write the journal ({error.strerror}); give a writable place with room")


class JournalReader:
    """Reads a journal record by record."""

    def __init__(self, path: Path) -> None:
        """Open and check the header."""
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give a journal made with --record") from error
        try:
            self.header = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _header(self) -> dict[str, Any]:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{self.path}: is not an overwatt journal; make one with --record")
        header = self._decoded(self._record(1), 1)
        if not isinstance(header, dict) or header.get("version") != VERSION:
            raise DataError(f"{self.path}: journal of another version; this program reads version {VERSION}")
        return header

    def steps(self) -> Iterator[Step]:
        """All steps in order; a damaged record ends them with DataError."""
        number = 1
        while True:
            number += 1
            record = self._record(number)
            match self._decoded(record, number) if record is not None else None:
                case [str(core), float(now_s), bytes(event), [*commands]] if all(
                    isinstance(c, bytes) for c in commands
                ):
                    yield Step(core, now_s, event, tuple(commands))
                case [end, int(steps)] if end == END and steps == number - 2 and not self._file.read(1):
                    return
                case None:
                    raise DataError(f"{self.path}: is cut off after record {number - 1}; record the run again")
                case _:
                    raise DataError(f"{self.path}: record {number} is damaged; record the run again")

    def _record(self, number: int) -> bytes | None:
        head = self._file.read(_LENGTH.size)
        if not head:
            return None
        if len(head) == _LENGTH.size:
            length, checksum = _LENGTH.unpack(head)
            if length <= MAX_RECORD_BYTES:
                record = self._file.read(length)
                if len(record) == length and zlib.crc32(record) == checksum:
                    return record
        raise DataError(f"{self.path}: record {number} is damaged or cut off; record the run again")

    def _decoded(self, record: bytes | None, number: int) -> Any:
        if record is None:
            raise DataError(f"{self.path}: the journal is empty; record the run again")
        try:
            return msgspec.msgpack.decode(record)
        except msgspec.DecodeError as error:
            raise DataError(f"{self.path}: record {number} is damaged; record the run again") from error
