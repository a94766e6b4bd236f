"""Files of recordings, plain or packed: opened without being loaded, cut into blocks of whole lines."""

import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, cast

from policies.errors import DataError
from telemetry.unxz import Unxz

HEAD_BYTES = 64 * 1024
"""What a format may look at to know its files."""
CHUNK_BYTES = 512 * 1024
"""Text read at once: some ten thousand rows, so that numpy's cost per call does not show, in a few MB of memory."""
MAX_LINE_BYTES = 64 * 1024
"""Longer lines are no rows of a recording: nvidia-smi with every field there is writes under 8 KiB."""
_GZIP_MAGIC, _XZ_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\x00"
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""What damaged packing, a failing disk or a name that cannot be raises."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way in which recordings are written."""

    name: str
    """What `--format` takes."""
    kind: Literal["power", "requests"]
    sniff: Callable[[bytes, Path], bool]
    """Whether a file that starts (unpacked) with these bytes and has this path is of the format; never raises."""
    open: Callable[[Path], Any]
    """Reads the file; what it returns depends on the kind."""


def fail(name: str, line: int | None, text: str) -> NoReturn:
    """Raise the one line that names the file, the place and the remedy."""
    place = name if line is None else f"{name}, line {line}"
    raise DataError(f"{place}: {text}")


def shown(text: str | bytes) -> str:
    """`text` in quotes, on one line, shortened."""
    if isinstance(text, bytes):
        text = text[:200].decode("utf-8", "replace")
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def printable(path: str | Path) -> str:
    """The path on one line that any terminal takes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@contextmanager
def open_unpacked(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of the file, unpacked on the way if it starts like gzip or xz.

    Raises:
        DataError: there is no such file, or it cannot be opened.
    """
    name = printable(path)
    with ExitStack() as opened:
        try:
            file = opened.enter_context(Path(path).open("rb"))
            magic = file.peek(len(_XZ_MAGIC))
        except FileNotFoundError:
            fail(name, None, "no such file; check the path")
        except IsADirectoryError:
            fail(name, None, "is a folder; give a file in it")
        except (OSError, ValueError) as error:
            fail(name, None, f"cannot be read ({reason(error)}); check path and permissions")
        if magic.startswith(_GZIP_MAGIC):
            yield cast("IO[bytes]", opened.enter_context(gzip.GzipFile(fileobj=file)))
        elif magic.startswith(_XZ_MAGIC):
            yield cast("IO[bytes]", Unxz(file))
        else:
            yield file


def read_bytes(stream: IO[bytes], size: int, name: str, done_bytes: int) -> bytes:
    """At most `size` further bytes; the damage of a packed file is told with its place.

    Raises:
        DataError: the packing is damaged or the disk fails.
    """
    try:
        return stream.read(size)
    except _UNREADABLE as error:
        fail(
            name,
            None,
            f"damaged or cut short behind byte {done_bytes} of its content ({reason(error)}); fetch it again",
        )


def head_of(path: str | Path) -> bytes:
    """The first bytes of the file, unpacked.

    Raises:
        DataError: there is no such file, or its packing is damaged at once.
    """
    with open_unpacked(path) as stream:
        return read_bytes(stream, HEAD_BYTES, printable(path), 0)


def line_blocks(path: str | Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Whole lines with the number of the first, some hundred kilobytes at once.

    Carriage returns before a newline and a byte order mark are taken off. Every line but an unfinished last one ends
    with a newline.

    Raises:
        DataError: the file cannot be read on, or a line is no line.
    """
    name = printable(path)
    line, done_bytes, rest = 1, 0, b""
    with open_unpacked(path) as stream:
        while chunk := read_bytes(stream, chunk_bytes, name, done_bytes):
            if done_bytes == 0:
                chunk = chunk.removeprefix(b"\xef\xbb\xbf")
            done_bytes += len(chunk)
            whole, newline, tail = chunk.rpartition(b"\n")
            if not newline:
                rest += tail
                _check_length(rest, name, line)
                continue
            block = (rest + whole + newline).replace(b"\r\n", b"\n")
            rest = tail
            yield line, block
            line += block.count(b"\n")
            _check_length(rest, name, line)
    if rest:
        yield line, rest


def _check_length(line: bytes, name: str, number: int) -> None:
    if len(line) > MAX_LINE_BYTES:
        fail(name, number, f"longer than {MAX_LINE_BYTES // 1024} KiB, so this is no recording; give a text file")


def reason(error: BaseException) -> str:
    """What the system says went wrong."""
    strerror = getattr(error, "strerror", None)
    return str(error) if strerror is None else str(strerror)
