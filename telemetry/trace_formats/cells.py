"""Cells of text to numbers: whole columns at once, and the place of the first cell that is none."""

import re
from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from telemetry.power_rows import Floats

EPOCH_DAY = date(1970, 1, 1).toordinal()
DAY_S = 86_400.0
_NOTHING = re.compile(rb"\[[^\],]*\]|\bN/A\b|\bNot Supported\b|(?<![^, ])-(?=,|$)", re.IGNORECASE)
"""How programs say that they have no reading: [N/A], [Not Supported], [Unknown Error], N/A, -."""
_ZERO, _NINE = b"09"
_YEAR_FIRST, _MONTH_FIRST = ((0, 4), (5, 7), (8, 10)), ((6, 10), (0, 2), (3, 5))
_BETWEEN = {10: b" T", 13: b":", 16: b":"}


class BadCell(Exception):
    """A cell that should be a number is none; `row` counts from 0."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def numbers_of(cells: Sequence[bytes], unit: bytes = b"") -> Floats:
    """Numbers of a column; NaN where the cell says that there is none.

    Args:
        cells: one per row, blanks around them allowed.
        unit: what may follow each number, behind one blank.

    Raises:
        BadCell: a cell is neither a number nor a known word for none.
    """
    text = b",".join(cells)
    if text.count(b",") >= max(len(cells), 1):
        raise BadCell(next(row for row, cell in enumerate(cells) if b"," in cell))
    if unit:
        text = text.replace(b" " + unit, b"")
    if b"[" in text or b"N" in text or b"n" in text or b"-" in text:
        text = _NOTHING.sub(b"nan", text)
    plain = text.split(b",") if len(cells) else []
    try:
        if b"_" in text:
            raise ValueError
        return np.array(plain, dtype=np.bytes_).astype(np.float64)
    except ValueError:
        return np.array([_number(cell, row) for row, cell in enumerate(plain)], dtype=np.float64)


def _number(cell: bytes, row: int) -> float:
    stripped = cell.strip()
    if not stripped:
        return float("nan")
    try:
        if b"_" in stripped:
            raise BadCell(row)
        return float(stripped)
    except ValueError:
        raise BadCell(row) from None


def times_of(cells: Sequence[bytes], *, month_first: bool = False) -> Floats:
    """Seconds since 1970 of a column of dates and times.

    Args:
        cells: YYYY-MM-DD HH:MM:SS[.f] with any one sign between the parts of the date; blanks around them allowed.
        month_first: the date is MM-DD-YYYY instead.

    Raises:
        BadCell: a cell is no such date.
    """
    texts = np.array([cell.strip() for cell in cells], dtype=np.bytes_)
    seconds = _times(texts, month_first)
    if seconds is None:
        raise BadCell(next(row for row in range(len(texts)) if _times(texts[row : row + 1], month_first) is None))
    return seconds


def _times(texts: NDArray[np.bytes_], month_first: bool) -> Floats | None:
    width = texts.dtype.itemsize
    if not 19 <= width <= 29:
        return None
    letters = texts.view(np.uint8).reshape(len(texts), width)
    numeric = (letters >= _ZERO) & (letters <= _NINE)
    for at, allowed in _BETWEEN.items():
        if not np.isin(letters[:, at], np.frombuffer(allowed, dtype=np.uint8)).all():
            return None
    if not numeric[:, [11, 12, 14, 15, 17, 18]].all():
        return None
    if width > 19 and not (np.isin(letters[:, 19], (0, ord("."))).all() and _decimal(letters, numeric)):
        return None
    days = _days(letters, numeric, month_first)
    if days is None:
        return None
    digit = letters.astype(np.float64) - _ZERO
    hour, minute, second = (digit[:, k] * 10 + digit[:, k + 1] for k in (11, 14, 17))
    if hour.max() > 23 or minute.max() > 59 or second.max() > 60:
        return None
    fraction = np.where(numeric[:, 20:], digit[:, 20:], 0.0) @ 10.0 ** -np.arange(1, max(width - 19, 1))
    return np.asarray(days * DAY_S + hour * 3600 + minute * 60 + second + fraction, dtype=np.float64)


def _decimal(letters: NDArray[np.uint8], numeric: NDArray[np.bool_]) -> bool:
    """Whether all behind the seconds are digits; a shorter cell is filled with zero bytes."""
    return bool((numeric[:, 20:] | (letters[:, 20:] == 0)).all())


def _days(letters: NDArray[np.uint8], numeric: NDArray[np.bool_], month_first: bool) -> Floats | None:
    parts = _MONTH_FIRST if month_first else _YEAR_FIRST
    if not all(numeric[:, start:stop].all() for start, stop in parts):
        return None
    # A recording has few days: each is looked up once.
    dates, which = np.unique(np.ascontiguousarray(letters[:, :10]).view("S10").ravel(), return_inverse=True)
    ordinals = np.empty(len(dates))
    for at, text in enumerate(dates.tolist()):
        year, month, day = (int(text[start:stop]) for start, stop in parts)
        try:
            ordinals[at] = date(year, month, day).toordinal() - EPOCH_DAY
        except ValueError:
            return None
        if not 1970 <= year < 2190:
            return None
    return np.asarray(ordinals[which], dtype=np.float64)
