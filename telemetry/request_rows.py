"""Text of a request trace to numbers: fast for clean blocks, careful enough to say what is wrong with a line."""

import csv
import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from telemetry.trace_file import fail, shown

Ints = NDArray[np.int64]
Ticks = NDArray[np.int64] | NDArray[np.float64]

MAX_LINE_BYTES = 64 * 1024
"""Longer lines are no request: rows of the public traces have under 200 bytes."""
MAX_BLANK_LINES = 1000
"""More in one block are no accident of editing: a file of nothing but newlines must not be read to its end."""
MAX_TOKENS = 10_000_000
"""More tokens in one request than any published model's context (1-10 million)."""
MAX_SPAN_S = 10 * 365.25 * 86_400
"""A longer trace is a misread clock."""
NS_PER_S = 1_000_000_000
CLOCK_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""Schema of the Azure LLM inference traces of 2023 and 2024."""
SECONDS_COLUMNS = ("arrival_timestamp", "prompt_size", "token_size")
"""Schema of the traces that splitwise-sim reads."""
EXPECTED = f"{','.join(CLOCK_COLUMNS)} or {','.join(SECONDS_COLUMNS)}"

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")
_CLOCK = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))? ?(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMMA, _NEWLINE, _DOT, _ZERO, _NINE = b",\n.09"
_SEPARATORS = {4: b"-", 7: b"-", 10: b" T", 13: b":", 16: b":"}
"""Position in YYYY-MM-DD HH:MM:SS and what may stand there."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Which columns hold what."""

    columns: int
    time_at: int
    prompt_at: int
    output_at: int
    clock: bool
    """True: date and time, read as nanoseconds. False: seconds from the start of the run."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Requests of one block, checked one by one but not against each other."""

    ticks: Ticks
    """Nanoseconds since 1970 (int64) or seconds (float64) [k]."""
    prompt_tokens: Ints
    output_tokens: Ints
    line: Ints | None
    """Line number of each row; None: consecutive lines from the first of the block."""


def decode(line: bytes, name: str, number: int) -> str:
    """The line as text."""
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        fail(name, number, f"byte {error.start + 1} is not UTF-8 text; give a CSV file, plain or gzip")
    if "\0" in text:
        fail(name, number, "a zero byte, so this is not text or was damaged; give a CSV file, plain or gzip")
    return text.rstrip("\r")


