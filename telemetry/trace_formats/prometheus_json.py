"""Answers of the Prometheus HTTP API, `/api/v1/query` and `/api/v1/query_range`, series by series.

An answer can hold thousands of series, so the array of results is walked, and only one series is taken apart at once.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from telemetry.power_rows import PowerRows, Sources
from telemetry.trace_file import CHUNK_BYTES, fail, open_unpacked, printable, read_bytes, shown
from telemetry.trace_formats.prometheus_text import DRAWS, is_part, source_of

MAX_SERIES_BYTES = 8 * 2**20
"""Prometheus gives at most 11,000 samples of a series, some 400 kB."""
MAX_DEPTH = 64
_SNIFF = re.compile(rb'\s*\{\s*"(?:status|data)"\s*:')
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|"', re.DOTALL)
_OPENS, _CLOSES = (b"{", b"["), (b"}", b"]")


class _Series(msgspec.Struct):
    """One series of an answer: `value` of a query, `values` of a range."""

    metric: dict[str, str]
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = msgspec.field(default_factory=list)


def sniff(head: bytes, _path: Path) -> bool:
    """Whether this is an answer of Prometheus."""
    return _SNIFF.match(head) is not None and (b'"resultType"' in head or b'"errorType"' in head)


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of the series that are known to be power drawn; DataError names the byte where it is damaged."""
    yield from _read(path, any_name=False)


def read_as_watts(path: Path) -> Iterator[PowerRows]:
    """Readings of all series, whatever their names: for queries whose answer is watts but has lost the name."""
    yield from _read(path, any_name=True)


def never(_head: bytes, _path: Path) -> bool:
    """No file says by itself that its nameless numbers are watts: this format is forced or not used."""
    return False


def _read(path: Path, *, any_name: bool) -> Iterator[PowerRows]:
    name, sources = printable(path), Sources(printable(path))
    decoder = msgspec.json.Decoder(_Series)
    known: set[int] = set()
    for at, text in _elements(path, name):
        try:
            series = decoder.decode(text)
            samples = [*([] if series.value is None else [series.value]), *series.values]
            time_s = np.array([sample[0] for sample in samples], dtype=np.float64)
            power_w = np.array([float(sample[1]) for sample in samples], dtype=np.float64)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            fail(name, None, f"byte {at}: no series of an answer of Prometheus ({shown(str(error))}); ask again")
        yield _rows(series.metric, sources, time_s, power_w, any_name=any_name, known=known)


def _rows(
    metric: dict[str, str],
    sources: Sources,
    time_s: np.ndarray,
    power_w: np.ndarray,
    *,
    any_name: bool,
    known: set[int],
) -> PowerRows:
    defects: Counter[str] = Counter()
    named = source_of(metric)
    labels = ",".join(f"{key}={value}" for key, value in sorted(metric.items()) if key != "__name__")
    source, everywhere = named if named is not None else (labels, False)
    index = sources.index(source, everywhere=everywhere)
    keep = any_name or metric.get("__name__", "") in DRAWS
    if keep and index in known and is_part(metric):
        defects["repeats of a whole GPU"] += len(time_s)
        keep = False
    if keep:
        known.add(index)
    else:
        time_s, power_w = time_s[:0], power_w[:0]
    return PowerRows(sources, np.full(len(time_s), index, np.int32), time_s, power_w, "unix", defects=defects)


def _elements(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Text of each object in the array `result`, with its place in the file."""
    walk = _Walk(name)
    done_bytes = 0
    with open_unpacked(path) as stream:
        while chunk := read_bytes(stream, CHUNK_BYTES, name, done_bytes):
            done_bytes += len(chunk)
            yield from walk.take(chunk)
    walk.finish()


class _Walk:
    """A walk along the brackets of a JSON text that keeps no more than one element of `result`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = b""
        self._at_byte = 0
        """Of the first byte of the buffer."""
        self._scan = 0
        """Where in the buffer to go on."""
        self._stack: list[bytes] = []
        self._word = b""
        """The last string, which names what opens next."""
        self._element: int | None = None
        """Where in the buffer the element under way began."""
        self._inside = False
        self._error = False

    def take(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Elements that are complete with this chunk."""
        self._buffer += chunk
        for match in _TOKEN.finditer(self._buffer, self._scan):
            token = match[0]
            if token == b'"':
                # A string that goes on in the next chunk; everything from it on is looked at again.
                self._scan = match.start()
                break
            self._scan = match.end()
            if token in _OPENS:
                self._open(token, match.start())
            elif token in _CLOSES:
                done = self._close(token, match)
                if done is not None:
                    yield done
            else:
                self._word = token
                self._error = self._error or (len(self._stack) == 1 and token == b'"errorType"')
        else:
            self._scan = len(self._buffer)
        self._forget()

    def _open(self, token: bytes, at: int) -> None:
        depth = len(self._stack)
        if depth == 2 and token == b"[" and self._word == b'"result"':
            self._inside = True
        elif depth == 3 and self._inside and token == b"{":
            self._element = at
        self._stack.append(token)
        if len(self._stack) > MAX_DEPTH:
            fail(
                self._name, None, f"byte {self._at_byte + at}: nests too deeply for an answer of Prometheus; ask again"
            )

    def _close(self, token: bytes, match: re.Match[bytes]) -> tuple[int, bytes] | None:
        if not self._stack or _CLOSES[_OPENS.index(self._stack.pop())] != token:
            fail(self._name, None, f"byte {self._at_byte + match.start()}: {shown(token)} closes nothing; ask again")
        depth = len(self._stack)
        if depth == 2:
            self._inside = False
        if depth != 3 or self._element is None:
            return None
        start, self._element = self._element, None
        return self._at_byte + start, self._buffer[start : match.end()]

    def _forget(self) -> None:
        """Let go of what is done with."""
        keep = self._scan if self._element is None else self._element
        self._buffer = self._buffer[keep:]
        self._at_byte += keep
        self._scan -= keep
        if self._element is not None:
            self._element = 0
        if len(self._buffer) > MAX_SERIES_BYTES:
            fail(
                self._name,
                None,
                f"byte {self._at_byte}: a series of over {MAX_SERIES_BYTES // 2**20} MiB; ask for less time at once",
            )

    def finish(self) -> None:
        """The file ends here."""
        if self._error:
            fail(self._name, None, "Prometheus answered with an error; ask again")
        if self._stack or self._scan < len(self._buffer):
            at = self._at_byte + len(self._buffer)
            fail(self._name, None, f"byte {at}: the answer is cut short; ask again, or fetch the file again")
