"""Append-only record of what a core was told and what it asked for: what replay reads."""

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
        self._part = path.with_name(path.name + ".part")
        try:
            self._file: BinaryIO = self._part.open("wb")
        except OSError as error:
            raise DataError(f"{path}: cannot write the journal ({error.strerror}); give a writable place") from error
        self._file.write(MAGIC)
        self._write(msgspec.msgpack.encode({"version": VERSION, **header}))

    def wrote(self, core: str, event: object, now_s: float, commands: list[Command]) -> None:
        """Append one step."""
        self._write(msgspec.msgpack.encode((core, now_s, encode(event), [encode(c) for c in commands])))

    def close(self) -> None:
        """Finish and give the file its name."""
        self._file.close()
        self._part.replace(self.path)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _write(self, record: bytes) -> None:
        self._file.write(_LENGTH.pack(len(record), zlib.crc32(record)))
        self._file.write(record)


class JournalReader:
    """Reads a journal record by record."""

    def __init__(self, path: Path) -> None:
        """Open and check the header."""
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give a journal made with --record") from error
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path}: is not an overwatt journal; make one with --record")
        header = self._decoded(self._record(1), 1)
        if not isinstance(header, dict) or header.get("version") != VERSION:
            raise DataError(f"{path}: journal of another version; this program reads version {VERSION}")
        self.header: dict[str, Any] = header

    def steps(self) -> Iterator[Step]:
        """All steps in order; a damaged record ends them with DataError."""
        number = 1
        while True:
            number += 1
            record = self._record(number)
            if record is None:
                return
            fields = self._decoded(record, number)
            try:
                core, now_s, event, commands = fields
                yield Step(str(core), float(now_s), bytes(event), tuple(bytes(c) for c in commands))
            except (TypeError, ValueError) as error:
                raise DataError(f"{self.path}: record {number} is damaged; record the run again") from error

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

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
