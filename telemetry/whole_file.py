"""Outputs appear whole or not at all; large ones without being held in memory."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from policies.errors import ConfigError

STDOUT = "-"
"""A path that means standard output."""


def write_whole(path: str | Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one, never a part.

    Raises:
        ConfigError: the place cannot be written.
    """
    if str(path) == STDOUT:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with whole_file(Path(path)) as stream:
        stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place under `path` when the block ends well, and is gone otherwise.

    Raises:
        ConfigError: the place cannot be written.
    """
    try:
        # A device or a pipe (/dev/null, /dev/stdout) cannot be renamed onto without destroying it.
        direct = path.exists() and not path.is_file()
        with path.open("wb") if direct else _replacing(path.resolve()) as stream:
            yield stream
    except OSError as error:
        reason = error.strerror if error.strerror is not None else str(error)
        raise ConfigError(
            f"{path}: cannot be written ({reason}); name a file in an existing, writable folder with room"
        ) from error


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    # The rename is atomic only within one file system, hence the same folder; through a link, the linked file's.
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp gives 0600; an output is as readable as any other new or replaced file.
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """The rename survives a power cut only once the folder is on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
