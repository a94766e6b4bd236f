"""Request traces: what is read, and what is said of a bad one."""

import gzip
import pickle
import resource
import socket
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from policies.errors import DataError
from telemetry.request_trace import RequestTrace, read_request_trace

CLOCK = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
SECONDS = b"request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
ROW = b"2023-11-16 18:15:46.6805900,374,44\n"
LATER = b"2023-11-16 18:15:50.9951690,396,109\n"

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bytes(content: bytes) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(content)
        return path

    return write_bytes


def rows_of(trace: RequestTrace) -> list[tuple[float, int, int]]:
    return [tuple(row) for row in trace.read(0, trace.rows).tolist()]


def complaint(path: Path | str) -> str:
    """The one line said about a bad trace, after the name of the file."""
    with pytest.raises(DataError) as caught:
        read_request_trace(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_dates_count_from_the_first_request(write: Write, end: bytes) -> None:
    trace = read_request_trace(write((CLOCK + ROW + LATER).replace(b"\n", end)))
    assert rows_of(trace) == [(0.0, 374, 44), (4.314579, 396, 109)]
    assert (trace.rows, trace.first_s, trace.last_s) == (2, 0.0, 4.314579)


def test_seconds_are_kept_as_given(write: Write) -> None:
    trace = read_request_trace(write(SECONDS + b"0,2,0,1.0,1,374,44\n1,2,0,1.35954825,1,396,109\n"))
    assert rows_of(trace) == [(1.0, 374, 44), (1.35954825, 396, 109)]


def test_columns_may_stand_in_any_order_and_others_are_ignored(write: Write) -> None:
    content = b'GeneratedTokens,"who, when",TIMESTAMP,ContextTokens\n5,"a, b",2024-05-10 00:00:00+00:00,7\n'
    assert rows_of(read_request_trace(write(content))) == [(0.0, 7, 5)]


@pytest.mark.parametrize("suffix", [b"", b"+00:00", b"Z", b" +0000"])
def test_utc_may_be_spelled_out(write: Write, suffix: bytes) -> None:
    content = b"".join(line[:27] + suffix + line[27:] for line in (ROW, LATER))
    assert rows_of(read_request_trace(write(CLOCK + content)))[1][0] == 4.314579


def test_offsets_are_taken_off_before_times_are_compared(write: Write) -> None:
    content = b"2024-05-10 01:30:00+02:00,1,1\n2024-05-09 23:30:00.5-00:30,1,1\n2024-05-10T00:00:02Z,1,1\n"
    assert [row[0] for row in rows_of(read_request_trace(write(CLOCK + content)))] == [0.0, 1800.5, 1802.0]


def test_the_full_resolution_of_100_ns_arrives(write: Write) -> None:
    content = b"2023-11-16 18:15:46.0000001,1,1\n2023-11-16 18:15:46.0000002,1,1\n"
    assert rows_of(read_request_trace(write(CLOCK + content)))[1][0] == 1e-7


def test_packed_text_is_recognised_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "named-plainly.csv"
    path.write_bytes(gzip.compress(CLOCK + ROW + LATER))
    assert read_request_trace(path).rows == 2


def test_several_packed_files_in_a_row_read_as_one(write: Write) -> None:
    assert read_request_trace(write(gzip.compress(CLOCK + ROW) + gzip.compress(LATER))).rows == 2


@pytest.mark.parametrize("content", [CLOCK + ROW + LATER[:-1], b"\xef\xbb\xbf" + CLOCK + ROW + LATER])
def test_a_missing_last_newline_and_a_byte_order_mark_are_no_faults(write: Write, content: bytes) -> None:
    assert read_request_trace(write(content)).rows == 2


def test_blank_lines_are_skipped_and_still_counted(write: Write) -> None:
    content = CLOCK + b"\n" + ROW + b"  \r\n" + LATER + b"\n\n"
    assert read_request_trace(write(content)).rows == 2
    assert "line 7: " in complaint(write(content[:-1] + b"1,2\n"))


def test_an_answer_of_no_tokens_counts_as_one(write: Write) -> None:
    trace = read_request_trace(write(CLOCK + ROW.replace(b",44", b",0")))
    assert rows_of(trace)[0][2] == 1
    assert trace.zero_output_rows == 1


@pytest.mark.parametrize(
    "content", [ROW.replace(b"374", b"374.0"), ROW.replace(b"374", b'"374"'), ROW.replace(b",", b" , ")]
)
def test_harmless_ways_of_writing_numbers_are_understood(write: Write, content: bytes) -> None:
    assert rows_of(read_request_trace(write(CLOCK + content))) == [(0.0, 374, 44)]


def test_a_trace_would_start_again_one_mean_gap_after_its_end(write: Write) -> None:
    trace = read_request_trace(write(SECONDS + b"0,0,0,1,0,5,5\n0,0,0,2,0,5,5\n0,0,0,5,0,5,5\n"))
    assert trace.duration_s == 7.0
    assert read_request_trace(write(CLOCK + ROW)).duration_s == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ": the file is empty"),
        (CLOCK, ", line 1: no request follows the header"),
        (CLOCK[:-1], ", line 1: no request follows"),
        (CLOCK + b"\n\n", ", line 1: no request follows"),
        (b"\n" + CLOCK + ROW, ", line 1: unknown header ''; the first line must name the columns TIMESTAMP,"),
        (ROW + LATER, ", line 1: unknown header '2023-"),
        (b"a;b;c\n1;2;3\n", ", line 1: unknown header 'a;b;c'"),
        (CLOCK.replace(b"Context", b"TIMESTAMP,Context"), ", line 1: unknown header"),
        (CLOCK + ROW + b"2023-11-16 18:15:50.99,396\n", ", line 3: 2 columns where the header has 3"),
        (CLOCK + ROW + b"2023-11-16 18:15:50.9", ", line 3: 1 columns where the header has 3; the line may be cut"),
        (CLOCK + ROW + LATER.replace(b"\n", b",1\n"), ", line 3: 4 columns where"),
        (CLOCK + b"a,b\nc,d,e,f\n", ", line 2: 2 columns"),
        (CLOCK + ROW + LATER.replace(b"396", b"x"), ", line 3: 'x' is not a number of prompt tokens"),
        (CLOCK + ROW + LATER.replace(b"109", b"nan"), ", line 3: 'nan' is not a number of output tokens"),
        (CLOCK + ROW + LATER.replace(b"109", b"1.5"), ", line 3: '1.5' is not a number of output tokens"),
        (CLOCK + ROW + LATER.replace(b"109", b"1_0"), ", line 3: '1_0' is not a number of output tokens"),
        (CLOCK + ROW + LATER.replace(b"109", b""), ", line 3: '' is not a number of output tokens"),
        (
            CLOCK + ROW + LATER.replace(b"109", b"-109"),
            ", line 3: -109 output tokens; an answer of 0 tokens counts as 1",
        ),
        (CLOCK + ROW + LATER.replace(b"396", b"-3"), ", line 3: -3 prompt tokens; a request has at least 1"),
        (CLOCK + ROW + LATER.replace(b"396", b"0"), ", line 3: 0 prompt tokens; a request has at least 1"),
        (CLOCK + ROW + LATER.replace(b"396", b"10000001"), ", line 3: 10000001 prompt tokens is beyond 10,000,000"),
        (CLOCK + ROW + LATER.replace(b"396", b"9" * 5000), " prompt tokens is beyond 10,000,000"),
        (CLOCK + LATER + ROW, ", line 3: this request arrives before the one on line 2; sort the lines"),
        (CLOCK + LATER + b"\n" + ROW, ", line 4: this request arrives before the one on line 2"),
        (CLOCK + b"now,1,1\n", ", line 2: timestamp 'now' is not like 2023-11-16 18:15:46.6805900"),
        (CLOCK + b"2023-02-30 00:00:00,1,1\n", ", line 2: timestamp '2023-02-30 00:00:00' does not exist"),
        (CLOCK + b"0001-01-01 00:00:00,1,1\n", ", line 2: timestamp '0001-01-01 00:00:00' is outside the years"),
        (CLOCK + b"9999-01-01 00:00:00,1,1\n", " is outside the years"),
        (CLOCK + ROW + ROW.replace(b"2023", b"2034"), ", line 3: over 10 years after the first request"),
        (SECONDS + b"0,0,0,nan,0,5,5\n", ", line 2: arrival 'nan' is not a number of seconds"),
        (SECONDS + b"0,0,0,inf,0,5,5\n", ", line 2: arrival 'inf' is not a number of seconds"),
        (SECONDS + b"0,0,0,-1,0,5,5\n", ", line 2: arrival -1.0 s is before the start of the run"),
        (SECONDS + b"0,0,0,1700000000,0,5,5\n", ", line 2: arrival 1700000000.0 s is over 10 years"),
        (CLOCK + ROW + b"\xff\xfe,1,1\n", ", line 3: byte 1 is not UTF-8 text"),
        (CLOCK.decode().encode("utf-16"), ", line 1: byte 1 is not UTF-8 text"),
        (CLOCK + ROW + b"\0" * 100, ", line 3: a zero byte"),
        (b"PAR1\x15\x04\x15\x90" + bytes(100), ": the end of the file is missing or damaged; fetch it again"),
        (CLOCK + ROW + b'"2023,1,1\n', ", line 3: a quote is not closed"),
        (CLOCK + ROW + b"9" * 70_000 + b"\n" + LATER, ", line 3: longer than 64 KiB"),
        (b"x" * 2_000_000, ", line 1: longer than 64 KiB"),
        (CLOCK + ROW + b"x" * 2_000_000, ", line 3: longer than 64 KiB"),
        (CLOCK + ROW + b"\n" * 2_000_000, ", line 1003: more than 1000 blank lines"),
    ],
)
def test_a_bad_trace_is_refused_in_one_line_with_the_place(write: Write, content: bytes, said: str) -> None:
    assert said in complaint(write(content))


