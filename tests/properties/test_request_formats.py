"""Whatever a file of any request format holds: requests, or one clear line; and what is written is read again."""

import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import DataError
from telemetry.request_parquet import write_parquet
from telemetry.request_reading import Reading
from telemetry.request_spool import Recorded
from telemetry.request_trace import read_request_trace
from telemetry.servegen import Client, Lengths, ServeGen, TokenCounts
from telemetry.servegen_draw import drawn
from telemetry.trace_formats.requests_mooncake import BLOCK_TOKENS, PrefixCache

WINDOWS = b"".join(b"%d,%d,1.25,%s,0.5,0.5\n" % (600 * k, k % 3, (b"Gamma", b"Weibull")[k % 2]) for k in range(9))
LENGTHS = json.dumps({"0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{0: 0.5, 3: 0.5}"}}).encode()


def archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name, content in {"chunk-0-trace.csv": WINDOWS, "chunk-0-dataset.json": LENGTHS}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def parquet() -> bytes:
    at = np.arange(200)
    stream = io.BytesIO()
    write_parquet([Recorded(at / 7, 1 + at, at % 88, at * 0, at % 2)], stream)
    return stream.getvalue()


JSONL = b"".join(
    json.dumps({"timestamp": 40 * k, "input_length": 700, "output_length": k, "hash_ids": [k // 3, k]}).encode() + b"\n"
    for k in range(40)
)
GOOD = {
    "mooncake": JSONL,
    "mooncake.gz": gzip.compress(JSONL, mtime=0),
    "mooncake.xz": lzma.compress(JSONL),
    "archive": archive(),
    "archive.xz": lzma.compress(archive()),
    "parquet": parquet(),
    "a__aggregate_10min.csv": b"t_s,requests_per_s,active_clients\n0,5,3\n600,0,0\n1200,2,4\n",
    "a__tokens_6h.csv": b"window_start_s,in_mean,in_p50,in_p90,in_p99,out_mean,out_p50,out_p90,out_p99\n"
    b"0,1497.6,99,2302,28539,25.4,4,80,184\n",
    "recipe.toml": b'servegen = "load"\nfactor = 0.5\nseed = 3\nstart_day = 0\ndays = 0.5\n',
}
PIECES = [
    b"",
    b"\n",
    b",",
    b'"',
    b"-",
    b"{",
    b"}",
    b"[",
    b":",
    b"nan",
    b"0",
    b"9" * 20,
    b"\0",
    b"\xff",
    b"PAR1",
    b"e308",
]
MEMORY_BYTES = 100_000_000

edits = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formats")
    (path / "load").mkdir()
    (path / "load" / "chunk-0-trace.csv").write_bytes(WINDOWS)
    (path / "load" / "chunk-0-dataset.json").write_bytes(LENGTHS)
    for name, content in GOOD.items():
        (path / name).write_bytes(content)
    return path


def reads_or_complains(path: Path) -> None:
    """The contract of the reader for any file at all."""
    tracemalloc.start()
    try:
        trace = read_request_trace(path)
    except DataError as error:
        text = str(error)
        assert text.isprintable()
        assert "; " in text
        assert str(path.parent) in text
        return
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < MEMORY_BYTES
    rows = trace.read(0, trace.rows)
    assert len(rows) == trace.rows > 0
    assert (np.diff(rows["arrival_s"]) >= 0.0).all()
    assert rows["arrival_s"][0] >= 0.0
    assert rows["prompt_tokens"].min() >= 1
    assert rows["output_tokens"].min() >= 1
    trace.close()


@pytest.mark.parametrize("name", GOOD)
def test_undamaged_they_are_read(folder: Path, name: str) -> None:
    if "tokens" not in name:
        assert read_request_trace(folder / name).rows > 30


@pytest.mark.parametrize("name", GOOD)
@given(edits=edits)
@settings(max_examples=120)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    folder: Path, name: str, edits: list[tuple[float, int, bytes]]
) -> None:
    content = bytearray(GOOD[name])
    for place, length, piece in edits:
        at = int(place * len(content))
        content[at : at + length] = piece
    try:
        (folder / name).write_bytes(content)
        reads_or_complains(folder / (name if "tokens" not in name else "a__aggregate_10min.csv"))
    finally:
        (folder / name).write_bytes(GOOD[name])


@pytest.mark.parametrize("name", GOOD)
def test_a_file_cut_anywhere_is_read_or_refused_in_one_line(folder: Path, name: str) -> None:
    content = GOOD[name]
    try:
        for length in range(0, len(content), max(1, len(content) // 60)):
            (folder / name).write_bytes(content[:length])
            reads_or_complains(folder / (name if "tokens" not in name else "a__aggregate_10min.csv"))
    finally:
        (folder / name).write_bytes(content)


@given(
    head=st.sampled_from([b"", b"{", b"PAR1", b"\xfd7zXZ\0", b"\x1f\x8b", b"servegen="]),
    content=st.binary(max_size=300),
)
def test_any_bytes_are_read_or_refused_in_one_line(folder: Path, head: bytes, content: bytes) -> None:
    path = folder / "any"
    path.write_bytes(head + content)
    reads_or_complains(path)


@given(
    gaps_s=st.lists(st.floats(0.0, 50.0), min_size=1, max_size=50),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=50),
    optional=st.booleans(),
)
def test_what_is_written_as_parquet_is_read_again(
    folder: Path, gaps_s: list[float], sizes: list[int], optional: bool
) -> None:
    arrival_s = np.cumsum(gaps_s)
    at = np.arange(len(gaps_s))
    priority = at % 2 if optional else None
    blocks, start = [], 0
    for size in [*sizes, len(at)]:
        rows = slice(start, start + size)
        if start < len(at):
            blocks.append(
                Recorded(
                    arrival_s[rows], at[rows] + 1, at[rows] * 3, None, None if priority is None else priority[rows]
                )
            )
        start += size
    path = folder / "written.parquet"
    with path.open("wb") as stream:
        assert write_parquet(blocks, stream) == len(at)
    trace = read_request_trace(path)
    rows_read = trace.read(0, trace.rows)
    assert (rows_read["arrival_s"] == arrival_s).all()
    assert (rows_read["prompt_tokens"] == at + 1).all()
    extras = trace.read_extras(0, trace.rows)
    assert (extras is not None) == optional
    if extras is not None:
        assert (extras["priority"] == at % 2).all()


@given(
    prompts=st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=30),
    blocks=st.integers(0, 12),
)
def test_a_prefix_cache_agrees_with_a_plain_list(prompts: list[list[int]], blocks: int) -> None:
    cache = PrefixCache(blocks)
    kept: list[int] = []
    """Least recently used first."""
    for prompt in prompts:
        unique = list(dict.fromkeys(prompt))  # a block's id stands for all before it: none comes twice in a prompt
        tokens = BLOCK_TOKENS * len(unique) + 1
        expected = 0
        while expected < len(unique) and unique[expected] in kept:
            expected += 1
        assert cache.hit_tokens([*unique, 99], tokens) == BLOCK_TOKENS * expected
        for block in reversed(unique):
            kept = [*(each for each in kept if each != block), block]
        kept = kept[max(0, len(kept) - blocks) :]


@given(
    clients=st.lists(
        st.tuples(st.floats(0.001, 3.0), st.floats(0.05, 50.0), st.booleans(), st.integers(0, 3)),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 2**60),
    factor=st.floats(0.1, 3.0),
)
@settings(max_examples=60)
def test_drawn_requests_are_in_order_inside_their_windows_and_the_same_again(
    clients: list[tuple[float, float, bool, int]], seed: int, factor: float
) -> None:
    each = TokenCounts(np.array([5, 9], dtype=np.int32), np.array([0.3, 1.0]))
    load = ServeGen(
        tuple(
            Client(
                k, np.array([600 * at]), np.array([rate]), np.array([cv]), np.array([weibull]), {0: Lengths(each, each)}
            )
            for k, (rate, cv, weibull, at) in enumerate(clients)
        ),
        2400,
    )
    reading = Reading(seed=seed, factor=factor)
    blocks = list(drawn(load, reading))
    assert all(len(block) for block in blocks)
    if blocks:
        rows = np.concatenate(blocks)
        assert (np.diff(rows["arrival_s"]) >= 0.0).all()
        assert set((rows["arrival_s"] // 600).astype(int).tolist()) <= {at for *_, at in clients}
        assert (rows == np.concatenate(list(drawn(load, reading)))).all()
