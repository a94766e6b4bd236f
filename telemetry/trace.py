"""Which format a recording has: the one list of all formats, and the search through it."""

from pathlib import Path

from policies.errors import DataError
from telemetry.trace_file import Format, fail, head_of, printable
from telemetry.trace_formats.power_known import POWER_FORMATS
from telemetry.trace_formats.requests_known import REQUEST_FORMATS

FORMATS: tuple[Format, ...] = (*POWER_FORMATS, *REQUEST_FORMATS)
"""All formats; the first whose `sniff` says yes is taken."""


def detect(path: str | Path, forced: str | None = None) -> Format:
    """The format of the file at `path`.

    Args:
        path: a recording, plain, gzip or xz; some are folders.
        forced: name of the format; the file is then not asked.

    Raises:
        DataError: there is no such file or format, or no format knows the file.
    """
    if forced is not None:
        for each in FORMATS:
            if each.name == forced:
                return each
        raise DataError(f"--format {forced}: no such format; there are {', '.join(each.name for each in FORMATS)}")
    folder = Path(path).is_dir()
    head = b"" if folder else head_of(path)
    for each in FORMATS:
        if each.sniff(head, Path(path)):
            return each
    if folder:
        fail(printable(path), None, "is a folder, and no format is one of such files; give a file in it")
    raise DataError(
        f"{printable(path)}: {'the file is empty' if not head else 'of no known format'}; give a recording in one of "
        f"{', '.join(each.name for each in FORMATS)}, or force one with --format"
    )
