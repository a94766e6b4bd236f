"""ServeGen's files: `chunk-<i>-trace.csv` and `chunk-<i>-dataset.json` of one category, in a folder or a .tar.xz."""

import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from telemetry.request_rows import MAX_SPAN_S, MAX_TOKENS, decode
from telemetry.request_text import Source
from telemetry.servegen import LENGTHS_S, WINDOW_S, Client, Lengths, ServeGen, TokenCounts
from telemetry.trace_file import fail, printable, reason, shown

MAX_FILE_BYTES = 32 * 2**20
"""Largest file of one client; the largest published here has 4 MB."""
MAX_ARCHIVE_BYTES = 2**30
"""Unpacked archives lie in a file without a name while they are read; the largest published here has 15 MB."""
MAX_WINDOWS = 2_000_000
"""Windows with requests, of all clients: 25 bytes each. m-small has 40 thousand."""
MAX_COUNTS = 4_000_000
"""Token counts that occur, of all clients and windows: 12 bytes each. m-small has 205 thousand."""
MAX_CLIENTS = 100_000
MIN_CV, MAX_CV = 0.01, 1000.0
"""The published windows lie between 0.05 and 797, which is the most that 650 thousand gaps can show."""
MAX_RATE_RPS = 1e6
FAMILIES = {"Gamma": False, "Weibull": True}
"""Name in the file -> whether it is the Weibull family."""
_NAME = re.compile(r"chunk-(\d{1,9})-(trace\.csv|dataset\.json)")
_COUNTS = re.compile(r"\{[-+0-9eE.:, \n]*\}")
_COLUMNS = 6


class _Window(msgspec.Struct):
    """Of one dataset file; the counts are written as Python writes a dict."""

    input_tokens: str
    output_tokens: str


class _Read:
    """Gathers the files of one category, in any order, within bounds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._windows: dict[int, tuple[NDArray[np.float64], int]] = {}
        self._lengths: dict[int, dict[int, Lengths]] = {}
        self._windows_count = 0
        self._counts = 0

    def add(self, file_name: str, content: bytes) -> None:
        """One file, if it is one of a client's; others are left aside."""
        match = _NAME.fullmatch(Path(file_name).name)
        if match is None:
            return
        number, kind = int(match[1]), match[2]
        name = f"{self._name}, {printable(file_name)}"
        known = self._windows if kind == "trace.csv" else self._lengths
        if number in known:
            fail(self._name, None, f"a second {match[0]}; give the files of one category alone")
        if kind == "trace.csv":
            windows, end_s = read_windows(content, name)
            self._windows[number] = windows, end_s
            self._windows_count += len(windows)
        else:
            self._lengths[number] = lengths = read_lengths(content, name)
            self._counts += sum(len(each.prompt.counts) + len(each.output.counts) for each in lengths.values())
        if self._windows_count > MAX_WINDOWS or self._counts > MAX_COUNTS or len(known) > MAX_CLIENTS:
            text = (
                f"more than {MAX_WINDOWS:,} windows, {MAX_COUNTS:,} token counts or {MAX_CLIENTS:,} clients; give a "
                "part of the files"
            )
            fail(self._name, None, text)

    def finish(self) -> ServeGen:
        """All files have been added."""
        if not self._windows:
            fail(
                self._name, None, "holds no chunk-<i>-trace.csv of ServeGen; give the folder or .tar.xz that holds them"
            )
        strangers = sorted(set(self._lengths) - set(self._windows))
        if strangers:
            fail(self._name, None, f"chunk-{strangers[0]}-dataset.json has no chunk-{strangers[0]}-trace.csv; add it")
        if not any(self._lengths.values()):
            text = "no chunk-<i>-dataset.json with token counts, so requests would have no length; add at least one"
            fail(self._name, None, text)
        if self._windows_count == 0:
            fail(self._name, None, "no window has a rate above 0, so there is no request; give other files")
        clients = [
            Client(
                number,
                windows[:, 0].astype(np.int64),
                windows[:, 1].copy(),
                windows[:, 2].copy(),
                windows[:, 3] > 0.0,
                self._lengths.get(number, {}),
            )
            for number, (windows, _) in sorted(self._windows.items())
        ]
        return ServeGen(tuple(clients), max(end_s for _, end_s in self._windows.values()))


