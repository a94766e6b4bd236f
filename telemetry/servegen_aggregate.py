"""ServeGen's rates summed over clients, with quantiles of the token counts: less than the clients' files say."""

from pathlib import Path
from typing import NoReturn

import numpy as np

from policies.arrays import Vec
from telemetry.request_rows import MAX_SPAN_S, MAX_TOKENS, decode
from telemetry.request_text import Source
from telemetry.servegen import LENGTHS_S, WINDOW_S, Client, Lengths, ServeGen, TokenCounts
from telemetry.trace_file import fail, shown

RATE_COLUMNS = ("t_s", "requests_per_s", "active_clients")
TOKEN_COLUMNS = (
    "window_start_s",
    *(f"{kind}_{each}" for kind in ("in", "out") for each in ("mean", "p50", "p90", "p99")),
)
TOKENS_SUFFIX = "tokens_6h.csv"
MAX_RATE_RPS = 1e6
MAX_BYTES = 8 * 2**20
"""Larger files are no aggregates: 14 days of windows have 50 KB."""
MAX_EXPONENT = 64.0
"""Counts then stay at each quantile until just before the next."""
MAX_POINTS = 2_000
"""Points of a distribution made of quantiles."""


def read_aggregate(rates: bytes, tokens: bytes, rates_name: str, tokens_name: str) -> ServeGen:
    """One client that sends all requests.

    Its gaps are exponential (CV 1): many clients together come near that, and the files do not say better. The
    burstiness of single clients is lost.

    Raises:
        DataError: one of the files is damaged; names file, line and remedy.
    """
    windows = _table(rates, RATE_COLUMNS, rates_name, WINDOW_S)
    if (windows[:, 1] > MAX_RATE_RPS).any():
        at = int(np.flatnonzero(windows[:, 1] > MAX_RATE_RPS)[0])
        fail(rates_name, at + 2, f"rate above {MAX_RATE_RPS:,.0f} requests/s; correct it")
    sending = windows[windows[:, 1] > 0.0]
    if len(sending) == 0:
        fail(rates_name, None, "no window has a rate above 0, so there is no request; give other files")
    lengths = read_quantiles(tokens, tokens_name)
    client = Client(
        0, sending[:, 0].astype(np.int64), sending[:, 1].copy(), np.ones(len(sending)), sending[:, 1] < 0.0, lengths
    )
    return ServeGen((client,), int(windows[-1, 0]) + WINDOW_S)


def read_quantiles(content: bytes, name: str) -> dict[int, Lengths]:
    """Lengths of each window, made of its quantiles.

    Raises:
        DataError: damaged or implausible; names file, line and remedy.
    """
    lengths = {}
    for line, row in enumerate(_table(content, TOKEN_COLUMNS, name, LENGTHS_S), 2):
        prompt, output = row[1:5], row[5:9]
        for mean, *rising in (prompt, output):
            if not (1.0 <= mean <= MAX_TOKENS and 1.0 <= rising[0] <= rising[1] <= rising[2] <= MAX_TOKENS):
                text = "mean, p50, p90 and p99 must be 1 or more, and the last three rising; correct the line"
                fail(name, line, text)
        lengths[int(row[0])] = Lengths(from_quantiles(prompt), from_quantiles(output))
    return lengths


def from_quantiles(row: Vec) -> TokenCounts:
    """A distribution with these p50, p90 and p99, and as near the mean as they allow; the smallest count is 1.

    Between its quantiles the logarithm of the count is linear in the share. If that leaves the mean too low, the
    largest count is raised above p99; if too high, the logarithm rises late within each part (its share to an exponent
    above 1). Both only ever move the mean one way, so bisection finds them.

    Args:
        row: Mean, p50, p90 and p99 of token counts.
    """
    low, high = float(row[3]), float(MAX_TOKENS)
    if _counts(row, low, 1.0).mean() < row[0]:
        while high > 1.001 * low:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if _counts(row, middle, 1.0).mean() < row[0] else (low, middle)
        counts = _counts(row, low, 1.0)
    else:
        flat, steep = 1.0, MAX_EXPONENT
        while steep > 1.001 * flat:
            middle = (flat * steep) ** 0.5
            flat, steep = (middle, steep) if _counts(row, low, middle).mean() > row[0] else (flat, middle)
        counts = _counts(row, low, steep)
    return TokenCounts(np.maximum(np.rint(counts), 1.0).astype(np.int32), np.arange(1, MAX_POINTS + 1) / MAX_POINTS)


def _counts(row: Vec, largest: float, exponent: float) -> Vec:
    """Counts at equal shares, rising."""
    knots = np.array([0.0, 0.5, 0.9, 0.99, 1.0])
    logarithms = np.log([1.0, row[1], row[2], row[3], largest])
    share = (np.arange(MAX_POINTS) + 0.5) / MAX_POINTS
    part = np.searchsorted(knots, share, side="right") - 1
    along = ((share - knots[part]) / np.diff(knots)[part]) ** exponent
    return np.asarray(np.exp(logarithms[part] + np.diff(logarithms)[part] * along))


def tokens_beside(path: Path, suffix: str) -> Path | None:
    """The file of token counts that belongs to `<name><suffix>`, plain or packed; None: there is none.

    Args:
        path: The file with the rates.
        suffix: How its name ends, packing left aside.
    """
    plain = path.name.removesuffix(".gz").removesuffix(".xz")
    if not plain.endswith(suffix):
        return None
    named = path.with_name(plain.removesuffix(suffix) + TOKENS_SUFFIX)
    packed = (named.with_name(named.name + packing) for packing in ("", ".gz", ".xz"))
    return next((each for each in packed if each.is_file()), None)


def whole(source: Source) -> bytes:
    """All of a small file.

    Raises:
        DataError: it is damaged, or not small.
    """
    content = b""

    def damaged(text: str) -> NoReturn:
        fail(source.name, content.count(b"\n") + 1, text)

    for chunk in source.chunks(damaged):
        content += chunk
        if len(content) > MAX_BYTES:
            text = f"larger than {MAX_BYTES // 2**20} MiB, so this is no list of windows; give another"
            fail(source.name, None, text)
    return content


def _table(content: bytes, columns: tuple[str, ...], name: str, step_s: int) -> Vec:
    """The numbers below the header; the first column rises in multiples of `step_s`."""
    lines = content.rstrip(b"\n").split(b"\n")
    header = decode(lines[0], name, 1)
    if tuple(header.split(",")) != columns:
        fail(name, 1, f"unknown header {shown(header)}; the first line must be {','.join(columns)}")
    rows: list[list[float]] = []
    for number, line in enumerate(lines[1:], 2):
        text = decode(line, name, number)
        try:
            row = list(map(float, text.split(",")))
        except ValueError:
            row = []
        if len(row) != len(columns) or not all(0.0 <= each < np.inf for each in row) or "_" in text:
            fail(name, number, f"{shown(text)} is not {len(columns)} numbers, none below 0; correct or remove the line")
        if row[0] % step_s or row[0] > MAX_SPAN_S or (rows and row[0] <= rows[-1][0]):
            fail(name, number, f"start {row[0]:g} is not a later multiple of {step_s} s; correct or remove the line")
        rows.append(row)
    if not rows:
        fail(name, 1, "no line follows the header; fetch the file again")
    return np.array(rows, dtype=np.float64)
