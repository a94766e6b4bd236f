"""Every format gives the watts that were written, and says which line is wrong."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from policies.errors import DataError
from telemetry.power_trace import PowerTrace, read_power
from telemetry.trace import FORMATS, detect
from tests.power_samples import SAMPLES, UUIDS, WATTS, answer, scrape, smi_csv, smi_xml


@pytest.fixture
def read(tmp_path: Path):
    def read(content: bytes | str, name: str = "recording.txt", **more) -> PowerTrace:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_power(path, **more)

    return read


def watts(trace: PowerTrace, at: int = 0) -> list[float]:
    return trace.series(trace.sources[at])[1].tolist()


PACKED = [
    pytest.param(name, pack, id=f"{name}-{way}")
    for name in SAMPLES
    for way, pack in (("plain", bytes), ("gzip", gzip.compress), ("xz", lzma.compress))
    if name != "parquet" or way == "plain"  # Parquet is packed inside
]


@pytest.mark.parametrize(("name", "pack"), PACKED)
def test_each_format_is_recognised_and_gives_its_watts(name, pack, tmp_path: Path) -> None:
    make, form, sources = SAMPLES[name]
    path = tmp_path / "recording"
    path.write_bytes(pack(make()))
    assert detect(path).name == form
    trace = read_power(path)
    assert len(trace.sources) == sources
    assert watts(trace) == pytest.approx(list(WATTS))
    if sources == 2:
        assert watts(trace, 1) == pytest.approx([w + 10 for w in WATTS])
    step_s = 2.0 if name in ("node", "nodes") else 1.0
    for source in trace.sources:
        assert trace.series(source)[0] == pytest.approx([k * step_s for k in range(4)], abs=1e-6)
    assert trace.quality.overall is not None
    assert trace.quality.overall.peak_w == pytest.approx(max(WATTS) + (10 if sources == 2 else 0))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_forced_format_reads_the_same(name, read) -> None:
    make, form, _ = SAMPLES[name]
    assert watts(read(make(), format=form)) == pytest.approx(list(WATTS))


def test_the_words_for_no_reading_are_no_reading(read) -> None:
    words = ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", "", "[GPU requires reset]", "-"]
    rows = "".join(f"2024/07/14 10:12:{k:02d}.0, {word}, 0\n" for k, word in enumerate(words))
    trace = read(f"timestamp, power.draw [W], index\n{rows}2024/07/14 10:13:00.0, 61.5 W, 0\n")
    assert np.isnan(watts(trace)[:-1]).all()
    assert watts(trace)[-1] == 61.5
    assert trace.quality.defects["no reading"] == len(words)


def test_a_column_without_readings_gives_way_to_the_next(read) -> None:
    text = smi_csv().replace(b"power.draw [W]", b"power.draw.average [W]")
    trace = read(text.replace(b"305.25 W", b"[N/A]"))
    assert watts(trace) == [61.5, 99.0, 612.75, 480.0]
    assert trace.quality.defects["from another power column"] == 1


def test_columns_without_a_time_need_a_period(read) -> None:
    text = "power.draw [W], index\n" + "".join(f"{w} W, 0\n" for w in WATTS)
    with pytest.raises(DataError, match="--period-s"):
        read(text)
    assert read(text, period_s=0.5).series("gpu0")[0].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_a_table_without_names_says_what_to_do(read) -> None:
    rows = smi_csv().partition(b"\n")[2]
    with pytest.raises(DataError, match="noheader"):
        read(rows)


def test_header_repeats_and_a_cut_last_line_are_passed_over(read) -> None:
    text = smi_csv()
    trace = read(text + text.partition(b"\n")[0] + b"\n2024/07/14 10:12:59.483, 0, 99.0")
    assert watts(trace) == list(WATTS)
    assert trace.quality.defects["repeated headers"] == 1
    assert trace.quality.defects["cut lines"] == 1


def test_uuid_names_the_gpu_in_every_file(tmp_path: Path) -> None:
    for number, second in (1, 0), (2, 30):
        text = f"uuid,timestamp,power.draw\n{UUIDS[0]}, 2024/07/14 10:12:{second:02d}.0, {100 * number}.0\n"
        (tmp_path / f"part{number}.csv").write_text(text)
    trace = read_power([tmp_path / "part1.csv", tmp_path / "part2.csv"])
    assert trace.sources == (UUIDS[0],)
    assert [each.tolist() for each in trace.series(UUIDS[0])] == [[0.0, 30.0], [100.0, 200.0]]


def test_files_name_sources_that_have_no_name(tmp_path: Path) -> None:
    paths = []
    for run in ("run_1", "ranging"):
        (tmp_path / run).mkdir()
        paths.append(tmp_path / run / "spl.txt.gz")
        paths[-1].write_bytes(gzip.compress(SAMPLES["analyser"][0]()))
    assert read_power(paths).sources == ("run_1/spl", "ranging/spl")
    assert read_power(paths[0]).sources == ("spl",)
    with pytest.raises(DataError, match="given twice"):
        read_power([paths[0], paths[0]])


def test_instances_of_a_divided_gpu_count_once(read) -> None:
    trace = read(scrape())
    assert trace.quality.defects["repeats of a whole GPU"] == 8
    assert trace.total_w(1.0)[1].tolist() == [2 * w + 10 for w in WATTS]


def test_a_scrape_prefers_what_is_drawn_now(read) -> None:
    names = (
        "nvidia_smi_power_draw_average_watts",
        "nvidia_smi_power_draw_instant_watts",
        "nvidia_smi_power_draw_watts",
    )
    rows = "".join(f'{name}{{uuid="x"}} {100 + k}\n' for k, name in enumerate(names))
    assert watts(read(rows)) == [101.0]
    assert watts(read(rows.replace(" 101", " NaN"))) == [102.0]
    # No times: a series that comes again begins the next scrape.
    again = read(rows + rows.replace(" 101", " 201"), period_s=15.0)
    assert [each.tolist() for each in again.series("x")] == [[0.0, 15.0], [101.0, 201.0]]


def test_other_metrics_are_no_watts(read) -> None:
    trace = read('DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1",Hostname="h"} 30\n')
    assert trace.sources == ()
    assert trace.quality.without_watts == ("GPU-1",)
    assert trace.quality.overall is None
    with pytest.raises(DataError, match="no source with watts"):
        trace.total_w(1.0)
    text = answer().replace(b"DCGM_FI_DEV_POWER_USAGE", b"DCGM_FI_DEV_GPU_TEMP")
    assert read(text).sources == ()
    assert watts(read(text, format="prometheus-json-watts")) == list(WATTS)


def test_an_error_of_prometheus_is_said(read) -> None:
    with pytest.raises(DataError, match="answered with an error"):
        read('{"status": "error", "errorType": "bad_data", "error": "parse error"}')


def test_labels_of_a_scrape_may_hold_anything(read) -> None:
    trace = read('nvidia_smi_power_draw_watts{uuid="a\\"},{b\\n",} 5 1773114089000\n')
    assert watts(trace) == [5.0]


def test_entities_in_xml_are_refused(read) -> None:
    bomb = smi_xml().replace(
        b'SYSTEM "nvsmi_device_v12.dtd"', b'[<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]', 1
    )
    with pytest.raises(DataError, match="entity"):
        read(bomb)


def test_endless_lines_and_deep_nests_are_refused(read) -> None:
    with pytest.raises(DataError, match="longer than 64 KiB"):
        read(b"t_s,power_w\n" + b"1" * 5_000_000)
    with pytest.raises(DataError, match="deep"):
        read(b"<nvidia_smi_log>" + b"<a>\n" * 1000)
    with pytest.raises(DataError, match="deep"):
        read(b'{"status": "success", "data": {"resultType": "x", "result": ' + b"[" * 1000)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("analyser", b"08:04:02", b"08:04:9x"),
        ("analyser", b",Watts,612", b",Wats,612"),
        ("node", b'"value": 612.75', b'"value": 612.7.5'),
        ("node", b'1715257326000, "event', b'1715257326000, "eve\xffn"t'),
        ("normalised", b"612.75", b"612_75"),
        ("normalised", b"2.000,", b"2.0.0,"),
        ("normalised", b"2.000,612.75,load", b"2.000,612.75"),
        ("nodes", b"612.75", b"x"),
        ("smi_csv", b"10:12:02.483, 0", b"10:72:02.483, 0"),
        ("smi_csv", b"612.75 W", b"612.75 kW"),
        ("smi_xml", b"612.75 W", b"much"),
        ("smi_xml", b"<power_draw>612.75", b"<power_draw612.75"),
        ("smi_text", b"612.75 W", b"much"),
        ("smi_dmon", b"12:00:02", b"12:77:02"),
        ("dcgmi_tight", b"612.750", b"61x2.750"),
        ("dcgmi_tight", b"612.750     ", b""),
        ("scrape", b"} 612.75", b"} x612.75"),
        ("scrape", b'gpu="0",UUID', b'gpu=0",UUID'),
    ],
)
def test_damage_is_told_with_its_line(name, before, after, read) -> None:
    content = SAMPLES[name][0]()
    line = content[: content.index(before)].count(b"\n") + 1
    with pytest.raises(DataError, match=rf"recording.txt, line {line}: ") as caught:
        read(content.replace(before, after, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["answer", "parquet"])
def test_damage_is_told_where_there_are_no_lines(name, read) -> None:
    content = SAMPLES[name][0]()
    with pytest.raises(DataError, match="fetch"):
        read(content[: len(content) * 2 // 3])


def test_cut_packing_is_told(read) -> None:
    with pytest.raises(DataError, match="damaged or cut short"):
        read(gzip.compress(SAMPLES["nodes"][0]() * 1, mtime=0)[:-10])


def test_what_is_no_recording_is_refused(read, tmp_path: Path) -> None:
    for content in b"", b"hello\n", bytes(range(256)), b"a,b,c\n1,2,3\n":
        with pytest.raises(DataError, match="--format"):
            read(content)
    with pytest.raises(DataError, match="no such file"):
        read_power(tmp_path / "none")
    with pytest.raises(DataError, match="is a folder"):
        read_power(tmp_path)
    with pytest.raises(DataError, match="no such format"):
        read(b"", format="spl")


def test_columns_of_limits_are_not_taken_for_power(read) -> None:
    assert watts(read("t_s,cap_w,drawn_w\n0,700,61.5\n")) == [61.5]
    assert watts(read("time_s,gpu_power_kw,limit_w\n0,0.5,700\n")) == [500.0]
    with pytest.raises(DataError, match="several columns of watts"):
        read("t_s,left_w,right_w\n0,1,2\n")


def test_a_comma_in_a_cell_does_not_shift_the_others(read) -> None:
    with pytest.raises(DataError, match=r"line 3: '61,500' is not a number"):
        read(SAMPLES["dcgmi_tight"][0]().replace(b"61.500", b"61,500", 1))


def test_a_header_of_dmon_without_power_is_no_header(read) -> None:
    with pytest.raises(DataError, match="line 3"):
        read(SAMPLES["smi_dmon"][0]().replace(b"   pwr ", b"   pwr\0 ", 1), format="nvidia-smi-dmon")


def test_times_beyond_any_calendar_are_refused(read) -> None:
    for time in "1e999", "-1", "1715257322000":
        with pytest.raises(DataError, match=r"times lie between|has no time"):
            read(f"time_s,power_w\n{time},500\n")
    with pytest.raises(DataError, match="a sample at inf s"):
        read(SAMPLES["node"][0]().replace(b"1715257324000", b"1e999", 1))


def test_an_energy_counter_that_leaps_gives_no_period(read) -> None:
    content = SAMPLES["dcgmi_tight"][0]().replace(b" 9", b" 9" + b"9" * 300)
    with pytest.raises(DataError, match="--period-s"):
        read(content)


def test_damaged_statistics_of_parquet_do_not_end_the_process(read) -> None:
    content = SAMPLES["parquet"][0]()
    for at in range(len(content) - 600, len(content) - 8):
        try:
            read(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], format="power-parquet").close()
        except DataError as error:
            assert "fetch" in str(error) or "rename" in str(error) or "times lie" in str(error)  # noqa: PT017 -- some are read


def test_names_of_formats_are_unique() -> None:
    assert len({each.name for each in FORMATS}) == len(FORMATS)
