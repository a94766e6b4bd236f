"""Whatever a file holds: a trace or one clear line, and the fast way of reading agrees with the careful one."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import DataError
from sim_backend.arrivals import Load, TraceArrivals
from telemetry.request_rows import Schema, _parse_fast, _parse_slow, parse_block
from telemetry.request_trace import read_request_trace

CLOCK = Schema(3, 0, 1, 2, clock=True)
PLAIN = Schema(3, 0, 1, 2, clock=False)
GOOD = {
    "clock": b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + b"".join(
        b"2023-11-16 18:%02d:%02d.680%d900,%d,%d\r\n" % (k // 9, k % 9 * 6, k % 7, 20 + k, k) for k in range(40)
    ),
    "offset": b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + b"".join(b"2024-05-10 00:00:%02d.009930+00:00,%d,%d\n" % (k, 2162 + k, k) for k in range(40)),
    "seconds": b"request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    + b"".join(b"%d,2,0,%.8f,1,%d,%d\n" % (k, 1 + k / 3, 374 + k, 44 + k) for k in range(40)),
}
PIECES = [
    b"",
    b"\n",
    b",",
    b"\r",
    b'"',
    b"-",
    b"_",
    b"nan",
    b"inf",
    b"0",
    b"9" * 20,
    b"\0",
    b"\xff",
    b"\xc3\xa9",
    b" ",
    b"now",
]

edits = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "trace.csv"


def reads_or_complains(path: Path) -> None:
    """The contract of the reader for any file at all."""
    try:
        trace = read_request_trace(path)
    except DataError as error:
        text = str(error)
        assert text.startswith(str(path))
        assert text.isprintable()
        assert "; " in text
        return
    rows = trace.read(0, trace.rows)
    assert len(rows) == trace.rows > 0
    assert np.isfinite(rows["arrival_s"]).all()
    assert (np.diff(rows["arrival_s"]) >= 0.0).all()
    assert rows["arrival_s"][0] >= 0.0
    assert rows["prompt_tokens"].min() >= 1
    assert rows["output_tokens"].min() >= 1
    assert trace.last_s < trace.duration_s


@pytest.mark.parametrize("kind", GOOD)
@given(edits=edits)
@settings(max_examples=300)
def test_a_damaged_trace_is_read_or_refused_in_one_line(
    path: Path, kind: str, edits: list[tuple[int, int, bytes]]
) -> None:
    content = bytearray(GOOD[kind])
    for at, length, piece in edits:
        content[at : at + length] = piece
    path.write_bytes(content)
    reads_or_complains(path)


@given(edits=edits)
def test_a_damaged_packed_trace_is_read_or_refused_in_one_line(path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    content = bytearray(gzip.compress(GOOD["clock"], mtime=0))
    for at, length, piece in edits:
        content[at % len(content) : at % len(content) + length] = piece
    path.write_bytes(content)
    reads_or_complains(path)


@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    reads_or_complains(path)


numbers = st.integers(-1, 20_000_000).map(str) | st.sampled_from(
    ["0", "1", "374", "+5", " 7", "1e3", "2.0", "1_0", "x", ""]
)
seconds = st.floats(-1.0, 4e8).map(repr) | st.sampled_from(
    ["1", "0.0", "1.35954825", "1e2", "nan", "-inf", "1_0", "-0.0", ""]
)
clocks = st.datetimes().map(str) | st.sampled_from(
    [
        "2023-11-16 18:15:46.6805900",
        "2023-11-16T18:15:46",
        "2023-11-16 18:15:46.",
        "2023-11-16 18:15:60",
        "2023-11-16 18:15:46.123456789",
        "2023-11-16 18:15:46.1234567891",
        "2024-05-10 00:00:00.009930+00:00",
        "2024-05-10 00:00:00-05:00",
        "2024-05-10 00:00:00Z",
        "2024-02-30 00:00:00",
        "2024-05-10 24:00:00",
        "2024-05-10",
        "NaT",
        "today",
    ]
)


def agree(schema: Schema, rows: list[tuple[str, str, str]]) -> None:
    """The fast way may decline; what it does read, the careful way reads alike."""
    block = "".join(",".join(row) + "\n" for row in rows).encode()
    fast = _parse_fast(block, schema)
    if fast is None:
        return
    slow = _parse_slow(block, schema, "trace.csv", 2)
    assert fast.ticks.dtype == slow.ticks.dtype
    assert (fast.ticks == slow.ticks).all()
    assert (fast.prompt_tokens == slow.prompt_tokens).all()
    assert (fast.output_tokens == slow.output_tokens).all()


@given(st.lists(st.tuples(clocks, numbers, numbers), min_size=1, max_size=3))
@settings(max_examples=500)
def test_both_ways_read_dates_alike(rows: list[tuple[str, str, str]]) -> None:
    agree(CLOCK, rows)


@given(st.lists(st.tuples(seconds, numbers, numbers), min_size=1, max_size=3))
@settings(max_examples=500)
def test_both_ways_read_seconds_alike(rows: list[tuple[str, str, str]]) -> None:
    agree(PLAIN, rows)


def test_clean_blocks_take_the_fast_way() -> None:
    for kind, schema in (("clock", CLOCK), ("offset", CLOCK), ("seconds", Schema(7, 3, 5, 6, clock=False))):
        block = GOOD[kind].partition(b"\n")[2]
        assert _parse_fast(block, schema) is not None
        assert parse_block(block, schema, "trace.csv", 2).line is None


def traces(path: Path) -> Callable[[list[float]], None]:
    def write(gaps_s: list[float]) -> None:
        times_s = np.cumsum(gaps_s)
        rows = "".join(f"{at!r},{k + 1},1\n" for k, at in enumerate(times_s.tolist()))
        path.write_text("arrival_timestamp,prompt_size,token_size\n" + rows)

    return write


@given(
    gaps_s=st.lists(st.just(0.0) | st.floats(0.0, 50.0), min_size=1, max_size=60),
    factor=st.floats(0.01, 6.0) | st.integers(1, 9).map(float),
    compress_time=st.floats(0.1, 20.0),
    seed=st.integers(0, 2**40),
    block_rows=st.integers(1, 40),
)
def test_added_load_is_ordered_inside_the_run_and_made_of_recorded_requests(
    path: Path, gaps_s: list[float], factor: float, compress_time: float, seed: int, block_rows: int
) -> None:
    traces(path)(gaps_s)
    trace = read_request_trace(path)
    load = Load(factor=factor, compress_time=compress_time, seed=seed)
    source = TraceArrivals(trace, load, block_rows=block_rows)
    blocks = list(source.blocks())
    assert all(0 < len(block) <= block_rows for block in blocks)
    copies = np.bincount(
        np.concatenate([np.zeros(0, int), *(b.prompt_tokens for b in blocks)]), minlength=trace.rows + 1
    )
    assert copies[0] == 0
    assert (copies[1:] >= np.floor(round(factor, 9))).all()
    assert (copies[1:] <= np.ceil(round(factor, 9))).all()
    if blocks:
        arrival_s = np.concatenate([block.arrival_s for block in blocks])
        assert (np.diff(arrival_s) >= 0.0).all()
        assert arrival_s[0] >= 0.0
        assert arrival_s[-1] < source.duration_s