def read_folder(folder: Path, name: str) -> ServeGen:
    """The clients whose files lie in `folder` itself.

    Raises:
        DataError: a file is damaged or implausible, or there is none; names file, line and remedy.
    """
    gathered = _Read(name)
    try:
        for path in sorted(folder.glob("chunk-*")):
            if _NAME.fullmatch(path.name):
                with path.open("rb") as stream:
                    gathered.add(path.name, _bounded(stream, f"{name}, {printable(path.name)}"))
    except OSError as error:
        fail(name, None, f"cannot be read ({reason(error)}); check path and permissions")
    return gathered.finish()


def _bounded(stream: IO[bytes], name: str) -> bytes:
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        fail(name, None, f"larger than {MAX_FILE_BYTES // 2**20} MiB, so this is no file of ServeGen; remove it")
    return content


def read_archive(source: Source) -> ServeGen:
    """The clients whose files lie anywhere in a tar archive; nothing is put on disk under a name.

    Raises:
        DataError: the archive or a file is damaged or implausible; names file, line or byte, and remedy.
    """
    gathered = _Read(source.name)
    with tempfile.TemporaryFile(prefix="overwatt-") as unpacked:
        _unpack(source, unpacked)
        for file_name, content in _members(unpacked, source.name):
            gathered.add(file_name, content)
    return gathered.finish()


def _unpack(source: Source, unpacked: IO[bytes]) -> None:
    size = 0

    def damaged(text: str) -> NoReturn:
        fail(source.name, None, f"behind byte {size} of its content: {text}")

    try:
        for chunk in source.chunks(damaged):
            size += len(chunk)
            if size > MAX_ARCHIVE_BYTES:
                text = f"holds more than {MAX_ARCHIVE_BYTES // 2**30} GiB; unpack it and give the folder"
                fail(source.name, None, text)
            unpacked.write(chunk)
        unpacked.seek(0)
    except OSError as error:
        fail(source.name, None, f"no room to unpack it ({reason(error)}); free space or set TMPDIR to a larger folder")


def _members(unpacked: IO[bytes], name: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the plain files."""
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Guarded(unpacked)), mode="r:") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and not member.issparse() else None
                if stream is not None and _NAME.fullmatch(Path(member.name).name):
                    yield member.name, _bounded(stream, f"{name}, {printable(member.name)}")
            # tarfile takes a damaged header for the end of the archive; the real end is a block of zeros.
            unpacked.seek(archive.offset)
            if unpacked.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no header of a file and not the end")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        said = shown(str(error))
        fail(name, None, f"the archive is damaged near byte {unpacked.tell()} of its content ({said}); fetch it again")


class _Guarded:
    """A tar file whose headers cannot ask for more memory than a file may have."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, and never more than the largest file allowed."""
        limit = MAX_FILE_BYTES + 1
        return self._stream.read(limit if size < 0 else min(size, limit))

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of the file."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of the file."""
        return self._stream.tell()


def read_windows(content: bytes, name: str) -> tuple[NDArray[np.float64], int]:
    """Of one trace file: (start, rate, CV, 1 if Weibull) of each window with requests, and the end of the last window.

    Raises:
        DataError: names file, line and remedy.
    """
    rows: list[tuple[float, float, float, float]] = []
    last_s = -1.0
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in decode(line, name, number).split(",")]
        if len(cells) != _COLUMNS:
            fail(name, number, f"{len(cells)} columns instead of {_COLUMNS}; it may be cut short: fetch the file again")
        start_s, rate_rps, cv = (_number(cell, name, number) for cell in cells[:3])
        if start_s <= last_s or start_s % WINDOW_S or start_s > MAX_SPAN_S:
            text = f"window start {shown(cells[0])} is not a later multiple of {WINDOW_S} s; correct or remove the line"
            fail(name, number, text)
        last_s = start_s
        if not 0.0 <= rate_rps <= MAX_RATE_RPS:
            fail(name, number, f"rate {shown(cells[1])} is not from 0 to {MAX_RATE_RPS:,.0f} requests/s; correct it")
        if rate_rps == 0.0:
            continue
        if not MIN_CV <= cv <= MAX_CV:
            fail(name, number, f"CV {shown(cells[2])} is not from {MIN_CV} to {MAX_CV:.0f}; correct or remove the line")
        if cells[3] not in FAMILIES:
            fail(name, number, f"unknown family {shown(cells[3])}; there are {' and '.join(FAMILIES)}")
        rows.append((start_s, rate_rps, cv, float(FAMILIES[cells[3]])))
    if last_s < 0.0:
        fail(name, None, "the file is empty; fetch it again")
    return np.array(rows, dtype=np.float64).reshape(-1, 4), int(last_s) + WINDOW_S


