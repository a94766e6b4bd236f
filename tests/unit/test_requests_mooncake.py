"""Mooncake's JSON Lines: what is read, what a prefix cache would have held, and what is said of a bad file."""

import gzip
import json
import lzma
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from policies.errors import DataError
from telemetry.request_reading import Reading
from telemetry.request_trace import RequestTrace, read_request_trace
from telemetry.trace import detect
from telemetry.trace_formats.requests_mooncake import PrefixCache

Write = Callable[[bytes], Path]


def row(timestamp: float, prompt_tokens: int, output_tokens: int, hash_ids: list[int]) -> bytes:
    words = {"timestamp": timestamp, "input_length": prompt_tokens, "output_length": output_tokens}
    return json.dumps({**words, "hash_ids": hash_ids}).encode() + b"\n"


FIRST = row(0, 1500, 6, [1, 2, 3])
SECOND = row(1500, 1100, 0, [1, 2, 9])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bytes(content: bytes) -> Path:
        path = tmp_path / "trace.jsonl"
        path.write_bytes(content)
        return path

    return write_bytes


def cached(trace: RequestTrace) -> list[int]:
    extras = trace.read_extras(0, trace.rows)
    assert extras is not None
    return list(extras["cached_tokens"].tolist())


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_times_become_seconds_and_empty_answers_count_as_one_token(
    write: Write, pack: Callable[[bytes], bytes]
) -> None:
    path = write(pack(FIRST + b"\n" + SECOND.rstrip()))
    trace = read_request_trace(path)
    assert trace.read(0, 2).tolist() == [(0.0, 1500, 6), (1.5, 1100, 1)]
    assert trace.zero_output_rows == 1
    assert cached(trace) == [0, 1024]
    assert detect(path).name == "mooncake"


def test_rows_without_prefix_blocks_say_nothing_of_a_cache(write: Write) -> None:
    trace = read_request_trace(write(b'{"timestamp": 7, "input_length": 5, "output_length": 6}\n'))
    assert trace.read(0, 1).tolist() == [(0.007, 5, 6)]
    assert trace.read_extras(0, 1) is None


def test_only_leading_blocks_count() -> None:
    cache = PrefixCache(100)
    assert cache.hit_tokens([1, 2, 3], 1536) == 0
    assert cache.hit_tokens([1, 7, 3, 4], 2048) == 512


def test_the_last_token_is_computed_even_if_the_prompt_is_known_to_its_end() -> None:
    cache = PrefixCache(100)
    assert cache.hit_tokens([1, 2, 3], 1536) == 0
    assert cache.hit_tokens([1, 2, 3], 1536) == 1024
    assert cache.hit_tokens([1, 2, 3, 4], 1537) == 1536


def test_a_block_that_is_not_full_is_not_kept() -> None:
    cache = PrefixCache(100)
    assert cache.hit_tokens([1, 2], 600) == 0
    assert cache.hit_tokens([1, 2, 3], 1300) == 512


def test_the_least_recently_used_block_goes_first_and_of_one_prompt_the_last() -> None:
    cache = PrefixCache(3)
    cache.hit_tokens([1, 2, 3], 1536)
    cache.hit_tokens([1], 512)
    cache.hit_tokens([8], 512)  # takes the place of 3
    assert cache.hit_tokens([1, 2, 3, 4], 2048) == 1024


def test_a_cache_without_room_hits_nothing(write: Write) -> None:
    assert cached(read_request_trace(write(FIRST + SECOND), Reading(cache_blocks=0))) == [0, 0]
    assert cached(read_request_trace(write(FIRST + SECOND), Reading(cache_blocks=1))) == [0, 512]


def test_more_room_never_lowers_what_is_hit() -> None:
    """Least recently used keeps a part of what a larger cache keeps."""
    prompts = [[k * k % 3, 10 + k % 5, 30 + k % 11, 50 + k * k % 13] for k in range(300)]
    hits = []
    for blocks in (0, 1, 3, 8, 20, 60, 1000):
        cache = PrefixCache(blocks)
        hits.append([cache.hit_tokens(prompt, 2049) for prompt in prompts])
    for less, more in pairwise(hits):
        assert all(a <= b for a, b in zip(less, more, strict=True))
    assert sum(hits[0]) == 0 < sum(hits[2]) < sum(hits[4]) < sum(hits[-1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (FIRST + SECOND[:40], ", line 2: no request (Input data was truncated); the line may be cut short"),
        (FIRST + b'{"timestamp": nan}\n', ", line 2: no request (JSON is malformed"),
        (FIRST + b"[1, 2]\n", ", line 2: no request (Expected `object`, got `array`)"),
        (FIRST + SECOND.replace(b"1500", b'"1500"'), ", line 2: no request (Expected `float`, got `str`"),
        (FIRST + SECOND.replace(b"1100", b"0"), ", line 2: no request (Expected `int` >= 1"),
        (FIRST + SECOND.replace(b"1100", b"10000001"), ", line 2: no request (Expected `int` <= 10000000"),
        (FIRST + SECOND.replace(b"1100", b"9" * 5000), ", line 2: no request ("),
        (FIRST + SECOND.replace(b"1500", b"-1"), ", line 2: no request (Expected `float` >= 0.0"),
        (FIRST + SECOND.replace(b"1500", b"1e999"), ", line 2: no request (Number out of range"),
        (FIRST + b'{"a":' * 12_000, ", line 2: no request ("),
        (FIRST + b'{"\xff": 1}\n', ", line 2: no request ("),
        (SECOND + FIRST, ", line 2: this request arrives before the one above it; sort"),
        (FIRST + row(1, 1100, 1, [1]), ", line 2: 1 hash_ids for 1100 prompt tokens"),
        (
            FIRST + b'{"timestamp":1,"input_length":5,"output_length":6}\n',
            ", line 2: some lines have hash_ids and some",
        ),
        (FIRST + b"\n" * 100_000, ", line 1002: more than 1000 blank lines"),
        (FIRST + b" " * 70_000, ", line 2: longer than 64 KiB"),
        (lzma.compress(FIRST * 9)[:-20], ", byte 1: from about here the packed file is damaged or cut short"),
    ],
)
def test_a_bad_trace_is_refused_in_one_line_with_the_place(write: Write, content: bytes, said: str) -> None:
    path = write(content)
    with pytest.raises(DataError) as caught:
        read_request_trace(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).isprintable()


def test_xz_that_asks_for_too_much_memory_is_refused(write: Write) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}]
    path = write(lzma.compress(FIRST, filters=filters))
    with pytest.raises(DataError, match=r"damaged or cut short .Memory usage limit exceeded.; fetch it again"):
        read_request_trace(path)


def test_xz_in_several_streams_with_padding_is_one_file(write: Write) -> None:
    assert read_request_trace(write(lzma.compress(FIRST) + bytes(8) + lzma.compress(SECOND) + bytes(9000))).rows == 2
