"""What becomes of each defect of a recording, and what the trace says of it."""

from pathlib import Path

import numpy as np
import pytest

from policies.errors import ConfigError, DataError
from telemetry import power_spool
from telemetry.power_spool import SAMPLE
from telemetry.power_trace import PowerTrace, read_power
from telemetry.trace_formats import power_parquet
from telemetry.trace_quality import figures_of
from telemetry.whole_file import whole_file


@pytest.fixture
def read(tmp_path: Path):
    def read(rows: str, header: str = "source,time_s,power_w", **more) -> PowerTrace:
        path = tmp_path / "recording.csv"
        path.write_text(f"{header}\n{rows.replace(' ', chr(10))}\n")
        return read_power(path, **more)

    return read


def test_what_a_failing_meter_writes_is_no_reading(read) -> None:
    trace = read("a,0,-1 a,1,-2 a,2,0 a,3,140737488355328 a,4,inf a,5,4294967.295 a,6, a,7,500")
    assert np.isnan(trace.series("a")[1][:-1]).all()
    found = trace.quality.sources[0]
    assert found.defects == {"no reading": 1, "failed readings": 5, "0 W": 1}
    assert (found.samples, found.watts.readings, found.watts.mean_w, found.watts.least_w) == (8, 1, 500.0, 500.0)


def test_a_source_that_never_reads_is_named_and_not_counted(read) -> None:
    trace = read("a,0,100 b,0, a,1,100 b,1,0")
    assert trace.sources == ("a",)
    assert trace.quality.without_watts == ("b",)
    assert trace.total_w(1.0)[1].tolist() == [100.0, 100.0]


def test_gaps_are_counted_between_readings(read) -> None:
    found = read("a,0,5 a,1,5 a,2,5 a,3, a,4,-1 a,5,5 a,6,5 a,9.5,5").quality.sources[0]
    assert (found.period_s, found.gaps, found.longest_gap_s) == (1.0, 2, 3.5)


def test_stamps_out_of_order_are_put_in_order_and_counted(read) -> None:
    trace = read("a,0,1 a,2,3 a,1,2 a,3,4 a,3,5")
    assert [each.tolist() for each in trace.series("a")] == [[0, 1, 2, 3, 3], [1, 2, 3, 4, 5]]
    assert trace.quality.defects == {"out of order": 1, "same time twice": 1}
    assert trace.total_w(1.0)[1].tolist() == [1, 2, 3, 5], "of two readings at one time the later one holds"


def test_repeated_watts_are_kept_and_counted(read) -> None:
    trace = read("a,0,5 b,0,7 a,1,5 b,1,8 a,2,6")
    assert trace.quality.defects == {"repeated watts": 1}
    assert len(trace.series("a")[0]) == 3


