"""Unpacks xz within a bound on memory."""

import lzma
from typing import IO

MEMORY_BYTES = 100 * 2**20
"""What unpacking may take; the largest preset (-9) asks for 65 MB, a damaged header for gigabytes."""
PACKED_BYTES = 4096
"""Read at once of the packed file."""


class Unxz:
    """An xz file unpacked as it is read; unlike `lzma.open` it refuses a header that asks for too much memory."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._unpacker = lzma.LZMADecompressor(memlimit=MEMORY_BYTES)

    def read(self, size: int) -> bytes:
        """As many bytes as asked for; fewer only at the end of the file."""
        parts: list[bytes] = []
        while size > 0 and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        """At least one byte; empty at the end of the file."""
        while True:
            if self._unpacker.eof:
                packed = self._next_stream()
                if not packed:
                    return b""
                self._unpacker = lzma.LZMADecompressor(memlimit=MEMORY_BYTES)
            else:
                packed = self._packed.read(PACKED_BYTES) if self._unpacker.needs_input else b""
                if not packed and self._unpacker.needs_input:
                    raise EOFError("it ends inside a block")
            unpacked = self._unpacker.decompress(packed, size)
            if unpacked:
                return unpacked

    def _next_stream(self) -> bytes:
        """Start of what follows the end of one stream, zero padding left out; empty at the end of the file."""
        rest = self._unpacker.unused_data.lstrip(b"\0")
        while not rest and (packed := self._packed.read(PACKED_BYTES)):
            rest = packed.lstrip(b"\0")
        return rest