def test_every_refusal_says_what_to_do(write: Write) -> None:
    for content in (b"", CLOCK, ROW, CLOCK + b"1\n", CLOCK + LATER + ROW, CLOCK + b"now,1,1\n", CLOCK + b"\xff,1,1\n"):
        assert "; " in complaint(write(content))


def test_a_fault_far_down_is_found_at_its_line(write: Write) -> None:
    content = SECONDS + b"".join(b"%d,2,0,%d,1,7,7\n" % (k, k) for k in range(100_000)) + b"0,2,0,99999,1,7,-7\n"
    assert ", line 100002: -7 output tokens" in complaint(write(content))


def test_disorder_between_two_blocks_is_found(write: Write) -> None:
    lines = [b"%d,2,0,%d,1,7,7\n" % (k, k) for k in range(60_000)]
    width = sum(map(len, lines))
    assert width > 1_000_000  # more than one block
    for place in range(29_000, 33_000, 1000):
        swapped = [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]
        said = complaint(write(SECONDS + b"".join(swapped)))
        assert f", line {place + 3}: this request arrives before the one on line {place + 2}" in said


def test_cut_or_damaged_packed_files_are_refused_wherever_the_damage_is(write: Write) -> None:
    whole = gzip.compress(CLOCK + ROW + LATER)
    for length in range(2, len(whole)):
        assert "damaged or cut short" in complaint(write(whole[:length]))
    for at in range(18, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        complaint(write(bytes(damaged)))
    assert "damaged or cut short" in complaint(write(whole + b"what is this?"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path / "absent.csv") == ": no such file; check the path"
    assert complaint(tmp_path) == ": is a folder; give a file in it"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert ": cannot be read (" in complaint(tmp_path / "socket")
    with pytest.raises(DataError, match="cannot be read"):
        read_request_trace("zero\0byte")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert ": cannot be read (" in complaint(tmp_path / "loop")


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\\nb: no such file"):
        read_request_trace(tmp_path / "a\nb")
    with pytest.raises(DataError, match="no such file"):
        read_request_trace(str(tmp_path / "\udcff"))


def test_a_packed_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        complaint(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def long_trace(rows: int) -> bytes:
    return SECONDS + b"".join(b"%d,2,0,%.3f,1,%d,%d\n" % (k, k / 7, 1 + k % 999, 1 + k % 88) for k in range(rows))


def test_a_trace_beyond_the_memory_allowed_reads_the_same_from_disk(write: Write) -> None:
    path = write(long_trace(100_000))
    in_memory, on_disk = read_request_trace(path), read_request_trace(path, memory_bytes=500_000)
    assert (in_memory.spool.on_disk, on_disk.spool.on_disk) == (False, True)
    assert (on_disk.read(0, 200_000) == in_memory.read(0, 200_000)).all()
    assert (on_disk.read(65_000, 65_009) == in_memory.read(65_000, 65_009)).all()
    assert len(on_disk.read(100_000, 100_001)) == 0
    on_disk.close()


def test_memory_does_not_grow_with_the_trace(write: Write) -> None:
    peaks = []
    for rows in (30_000, 90_000):
        path = write(long_trace(rows))
        tracemalloc.start()
        try:
            read_request_trace(path, memory_bytes=1_000_000).close()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 40_000_000


def test_a_full_disk_is_reported_in_one_line(write: Write) -> None:
    path = write(long_trace(100_000))
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, allowed[1]))
    try:
        with pytest.raises(DataError, match=r"no room in .* or set TMPDIR to a larger folder") as caught:
            read_request_trace(path, memory_bytes=500_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert "\n" not in str(caught.value)


def test_a_trace_travels_to_another_process(write: Write) -> None:
    trace = read_request_trace(write(long_trace(1000)))
    assert (pickle.loads(pickle.dumps(trace)).read(0, 1000) == trace.read(0, 1000)).all()


def test_a_closed_trace_has_given_its_memory_back(write: Write) -> None:
    with read_request_trace(write(CLOCK + ROW)) as trace:
        assert trace.rows == 1
    with pytest.raises(AssertionError):
        trace.read(0, 1)


def test_an_hour_of_real_size_is_read_in_a_moment(write: Write) -> None:
    start = np.datetime64("2023-11-16T18:15:46.6805900", "ns")
    times = (start + np.arange(19_366) * np.timedelta64(180_811_700, "ns")).astype(str)
    path = write(CLOCK + "".join(f"{str(at)[:27].replace('T', ' ')},1020,129\n" for at in times).encode())
    best_s = 9.0
    for _ in range(5):
        begun_s = time.process_time()
        read_request_trace(path)
        best_s = min(best_s, time.process_time() - begun_s)
    assert best_s < 0.06
