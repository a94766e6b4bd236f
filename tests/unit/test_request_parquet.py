"""Requests as Parquet: written and read again, in bounded memory, and what is said of a bad file."""

import io
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from policies.errors import ConfigError, DataError
from sim_backend.arrivals import Load, TraceArrivals
from telemetry.request_parquet import BLOCK_ROWS, write_parquet
from telemetry.request_spool import Recorded
from telemetry.request_trace import read_request_trace
from telemetry.trace import detect

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bytes(content: bytes) -> Path:
        path = tmp_path / "trace.parquet"
        path.write_bytes(content)
        return path

    return write_bytes


def some(rows: int, first: int = 0) -> Recorded:
    at = np.arange(first, first + rows)
    return Recorded(at / 7, 1 + at % 999, at % 88, at % 2 * 0, at % 2)


def written(*blocks: Recorded) -> bytes:
    stream = io.BytesIO()
    write_parquet(blocks, stream)
    return stream.getvalue()


def table(**columns: object) -> bytes:
    """A file of another program, with good columns where `columns` does not replace them; None leaves one out."""
    good: dict[str, object] = {"arrival_s": [0.0, 1.5], "prompt_tokens": [5, 6], "output_tokens": [7, 8]}
    stream = io.BytesIO()
    write_table(pa.table({key: value for key, value in {**good, **columns}.items() if value is not None}), stream)
    return stream.getvalue()


def test_what_is_written_is_read_again(write: Write) -> None:
    path = write(written(some(1000)))
    assert detect(path).name == "requests-parquet"
    trace = read_request_trace(path)
    (block,) = trace.blocks()
    expected = some(1000)
    assert (block.arrival_s == expected.arrival_s).all()
    assert (block.prompt_tokens == expected.prompt_tokens).all()
    assert (block.output_tokens == np.maximum(expected.output_tokens, 1)).all()
    assert block.priority is not None
    assert (block.priority == expected.priority).all()
    assert block.cached_tokens is not None


def test_a_fleet_gets_the_same_arrivals_from_csv_and_from_its_copy_in_parquet(tmp_path: Path, write: Write) -> None:
    lines = "".join(f"{k / 3!r},{k + 1},{k % 9}\n" for k in range(2000))
    original = tmp_path / "trace.csv"
    original.write_text("arrival_timestamp,prompt_size,token_size\n" + lines)
    trace = read_request_trace(original)
    copy = read_request_trace(write(written(*trace.blocks())))
    load = Load(factor=2.5, seed=3)
    for first, second in zip(TraceArrivals(trace, load).blocks(), TraceArrivals(copy, load).blocks(), strict=True):
        assert (first.arrival_s == second.arrival_s).all()
        assert (first.prompt_tokens == second.prompt_tokens).all()
        assert (first.output_tokens == second.output_tokens).all()


def test_columns_that_nobody_knows_are_neither_written_nor_read(write: Write) -> None:
    one = some(10)
    trace = read_request_trace(write(written(Recorded(one.arrival_s, one.prompt_tokens, one.output_tokens))))
    assert trace.read_extras(0, 10) is None
    (block,) = read_request_trace(
        write(written(Recorded(one.arrival_s, one.prompt_tokens, one.output_tokens, None, one.priority)))
    ).blocks()
    assert block.cached_tokens is None
    assert block.priority is not None