def split(text: str, name: str, number: int) -> list[str]:
    """The cells of one line, quotes and outer blanks removed."""
    if '"' not in text:
        return [cell.strip() for cell in text.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except (csv.Error, StopIteration):
        fail(name, number, "a quote is not closed; remove it or close it")


def is_header(line: bytes) -> bool:
    """Whether the line names the columns of one of the schemas."""
    cells = [cell.strip(' "\r') for cell in line.decode("utf-8-sig", "replace").split(",")]
    return _schema_of(cells) is not None


def read_schema(line: bytes, name: str) -> Schema:
    """Find the columns in the header."""
    text = decode(line, name, 1)
    schema = _schema_of(split(text, name, 1))
    if schema is None:
        fail(name, 1, f"unknown header {shown(text)}; the first line must name the columns {EXPECTED}")
    return schema


def _schema_of(cells: list[str]) -> Schema | None:
    for clock, wanted in ((True, CLOCK_COLUMNS), (False, SECONDS_COLUMNS)):
        if all(cells.count(column) == 1 for column in wanted):
            time_at, prompt_at, output_at = (cells.index(column) for column in wanted)
            return Schema(len(cells), time_at, prompt_at, output_at, clock)
    return None


def parse_block(block: bytes, schema: Schema, name: str, first_line: int) -> Rows:
    """Read whole lines (the last ends in a newline); `first_line` is the number of the first."""
    rows = _parse_fast(block, schema)
    return _parse_slow(block, schema, name, first_line) if rows is None else rows


def _parse_fast(block: bytes, schema: Schema) -> Rows | None:
    """All rows at once if every one is plain and plausible, else None: then the careful way decides."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    # int() and float() take 1_000; quotes may hide commas; a zero byte would end a cell in numpy's eyes.
    if any(mark in block for mark in (b"_", b'"', b"\r", b"\0")) or not _is_utf8(block):
        return None
    letters = np.frombuffer(block, dtype=np.uint8)
    marks = letters[(letters == _COMMA) | (letters == _NEWLINE)]
    pattern = np.full(schema.columns, _COMMA, dtype=np.uint8)
    pattern[-1] = _NEWLINE
    if len(marks) % schema.columns or (marks.reshape(-1, schema.columns) != pattern).any():
        return None
    cells = block[:-1].replace(b"\n", b",").split(b",")
    times = cells[schema.time_at :: schema.columns]
    try:
        prompt_tokens = np.array(list(map(int, cells[schema.prompt_at :: schema.columns])), dtype=np.int64)
        output_tokens = np.array(list(map(int, cells[schema.output_at :: schema.columns])), dtype=np.int64)
        ticks = _clock_fast(times) if schema.clock else np.array(list(map(float, times)), dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    if ticks is None or prompt_tokens.min() < 1 or output_tokens.min() < 0:
        return None
    if max(prompt_tokens.max(), output_tokens.max()) > MAX_TOKENS:
        return None
    if not schema.clock and not ((ticks >= 0.0) & (ticks <= MAX_SPAN_S)).all():
        return None
    return Rows(ticks, prompt_tokens, output_tokens, None)


def _is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _clock_fast(cells: list[bytes]) -> Ints | None:
    """Nanoseconds since 1970 of UTC times all written alike, else None."""
    for suffix in (b"+00:00", b"Z"):
        if cells[0].endswith(suffix):
            cells = [cell.removesuffix(suffix) for cell in cells]
    texts = np.array(cells)
    width = texts.dtype.itemsize
    if not 19 <= width <= 29:  # seconds, and at most nine decimals
        return None
    letters = texts.view(np.uint8).reshape(len(cells), width)
    if not _clock_shaped(letters, width):
        return None
    seconds = texts.astype("datetime64[s]").astype(np.int64)
    if seconds.min() < 0 or seconds.max() > 6_900_000_000:  # 1970 to 2188: nanoseconds fit in 64 bits
        return None
    return texts.astype("datetime64[ns]").astype(np.int64)


def _clock_shaped(letters: NDArray[np.uint8], width: int) -> bool:
    """Whether all are YYYY-MM-DD HH:MM:SS[.fffffffff]: numpy reads much else ("now", years alone, offsets)."""
    numeric = (letters >= _ZERO) & (letters <= _NINE)
    for k in range(min(width, 19)):
        allowed = _SEPARATORS.get(k)
        column = letters[:, k]
        if not (numeric[:, k] if allowed is None else np.isin(column, np.frombuffer(allowed, dtype=np.uint8))).all():
            return False
    if width == 19:
        return True
    dotted = letters[:, 19] == _DOT  # cells shorter than the longest are filled with zero bytes
    if width == 20 or not (dotted | (letters[:, 19] == 0)).all() or not numeric[dotted, 20].all():
        return False
    return bool((numeric[:, 20:] | (letters[:, 20:] == 0)).all())


def _parse_slow(block: bytes, schema: Schema, name: str, first_line: int) -> Rows:
    """One line at a time, skipping blank ones; raises at the first that is wrong."""
    ticks: list[int | float] = []
    tokens: list[tuple[int, int]] = []
    lines: list[int] = []
    blank_lines = 0
    for number, line in enumerate(block.split(b"\n")[:-1], first_line):
        text = decode(line, name, number)
        if not text.strip():
            blank_lines += 1
            if blank_lines > MAX_BLANK_LINES:
                fail(name, number, f"more than {MAX_BLANK_LINES} blank lines; remove them")
            continue
        cells = split(text, name, number)
        if len(cells) != schema.columns:
            fail(
                name,
                number,
                f"{len(cells)} columns where the header has {schema.columns}; the line may be cut short: "
                "fetch the file again, or remove the line",
            )
        cell = cells[schema.time_at]
        ticks.append(_clock_ns(cell, name, number) if schema.clock else _seconds(cell, name, number))
        prompt = _tokens(cells[schema.prompt_at], "prompt", 1, name, number)
        tokens.append((prompt, _tokens(cells[schema.output_at], "output", 0, name, number)))
        lines.append(number)
    counts = np.array(tokens, dtype=np.int64).reshape(-1, 2)
    times: Ticks = np.array(ticks, dtype=np.int64) if schema.clock else np.array(ticks, dtype=np.float64)
    return Rows(times, counts[:, 0].copy(), counts[:, 1].copy(), np.array(lines, dtype=np.int64))


def _tokens(cell: str, what: str, least: int, name: str, number: int) -> int:
    if _INTEGER.fullmatch(cell) is None:
        remedy = "remove the line, or write a whole number"
        if cell.lstrip("+-").isdigit():
            fail(name, number, f"{shown(cell)} {what} tokens is beyond {MAX_TOKENS:,}; remove the line")
        fail(name, number, f"{shown(cell)} is not a number of {what} tokens; {remedy}")
    count = int(cell.partition(".")[0])
    if count < least:
        sense = "an answer of 0 tokens counts as 1, fewer make no sense" if least == 0 else "a request has at least 1"
        fail(name, number, f"{count} {what} tokens; {sense}: correct or remove the line")
    if count > MAX_TOKENS:
        fail(name, number, f"{count} {what} tokens is beyond {MAX_TOKENS:,}; correct or remove the line")
    return count


def _seconds(cell: str, name: str, number: int) -> float:
    try:
        arrival_s = float(cell) if "_" not in cell else float("nan")
    except ValueError:
        arrival_s = float("nan")
    if not np.isfinite(arrival_s):
        fail(name, number, f"arrival {shown(cell)} is not a number of seconds; correct or remove the line")
    if arrival_s < 0.0:
        fail(name, number, f"arrival {arrival_s} s is before the start of the run; shift all arrivals to 0 or later")
    if arrival_s > MAX_SPAN_S:
        fail(
            name,
            number,
            f"arrival {arrival_s} s is over 10 years from the start of the run; give seconds counted from the "
            "first request, not a date",
        )
    return arrival_s


def _clock_ns(cell: str, name: str, number: int) -> int:
    match = _CLOCK.fullmatch(cell)
    if match is None:
        fail(
            name,
            number,
            f"timestamp {shown(cell)} is not like 2023-11-16 18:15:46.6805900 (a UTC offset such as +00:00 may "
            "follow); correct or remove the line",
        )
    clock = match.groups()
    decimals, sign, hours, minutes = clock[6:]
    try:
        year, month, day, hour, minute, second = map(int, clock[:6])
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        fail(name, number, f"timestamp {shown(cell)} does not exist ({error}); correct or remove the line")
    if not 1970 <= moment.year < 2190:
        fail(name, number, f"timestamp {shown(cell)} is outside the years 1970 to 2189; correct or remove the line")
    since = moment - _EPOCH
    offset_s = 0 if sign is None else int(f"{sign}1") * (int(hours) * 3600 + int(minutes) * 60)
    fraction_ns = 0 if decimals is None else int(decimals.ljust(9, "0"))
    return (since.days * 86_400 + since.seconds - offset_s) * NS_PER_S + fraction_ns
