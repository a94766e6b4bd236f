"""Whether a result can be written is asked before it is computed, not after."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from daemon.failures import UsageError

STDOUT = Path("-")


def check_writable(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Refuse outputs that cannot be written, or that would overwrite each other or an input.

    Args:
        outputs: option -> path; None where the option was not given.
        inputs: the same for what is read.
    """
    taken: dict[Path, str] = {path.resolve(): option for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None or path == STDOUT:
            continue
        if path.resolve() in taken and (path.is_file() or not path.exists()):
            raise UsageError(f"{option} {path}: {taken[path.resolve()]} names the same file; give each its own")
        taken[path.resolve()] = option
        if (reason := _unwritable(path)) is not None:
            raise UsageError(f"{option} {path}: cannot be written: {reason}")


def _unwritable(path: Path) -> str | None:
    """Why nothing can be written at `path`; None if it can."""
    if path.is_dir():
        return "it is a directory; name a file in it"
    if path.exists() and not path.is_file():
        return None if os.access(path, os.W_OK) else "permission denied"
    folder = path.resolve().parent
    if not folder.is_dir():
        return f"there is no directory {folder}; create it first"
    try:
        # Asking permissions would miss a read-only or full file system; the name is gone again at once.
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{folder}: {error.strerror}"