def test_the_size_of_blocks_does_not_show() -> None:
    rows = BLOCK_ROWS + 1000
    parts = [some(7000, first) for first in range(0, rows // 7000 * 7000, 7000)]
    parts.append(some(rows - 7000 * len(parts), 7000 * len(parts)))
    assert written(some(rows)) == written(*parts)


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"

    def blocks(count: int) -> Iterator[Recorded]:
        return (some(10_000, 10_000 * k) for k in range(count))

    peaks = []
    for count in (40, 120):
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        with path.open("wb") as stream:
            assert write_parquet(blocks(count), stream) == 10_000 * count
        read_request_trace(path, memory_bytes=1_000_000).close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pa.total_allocated_bytes() - before < 5_000_000
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 40_000_000


def test_files_of_others_are_read_with_any_integers_and_more_columns(write: Write) -> None:
    path = write(
        table(
            arrival_s=pa.array([0, 3], pa.int64()),
            prompt_tokens=pa.array([5, 6], pa.uint16()),
            model=["a", "b"],
            fit=[1, 2],
        )
    )
    assert read_request_trace(path).read(0, 2).tolist() == [(0.0, 5, 7), (3.0, 6, 8)]


def test_without_pyarrow_the_line_says_what_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(written(some(5)))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for act in (lambda: read_request_trace(path), lambda: written(some(5))):
        with pytest.raises(ConfigError, match=r"needs pyarrow; install overwatt\[parquet\]"):
            act()


def test_nothing_of_pyarrow_is_loaded_for_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_timestamp,prompt_size,token_size\n1.0,5,6\n")
    program = (
        "import sys; from telemetry.request_trace import read_request_trace; read_request_trace(sys.argv[1]); "
        "print('pyarrow' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (table(prompt_tokens=None), ": no column prompt_tokens among 'arrival_s, output_tokens'"),
        (table(prompt_tokens=["5", "6"]), ": column prompt_tokens is 'string'; it must hold whole numbers"),
        (table(output_tokens=[1.5, 2.0]), ": column output_tokens is 'double'; it must hold whole numbers"),
        (table(arrival_s=[0.0, None]), ": row 2: no arrival_s; fill it or remove the row"),
        (table(arrival_s=[0.0, float("nan")]), ": row 2: arrival is not a number of seconds"),
        (table(arrival_s=[-1.0, 0.0]), ": row 1: arrival is before the start"),
        (table(arrival_s=[1.0, 0.5]), ": row 2: arrives before the request above it"),
        (table(arrival_s=[1.0, 1e10]), ": row 2: arrival is over 10 years"),
        (table(prompt_tokens=[0, 6]), ": row 1: fewer than 1 prompt tokens"),
        (table(prompt_tokens=[1, 2**40]), ": row 2: more than 10,000,000 tokens"),
        (table(prompt_tokens=pa.array([1, 2**64 - 1], pa.uint64())), ": row 2: fewer than 1 prompt tokens"),
        (table(output_tokens=[0, -6]), ": row 2: fewer than 0 output tokens"),
        (table(cached_tokens=[0, 6]), ": row 2: cached tokens must be 0 or more and fewer than the prompt's"),
        (table(priority=[0, 2]), ": row 2: priority is neither 0 nor 1"),
        (
            table(
                arrival_s=pa.array([], pa.float64()),
                prompt_tokens=pa.array([], pa.int64()),
                output_tokens=pa.array([], pa.int64()),
            ),
            ": holds no request",
        ),
        (table()[:-9], ": the end of the file is missing or damaged"),
        (b"PAR1" + bytes(400), ": the end of the file is missing or damaged"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_the_place(write: Write, content: bytes, said: str) -> None:
    path = write(content)
    with pytest.raises(DataError) as caught:
        read_request_trace(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "; " in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_row_group_that_would_not_fit_in_memory_is_refused_before_it_is_read(write: Write) -> None:
    rows = 4_300_000
    stream = io.BytesIO()
    columns = {name: np.arange(rows, dtype=np.int32) for name in ("arrival_s", "prompt_tokens", "output_tokens")}
    write_table(pa.table(columns), stream, row_group_size=rows, compression="zstd")
    with pytest.raises(
        DataError, match=r"row group 0 has 4,300,000 rows in .*; write it anew with row groups of at most"
    ):
        read_request_trace(write(stream.getvalue()))


def test_a_flipped_bit_in_what_we_wrote_never_changes_a_number(write: Write) -> None:
    """Pages carry checksums."""
    whole = written(some(300))
    expected = read_request_trace(write(whole)).read(0, 300)
    refused = 0
    for at in range(4, len(whole) - 8, 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        try:
            trace = read_request_trace(write(bytes(damaged)))
        except DataError:
            refused += 1
            continue
        if trace.rows == 300:
            assert (trace.read(0, 300) == expected).all()
    assert refused > 400
