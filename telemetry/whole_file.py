"""Large outputs appear whole or not at all, without being held in memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from policies.errors import ConfigError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place under `path` when the block ends well, and is gone otherwise.

    Raises:
        ConfigError: the place cannot be written.
    """
    target = path.resolve()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise ConfigError(_words(path, error)) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp gives 0600; a table is as readable as any other new or replaced file.
        temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise ConfigError(_words(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _words(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written ({error.strerror}); name a file in an existing, writable folder with room"


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