def _number(cell: str, name: str, number: int) -> float:
    try:
        value = float(cell) if "_" not in cell else np.nan
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        fail(name, number, f"{shown(cell)} is not a number; correct or remove the line")
    return float(value)


def read_lengths(content: bytes, name: str) -> dict[int, Lengths]:
    """Of one dataset file: start of a window -> lengths; windows without any are left out.

    Raises:
        DataError: names file, place and remedy.
    """
    try:
        windows = msgspec.json.decode(content, type=dict[str, _Window])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error) if str(error).isprintable() else shown(str(error))
        fail(name, None, f"no lengths of ServeGen ({said}); fetch the file again")
    lengths = {}
    for start, window in windows.items():
        place = f"{name}, window {shown(start)}"
        if not (start.isascii() and start.isdigit()) or len(start) > 9 or int(start) % LENGTHS_S:
            fail(place, None, f"its start is not a multiple of {LENGTHS_S} s; correct or remove it")
        prompt = _token_counts(window.input_tokens, f"{place}, input_tokens")
        output = _token_counts(window.output_tokens, f"{place}, output_tokens")
        if (prompt is None) != (output is None):
            fail(place, None, "token counts of one kind only; remove the window, or add the other kind")
        if prompt is not None and output is not None:
            lengths[int(start)] = Lengths(prompt, output)
    return lengths


def _token_counts(text: str, name: str) -> TokenCounts | None:
    """The distribution that `{count: probability, ...}` gives; None: it is empty."""
    if _COUNTS.fullmatch(text) is None:
        fail(name, None, f"{shown(text)} is not like {{12: 0.25, 40: 0.75}}; fetch the file again")
    if not text[1:-1].strip():
        return None
    cells = text[1:-1].replace(":", ",").split(",")
    try:
        values = np.array(list(map(float, cells)))
    except ValueError:
        values = np.empty(0)
    if len(values) == 0 or len(values) % 2 or text.count(":") != len(values) // 2:
        fail(name, None, f"{shown(text)} is not a list of counts and probabilities; fetch the file again")
    counts, shares = values[::2], values[1::2]
    if not ((counts >= 0) & (counts <= MAX_TOKENS) & (counts % 1 == 0)).all():
        fail(name, None, f"a count is not a whole number of tokens up to {MAX_TOKENS:,}; correct it")
    cumulative = np.cumsum(shares)
    if not (shares >= 0.0).all() or not 0.9 <= cumulative[-1] <= 1.1:
        fail(
            name, None, f"probabilities are negative or sum to {cumulative[-1]:.4g} instead of 1; fetch the file again"
        )
    return TokenCounts(counts.astype(np.int32), cumulative)
