"""The public recordings of power give the numbers that were published of them."""

import csv
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from policies.errors import DataError
from telemetry.power_trace import PowerTrace, read_power
from telemetry.trace import detect

pytestmark = pytest.mark.data

INFERENCE = ("mlperf-inference-v4.1-h200", "mlperf-inference-a100-h100pcie-bert")
TRAINING = "mlperf-training-v4.0-smc-h100"


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("folder", INFERENCE)
@pytest.mark.parametrize("raw", [True, False], ids=["analyser", "normalised"])
def test_wall_power_of_servers_is_that_of_the_statistics(folder: str, raw: bool, recordings: Path) -> None:
    for row in rows_of(recordings / folder / "stats.csv"):
        parts = [row[key] for key in ("system", "workload", "scenario", "run")]
        path = (
            (recordings / folder / "raw").joinpath(*parts) / "spl.txt.gz"
            if raw
            else recordings / folder / "normalised" / f"{'__'.join(parts)}.csv.gz"
        )
        assert detect(path).name == ("mlperf-analyser" if raw else "power-csv")
        found = read_power(path).quality.sources[0]
        assert found.watts.readings == int(row["n"])
        assert found.samples - found.watts.readings == int(row["missing"])
        # A failed reading is -1 or -2 W in the log and an empty cell in the table.
        assert found.defects.get("failed readings" if raw else "no reading", 0) == int(row["missing"])
        for key, value in (
            ("mean", found.watts.mean_w),
            ("p99", found.watts.p99_w),
            ("peak", found.watts.peak_w),
            ("min", found.watts.least_w),
        ):
            assert value == pytest.approx(float(row[key]), abs=0.051), (path, key)
        assert found.longest_gap_s == pytest.approx(float(row["dt_max"]), abs=0.0011)
        assert found.last_s - found.first_s == pytest.approx(float(row["dur_s"]), abs=0.51)


def node_trace(row: dict[str, str], recordings: Path) -> PowerTrace:
    name = f"{row['system']}__{row['workload']}__{row['run']}.csv.gz"
    return read_power(recordings / TRAINING / "normalised" / name)


def test_power_of_rows_of_servers_is_that_of_the_statistics(recordings: Path) -> None:
    checked = 0
    for row in rows_of(recordings / TRAINING / "stats.csv"):
        trace = node_trace(row, recordings)
        nodes = [name for name in trace.sources if name.startswith(f"{row['sensor']}/")]
        found = [each for each in trace.quality.sources if each.source in nodes]
        assert len(nodes) == int(row["nodes"])
        assert sum(each.samples for each in found) == int(row["n"])
        watts = trace.figures(nodes)
        # The statistics count a sensor's 0 W as a reading, which it is not (README, quality notes).
        zeros = sum(each.defects.get("0 W", 0) for each in found)
        assert zeros == (2 if row["node_min"] == "0" else 0)
        assert watts.mean_w * watts.readings / int(row["n"]) == pytest.approx(float(row["node_mean"]), abs=0.51)
        assert watts.p99_w == pytest.approx(float(row["node_p99"]), abs=0.51)
        assert watts.peak_w == float(row["node_peak"])
        assert max(each.longest_gap_s for each in found) == pytest.approx(float(row["dt_max"]), abs=0.051)
        _, total_w = trace.total_w(2.0, sources=nodes)
        assert not np.isnan(total_w).any()
        assert total_w.mean() / 1e3 == pytest.approx(float(row["sum_mean_kw"]), abs=0.3 if zeros else 0.051)
        assert total_w.max() / 1e3 == pytest.approx(float(row["sum_peak_kw"]), abs=0.051)
        checked += 1
    assert checked == 20


def test_logs_of_nodes_hold_what_their_table_holds(recordings: Path) -> None:
    for log in sorted((recordings / TRAINING / "raw").glob("*/*/*/[ad]c_node_*.txt.gz")):
        system, workload, run = log.parts[-4:-1]
        sensor, _, node = log.name.removesuffix(".txt.gz").split("_")
        table = read_power(recordings / TRAINING / "normalised" / f"{system}__{workload}__{run}.csv.gz")
        trace = read_power(log)
        assert detect(log).name == "mlperf-node"
        found, expected = trace.series(trace.sources[0])[1], table.series(f"{sensor}/{node}")[1]
        assert np.array_equal(found, expected, equal_nan=True), log