def test_a_wall_clock_that_falls_back_runs_on(read) -> None:
    day = "2024/10/27"
    rows = f"{day} 02:59:58,5\n{day} 02:59:59,6\n{day} 02:00:00,7\n{day} 02:00:01,8"
    path = "timestamp,power_w"
    trace = read(rows.replace(" ", "T"), header=path)
    assert trace.series("recording")[0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert trace.quality.defects == {"clock set back by an hour": 1}


def test_clocks_of_nodes_are_told_apart_but_not_moved(read) -> None:
    trace = read("a,1700000000,5 a,1700000002,5 b,1700000001.5,5 b,1700000003.5,5")
    assert trace.quality.start_unix_s == 1700000000.0
    assert trace.quality.start_spread_s == 1.5
    assert trace.series("b")[0].tolist() == [1.5, 3.5]


def test_clocks_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time_s,power_w\n1700000000,5\n")
    (tmp_path / "b.csv").write_text("time_s,power_w\n0,5\n")
    with pytest.raises(DataError, match=r"b\.csv: counts from its own start, while .*a\.csv counts from 1970"):
        read_power([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_a_sum_holds_readings_for_a_while_and_then_says_that_it_does_not_know(read) -> None:
    trace = read("a,0,100 b,0.5,10 a,1,101 a,2,102 b,2.5,11 a,3,103 a,90,190 b,90,20")
    time_s, total_w = trace.total_w(1.0)
    assert time_s[:3].tolist() == [0.5, 1.5, 2.5]
    assert total_w[:4].tolist() == [110.0, 111.0, 113.0, 114.0]
    known = total_w[time_s <= 62.5]
    assert known[-1] == 114.0
    assert np.isnan(total_w[(time_s > 63.0) & (time_s < 90.0)]).all()
    assert not np.isnan(trace.total_w(1.0, longest_hold_s=1e9)[1]).any()
    assert trace.total_w(1.0, sources=["b"])[1][:3].tolist() == [10.0, 10.0, 11.0]


def test_sources_that_never_overlap_have_no_sum(read) -> None:
    trace = read("a,0,5 a,1,5 b,2,5 b,3,5")
    with pytest.raises(DataError, match="do not overlap"):
        trace.total_w(1.0)
    with pytest.raises(DataError, match="longer step"):
        trace.total_w(1e-9, sources=["a"])


def test_one_meter_under_two_names_is_told(read) -> None:
    rows = " ".join(f"a,{k},{100 + k % 7} b,{k},{100 + k % 7} c,{k},{100 + k % 5}" for k in range(30))
    assert read(rows).quality.same_readings == (("a", "b"),)


def test_a_day_of_many_sources_reads_the_same_from_disk(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "many.csv"
    rng = np.random.default_rng(7)
    drawn_w = rng.integers(100, 700, (4000, 9))
    rows = [f"n{node},{t},{drawn_w[t, node]}" for t in range(4000) for node in range(9)]
    path.write_text("node,t_s,power_w\n" + "\n".join(rows) + "\n")
    monkeypatch.setattr(power_spool, "BUFFER_ROWS", 1000)
    monkeypatch.setattr(power_spool.PowerSpool.__init__, "__defaults__", (4096,))
    with read_power(path) as trace:
        assert trace.series("n3")[1].tolist() == drawn_w[:, 3].tolist()
        assert trace.total_w(1.0)[1].tolist() == drawn_w.sum(axis=1).tolist()
        assert trace.quality.overall is not None
        assert trace.quality.overall.p99_w == np.percentile(drawn_w, 99)


def test_figures_from_pieces_agree_with_those_of_the_whole(monkeypatch) -> None:
    rng = np.random.default_rng(7)
    samples = np.zeros(20_000, dtype=SAMPLE)
    samples["power_w"] = np.where(rng.random(20_000) < 0.1, np.nan, rng.gamma(2.0, 300.0, 20_000))
    readings = int(np.count_nonzero(~np.isnan(samples["power_w"])))
    whole = figures_of(lambda: [samples], readings)
    monkeypatch.setattr("telemetry.trace_quality.WHOLE_ROWS", 100)
    parts = figures_of(lambda: np.array_split(samples, 7), readings)
    assert parts.mean_w == pytest.approx(whole.mean_w, rel=1e-12)
    assert (parts.peak_w, parts.least_w, parts.readings) == (whole.peak_w, whole.least_w, whole.readings)
    assert parts.p99_w == pytest.approx(whole.p99_w, rel=0.002), "between two neighbouring readings"


def test_parquet_gives_back_what_was_written(read, tmp_path: Path) -> None:
    trace = read("a,0,100 b,0,10 a,1, b,1,11 a,2,0 a,3,103")
    with whole_file(tmp_path / "out.parquet") as stream:
        assert power_parquet.write(((each, trace.samples(each)) for each in trace.sources), "start", stream) == 6
    again = read_power(tmp_path / "out.parquet")
    assert again.quality.clock == "start"
    for source in trace.sources:
        assert np.array_equal(again.series(source), trace.series(source), equal_nan=True)


def test_an_unfinished_output_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")

    def written() -> None:
        with whole_file(tmp_path / "out") as stream:
            stream.write(b"half")
            raise DataError("the input is damaged")

    with pytest.raises(DataError):
        written()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
    with pytest.raises(ConfigError, match="cannot be written"), whole_file(tmp_path / "no" / "out"):
        pass


def test_too_many_sources_are_a_misread_column(read) -> None:
    with pytest.raises(DataError, match=r"recording\.csv: over 10,000 different sources"):
        read("\n".join(f"n{k},0,5" for k in range(10_001)))
