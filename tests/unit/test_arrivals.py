"""Recorded traces as arrivals: copies, thinning, compression, cuts."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.errors import ConfigError
from sim_backend.arrivals import Arrivals, ArrivalSource, Load, TraceArrivals
from telemetry.request_trace import RequestTrace, read_request_trace

HEADER = "arrival_timestamp,prompt_size,token_size\n"
Make = Callable[[list[float]], RequestTrace]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def trace_at(times_s: list[float]) -> RequestTrace:
        """A trace whose prompt sizes number its requests."""
        path = tmp_path / "trace.csv"
        path.write_text(HEADER + "".join(f"{at},{k + 1},{k % 5 + 1}\n" for k, at in enumerate(times_s)))
        return read_request_trace(path)

    return trace_at


@pytest.fixture
def busy(make: Make) -> RequestTrace:
    """5000 requests in about 1000 s, twice as many per second in the second half."""
    random = np.random.default_rng(3)
    gaps = random.exponential(1.0, 5000) * np.repeat([0.3, 0.15], [1667, 3333])
    return make(np.cumsum(gaps).tolist())


def together(source: ArrivalSource) -> Arrivals:
    """All blocks as one."""
    blocks = list(source.blocks())
    assert all(len(block) > 0 for block in blocks)
    return Arrivals(
        np.concatenate([block.arrival_s for block in blocks]),
        np.concatenate([block.prompt_tokens for block in blocks]),
        np.concatenate([block.output_tokens for block in blocks]),
        np.concatenate([block.priority for block in blocks]),
    )


def bytes_of(arrivals: Arrivals) -> bytes:
    return b"".join(
        each.tobytes()
        for each in (arrivals.arrival_s, arrivals.prompt_tokens, arrivals.output_tokens, arrivals.priority)
    )


def keys_of(arrivals: Arrivals) -> set[tuple[float, int, int, int]]:
    return set(
        zip(
            arrivals.arrival_s.tolist(),
            arrivals.prompt_tokens.tolist(),
            arrivals.output_tokens.tolist(),
            arrivals.priority.tolist(),
            strict=True,
        )
    )


def test_factor_one_is_the_trace_itself(busy: RequestTrace) -> None:
    arrivals = together(TraceArrivals(busy, Load(seed=5)))
    recorded = busy.read(0, busy.rows)
    assert (arrivals.arrival_s == recorded["arrival_s"]).all()
    assert (arrivals.prompt_tokens == recorded["prompt_tokens"]).all()
    assert (arrivals.output_tokens == recorded["output_tokens"]).all()


def test_arrays_have_the_types_that_the_plant_is_compiled_for(busy: RequestTrace) -> None:
    block = next(iter(TraceArrivals(busy, Load(factor=1.5)).blocks()))
    types = [each.dtype.str for each in (block.arrival_s, block.prompt_tokens, block.output_tokens, block.priority)]
    assert types == ["<f8", "<i4", "<i4", "|i1"]
    assert block.arrival_s.flags.c_contiguous
    assert block.prompt_tokens.flags.c_contiguous


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3, 2.0, 7.25, 40.0])
def test_load_is_multiplied_and_stays_in_order(busy: RequestTrace, factor: float) -> None:
    arrivals = together(TraceArrivals(busy, Load(factor=factor)))
    assert len(arrivals) == pytest.approx(factor * busy.rows, abs=4.0 * 0.5 * busy.rows**0.5)
    assert (np.diff(arrivals.arrival_s) >= 0.0).all()
    assert arrivals.arrival_s[0] >= 0.0
    assert arrivals.arrival_s[-1] < busy.duration_s


def test_whole_factors_carry_every_request_once_per_copy(busy: RequestTrace) -> None:
    arrivals = together(TraceArrivals(busy, Load(factor=3.0)))
    assert (np.bincount(arrivals.prompt_tokens)[1:] == 3).all()


def test_copies_are_shifted_by_offsets_of_their_own_and_wrap(make: Make) -> None:
    trace = make([0.0, 1.0, 3.0, 9.0])
    arrivals = together(TraceArrivals(trace, Load(factor=4.0)))
    offsets = set()
    for number, at in enumerate([0.0, 1.0, 3.0, 9.0], 1):
        shifts = np.sort((arrivals.arrival_s[arrivals.prompt_tokens == number] - at) % trace.duration_s)
        offsets.add(tuple(np.round(shifts, 9)))
    assert len(offsets) == 1
    (one,) = offsets
    assert one[0] == 0.0
    assert len(set(one)) == 4


def test_more_load_only_ever_adds_requests(busy: RequestTrace) -> None:
    loads = [keys_of(together(TraceArrivals(busy, Load(factor=factor)))) for factor in (0.4, 1.0, 1.3, 1.5, 2.0, 2.1)]
    assert all(less < more for less, more in pairwise(loads))


def test_the_size_of_blocks_does_not_show(busy: RequestTrace) -> None:
    load = Load(factor=3.7, compress_time=2.0, seed=4)
    whole = TraceArrivals(busy, load)
    pieces = TraceArrivals(busy, load, block_rows=1000)
    assert max(len(block) for block in pieces.blocks()) <= 1000
    assert bytes_of(together(whole)) == bytes_of(together(pieces))


def test_reading_twice_gives_the_same_and_another_seed_does_not(busy: RequestTrace) -> None:
    source = TraceArrivals(busy, Load(factor=1.3))
    assert bytes_of(together(source)) == bytes_of(together(source))
    assert bytes_of(together(source)) != bytes_of(together(TraceArrivals(busy, Load(factor=1.3, seed=1))))


def test_a_trace_on_disk_gives_the_same_arrivals(busy: RequestTrace) -> None:
    on_disk = read_request_trace(busy.path, memory_bytes=0)
    load = Load(factor=2.5)
    assert bytes_of(together(TraceArrivals(on_disk, load))) == bytes_of(together(TraceArrivals(busy, load)))


def test_compression_divides_times_and_keeps_sizes(busy: RequestTrace) -> None:
    plain, dense = (together(TraceArrivals(busy, Load(compress_time=k))) for k in (1.0, 12.0))
    assert (dense.arrival_s == plain.arrival_s / 12.0).all()
    assert (dense.prompt_tokens == plain.prompt_tokens).all()
    assert (dense.priority == plain.priority).all()
    assert TraceArrivals(busy, Load(compress_time=12.0)).duration_s == busy.duration_s / 12.0


def test_days_cut_the_run_and_leave_the_start_as_it_was(busy: RequestTrace) -> None:
    source = TraceArrivals(busy, Load(factor=2.5, days=0.005))
    assert source.duration_s == 432.0
    whole = together(TraceArrivals(busy, Load(factor=2.5)))
    kept = int(np.searchsorted(whole.arrival_s, 432.0))
    cut = together(source)
    assert len(cut) == kept
    assert (cut.arrival_s == whole.arrival_s[:kept]).all()
    assert (cut.priority == whole.priority[:kept]).all()
    assert TraceArrivals(busy, Load(days=30.0)).duration_s == busy.duration_s


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_low_priority_is_kept(busy: RequestTrace, share: float) -> None:
    arrivals = together(TraceArrivals(busy, Load(factor=4.0, low_share=share)))
    assert np.mean(arrivals.priority == 0) == pytest.approx(share, abs=0.02)


def test_a_larger_low_share_only_lowers_requests(busy: RequestTrace) -> None:
    few, many = (together(TraceArrivals(busy, Load(low_share=share))).priority for share in (0.3, 0.6))
    assert (many <= few).all()


def test_bursts_of_simultaneous_requests_stay_within_the_size_of_blocks(make: Make) -> None:
    source = TraceArrivals(make([5.0] * 4000), Load(factor=3.0), block_rows=900)
    lengths = [len(block) for block in source.blocks()]
    assert max(lengths) <= 900
    assert sum(lengths) == 12_000


def test_a_single_request_can_be_multiplied(make: Make) -> None:
    source = TraceArrivals(make([4.0]), Load(factor=3.0))
    assert len(together(source)) == 3
    assert source.duration_s == 5.0


def test_a_cut_before_the_first_request_leaves_an_empty_run(make: Make) -> None:
    assert list(TraceArrivals(make([500.0, 600.0]), Load(days=1e-3)).blocks()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 0.0},
        {"factor": -1.0},
        {"factor": float("nan")},
        {"factor": 1e9},
        {"compress_time": 0.0},
        {"compress_time": float("inf")},
        {"low_share": 1.1},
        {"low_share": float("nan")},
        {"days": 0.0},
        {"days": float("nan")},
    ],
)
def test_senseless_loads_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("factor", "load factor")):
        Load(**wrong)  # type: ignore[arg-type]


def test_priorities_of_the_recording_are_kept_in_every_copy(tmp_path):
    """Only what a recording does not say is drawn."""
    path = tmp_path / "requests.parquet"
    columns = {
        "arrival_s": pa.array([0.5 * k for k in range(100)], pa.float64()),
        "prompt_tokens": pa.array([10 + k % 2 for k in range(100)], pa.int32()),
        "output_tokens": pa.array([5] * 100, pa.int32()),
        "priority": pa.array([k % 2 for k in range(100)], pa.int8()),
    }
    pq.write_table(pa.table(columns), path)
    with read_request_trace(path) as trace:
        blocks = list(TraceArrivals(trace, Load(factor=2.5, low_share=1.0)).blocks())
    prompt_tokens = np.concatenate([block.prompt_tokens for block in blocks])
    priority = np.concatenate([block.priority for block in blocks])
    assert len(priority) > 200
    assert (priority == prompt_tokens - 10).all()