def test_several_logs_are_one_row_of_servers(recordings: Path) -> None:
    folder = recordings / TRAINING / "raw/64xSMC-H100-SXM-80GB/gpt3/result_5848-240517221859825376616_2"
    trace = read_power(sorted(folder.glob("ac_node_*.txt.gz")))
    assert sorted(trace.sources) == [f"ac_node_{k}" for k in (1, 2, 3, 4, 64)]
    assert trace.quality.start_spread_s > 0.0, "nodes are read one after the other"
    assert trace.quality.clock == "unix"


def test_servers_of_a_chassis_share_a_meter(recordings: Path) -> None:
    """Nodes of the training runs come in pairs with the same readings: 64 servers are fewer independent ones."""
    distinct = {}
    for row in rows_of(recordings / TRAINING / "stats.csv"):
        if row["sensor"] == "ac":
            trace = node_trace(row, recordings)
            copies = {second for _, second in trace.quality.same_readings if second.startswith("ac/")}
            distinct[row["run"][7:11], row["run"].rpartition("_")[2]] = (
                int(row["nodes"]),
                int(row["nodes"]) - len(copies),
            )
    assert distinct["5848", "2"] == (64, 34)
    assert distinct["5864", "1"] == (64, 32)
    assert distinct["5740", "10"] == (8, 4)
    assert distinct["4951", "1"] == (1, 1)


DMON = {
    # samples, duration, period, mean, p99, peak, least, share of stale rows: the table of the folder's README.
    "h100_lstm_0.dmon.txt.gz": (335, 17, 0.051, 83.2, 99.7, 100.1, 62.4, 0.49),
    "h100_lstm_1.dmon.txt.gz": (314, 16, 0.050, 89.3, 100.0, 100.3, 63.0, 0.49),
    "h100_lstm_2.dmon.txt.gz": (297, 15, 0.051, 90.3, 100.4, 100.5, 63.4, 0.49),
    "v100_lstm_1.dmon.txt.gz": (318, 16, 0.050, 33.8, 49.4, 50.7, 24.4, 0.05),
    "a100pcie_lstm_0.nvidia-smi.csv.gz": (1464, 1470, 1.005, 38.0, 38.1, 62.2, 35.9, None),
}


@pytest.mark.parametrize("name", DMON)
def test_logs_of_dmon_are_those_of_the_readme(name: str, recordings: Path) -> None:
    samples, duration_s, period_s, mean_w, p99_w, peak_w, least_w, stale = DMON[name]
    trace = read_power(recordings / "dcgmi-dmon-logs" / name)
    found = trace.quality.sources[0]
    assert (found.samples, found.watts.readings) == (samples, samples), "a row keeps its watts beside N/A in others"
    assert found.last_s - found.first_s == pytest.approx(duration_s, abs=0.51)
    assert found.period_s == pytest.approx(period_s, abs=0.0006)
    assert found.watts.mean_w == pytest.approx(mean_w, abs=0.051)
    assert found.watts.peak_w == pytest.approx(peak_w, abs=0.051)
    assert found.watts.least_w == pytest.approx(least_w, abs=0.051)
    # The README takes the next higher reading, not the point between two.
    watts = trace.series(trace.sources[0])[1]
    assert np.percentile(watts, 99, method="higher") == pytest.approx(p99_w, abs=0.051)
    if stale is not None:
        assert found.defects["unchanged energy counter"] / samples == pytest.approx(stale, abs=0.0051)
        assert trace.quality.period_from == "the energy counter"


def test_a_sensor_polled_too_fast_repeats_itself(recordings: Path) -> None:
    for path in sorted((recordings / "gpu-power-sensor").glob("*gpudata.csv.gz")):
        trace = read_power(path)
        found = trace.quality.sources[0]
        with gzip.open(path, "rt") as text:
            assert found.samples == sum(1 for _ in text) - 1
        assert "no reading" not in found.defects
        assert "same time twice" not in found.defects
        # Read every 7 to 16 ms, changed every 100 ms (README).
        assert found.defects["repeated watts"] / found.samples > 0.8
    meter = read_power(recordings / "gpu-power-sensor" / "Transient_Response__A100_TR__PMD_reference_2ms.csv.gz")
    assert meter.quality.samples == 7009
    assert meter.quality.sources[0].period_s == pytest.approx(0.002, abs=1e-6)


def test_answers_and_scrapes_of_prometheus(recordings: Path) -> None:
    folder = recordings / "dcgm-exporter-prometheus"
    trace = read_power(folder / "h100-16gpu-vllm" / "query_power_usage.json")
    watts = sorted(trace.series(name)[1][0] for name in trace.sources)
    assert len(watts) == 16
    assert watts[-1] == pytest.approx(113.6, abs=0.05)
    assert watts[0] == pytest.approx(65.7, abs=0.05)
    assert watts[-2] == pytest.approx(69.5, abs=0.05)
    one = read_power(folder / "h100-16gpu-vllm" / "scrape.prom")
    assert len(one.sources) == 8
    assert set(one.sources) <= set(trace.sources), "a GPU has the same name in both"
    small = read_power(folder / "l4-kops" / "scrape.prom")
    assert small.series(small.sources[0])[1][0] == pytest.approx(16.4, abs=0.05)
    for other in ("query_gpu_temp.json", "query_gpu_util.json", "query_fb_used.json"):
        assert read_power(folder / "h100-16gpu-vllm" / other).sources == ()


def test_a_gpu_without_power_telemetry_has_no_watts(recordings: Path) -> None:
    trace = read_power(recordings / "dcgm-exporter-prometheus" / "vgpu-a100-40c-no-power" / "scrape.prom")
    assert trace.sources == ()
    assert len(trace.quality.without_watts) == 1
    assert trace.quality.overall is None


CAPTURED = {
    "captures/linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt": [69.62, 588.39],
    "captures/linux-x86_64__nvidia-l40s__595.80.txt": [119.88, 110.01],
    "captures/linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05.txt": [27.74, 86.41],
    "exporter-metrics/linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01__load.prom": [625.68],
    "xml/a100-sxm4-v12.xml": [67.03],
    "xml/tesla-t4.xml": [26.78],
    "xml/rtx-3090-v12.xml": [27.23],
    "dcgm-exporter/scrape_tesla_t4_excerpt.prom": [8.969],
}


@pytest.mark.parametrize("name", CAPTURED)
def test_captures_hold_their_watts(name: str, recordings: Path) -> None:
    trace = read_power(recordings / "nvidia-smi-captures" / name)
    assert trace.series(trace.sources[0])[1].tolist() == CAPTURED[name]


SPOILT = [
    "mlperf-inference-v4.1-h200/raw/H200-SXM-141GBx8_TRT_MaxQ/gptj-99/Server/run_1/spl.txt.gz",
    f"{TRAINING}/raw/1xSMC-H100-SXM-80GB/llama2_70b_lora/result_4951-240509201759121728742_1/ac_node_0.txt.gz",
    f"{TRAINING}/normalised/8xSMC-H100-SXM-80GB__llama2_70b_lora__result_5740-240517044141819407406_10.csv.gz",
    "dcgmi-dmon-logs/h100_lstm_0.dmon.txt.gz",
    "dcgmi-dmon-logs/v100_lstm_1.dmon.txt.gz",
    "dcgmi-dmon-logs/a100pcie_lstm_0.nvidia-smi.csv.gz",
    "gpu-power-sensor/Transient_Response__3090_TR__gpudata.csv.gz",
    "dcgm-exporter-prometheus/h100-16gpu-vllm/query_power_usage.json",
    "dcgm-exporter-prometheus/l4-kops/scrape.prom",
    *CAPTURED,
]


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_recordings_read_or_complain(name: str, recordings: Path, tmp_path: Path) -> None:
    source = recordings / ("nvidia-smi-captures" if name in CAPTURED else "") / name
    content = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    rng = np.random.default_rng(7)
    path = tmp_path / "spoilt"
    for cut, kind in itertools.product(range(6), ("truncated", "flipped", "torn")):
        at = int(rng.integers(len(content)))
        letter = rng.integers(256, dtype=np.uint8).tobytes()
        spoilt = {
            "truncated": content[:at],
            "flipped": content[:at] + letter + content[at + 1 :],
            "torn": content[:at] + content[at + int(rng.integers(1, 500)) :],
        }[kind]
        path.write_bytes(spoilt)
        said = path.name
        try:
            read_power(path, period_s=1.0).close()
        except DataError as error:
            said = str(error)
        assert said.isprintable(), (cut, at)
        assert path.name in said
