import csv
import gzip
import re
import runpy
import shutil
from pathlib import Path
from statistics import median

import pytest

from policies.errors import ConfigError, DataError
from policies.models.latency import decode_s, prefill_s
from sim_backend.calibration.affine import PREFILL_TOKENS_MAX, Calibration, calibrate, fit_profile
from sim_backend.calibration.fit_report import calibrate_shipped, main, report_text
from sim_backend.calibration.splitwise import Row, medians, read_rows
from sim_backend.profile import SHIPPED, load_profile, shipped_names

pytestmark = pytest.mark.data
ROOT = Path(__file__).parent.parent.parent

# name, section: median and worst relative error that docs/fit.md and the profiles state.
STATED = {
    ("dgx-a100__bloom-176b", "prefill_time"): (0.025, 0.085),
    ("dgx-a100__bloom-176b", "decode_time"): (0.011, 0.064),
    ("dgx-a100__bloom-176b", "prefill_power"): (0.006, 0.065),
    ("dgx-a100__bloom-176b", "decode_power"): (0.001, 0.002),
    ("dgx-a100__llama2-70b", "prefill_time"): (0.070, 0.154),
    ("dgx-a100__llama2-70b", "decode_time"): (0.013, 0.063),
    ("dgx-a100__llama2-70b", "prefill_power"): (0.049, 0.100),
    ("dgx-a100__llama2-70b", "decode_power"): (0.005, 0.011),
    ("dgx-h100__bloom-176b", "prefill_time"): (0.065, 0.172),
    ("dgx-h100__bloom-176b", "decode_time"): (0.016, 0.051),
    ("dgx-h100__llama2-70b", "prefill_time"): (0.064, 0.208),
    ("dgx-h100__llama2-70b", "decode_time"): (0.017, 0.069),
}


@pytest.fixture(scope="module")
def splitwise(recordings: Path) -> Path:
    return recordings / "splitwise-perf-model" / "perf_model.csv.gz"


@pytest.fixture(scope="module")
def fitted(splitwise: Path) -> dict[str, Calibration]:
    pairs = (name.split("__") for name in shipped_names())
    return {f"{hardware}__{model}": fit_profile(splitwise, model, hardware) for hardware, model in pairs}


@pytest.fixture
def plain(splitwise: Path, tmp_path: Path) -> Path:
    path = tmp_path / "perf_model.csv"
    path.write_bytes(gzip.decompress(splitwise.read_bytes()))
    return path


def test_calibrating_again_gives_the_shipped_files_to_the_byte(splitwise: Path, tmp_path: Path) -> None:
    calibrate_shipped(splitwise, tmp_path, tmp_path / "fit.md")
    assert sorted(p.name for p in tmp_path.glob("*.toml")) == sorted(p.name for p in SHIPPED.glob("*.toml"))
    for path in SHIPPED.glob("*.toml"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "fit.md").read_bytes() == (ROOT / "docs/fit.md").read_bytes()


def test_the_command_line_writes_the_same(splitwise: Path, tmp_path: Path) -> None:
    report = tmp_path / "fit.md"
    assert main([str(splitwise.parent), "--profiles", str(tmp_path), "--report", str(report)]) == 0
    assert report.read_bytes() == (ROOT / "docs/fit.md").read_bytes()


def test_plain_and_gzipped_files_and_folders_are_alike(splitwise: Path, plain: Path) -> None:
    sources = (splitwise, splitwise.parent, plain, plain.parent)
    assert len({repr(fit_profile(path, "bloom-176b", "dgx-a100")) for path in sources}) == 1


def test_fit_errors_are_those_stated(fitted: dict[str, Calibration]) -> None:
    reached = {
        (name, section): (fit.median_error, fit.worst_error)
        for name, calibration in fitted.items()
        for section, fit in calibration.fits.items()
    }
    assert reached == STATED


def test_every_fit_has_a_median_error_below_ten_per_cent(fitted: dict[str, Calibration]) -> None:
    assert all(fit.median_error < 0.10 for calibration in fitted.values() for fit in calibration.fits.values())


def test_the_report_names_every_error(fitted: dict[str, Calibration]) -> None:
    text = report_text(tuple(fitted.values()))
    for (name, section), (middle, worst) in STATED.items():
        row = f"| `{name}` | {section.replace('_', ' ')} |"
        assert re.search(re.escape(row) + rf" \d+ \| {100 * middle:.1f} % \| {100 * worst:.1f} % \|", text)


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_profile_meets_the_measured_times(splitwise: Path, name: str) -> None:
    """Straight from the file, one row at a time, repeats and all: an oracle that shares no code with the fit."""
    profile = load_profile(name)
    hardware, model = name.split("__")
    prefill_errors, decode_errors = [], []
    with gzip.open(splitwise, "rt") as stream:
        for row in csv.DictReader(stream):
            gpu = {"dgx-a100": "a100-80gb", "dgx-h100": "h100-80gb"}[hardware]
            if (row["model"], row["hardware"], row["tensor_parallel"]) != (model, gpu, "8"):
                continue
            prompt, batch, output = (int(row[c]) for c in ("prompt_size", "batch_size", "token_size"))
            tokens = float(prompt * batch)
            if tokens <= PREFILL_TOKENS_MAX:
                p = profile.prefill_base_s, profile.prefill_per_token_s, profile.prefill_per_token2_s
                prefill_errors.append(abs(prefill_s(tokens, *p) / (float(row["prompt_time"]) / 1e3) - 1.0))
            if output <= 1024:
                d = profile.decode_base_s, profile.decode_per_request_s, profile.decode_per_context_s
                context = batch * (prompt + output / 2)
                decode_errors.append(abs(decode_s(float(batch), context, *d) / (float(row["token_time"]) / 1e3) - 1.0))
    # 45 of the 95 rows repeat 512 tokens, so this median weighs them more than the one of the fit.
    assert median(prefill_errors) < 0.12
    # Single repeats scatter more than their medians.
    assert max(prefill_errors) < 0.30
    assert median(decode_errors) < 0.03
    assert max(decode_errors) < 0.15


def test_decode_slows_down_with_the_batch_as_measured(splitwise: Path) -> None:
    """A batch of 64 takes about twice as long as one request; a key on requests alone would miss half of it."""
    p = load_profile("dgx-a100__bloom-176b")
    rows = {(r.prompt, r.batch): r for r in medians(read_rows(splitwise, "bloom-176b", "a100-80gb"), _setting)}
    large, single = (
        decode_s(float(r.batch), r.context_tokens, p.decode_base_s, p.decode_per_request_s, p.decode_per_context_s)
        for r in (rows[512, 64], rows[512, 1])
    )
    measured = rows[512, 64].decode_s / rows[512, 1].decode_s
    assert large / single == pytest.approx(measured, rel=0.08)
    assert measured > 1.8


def _setting(row: Row) -> tuple[int, ...]:
    return (row.prompt, row.batch)


def test_synthetic_power_cap_rows_are_refused(splitwise: Path) -> None:
    with pytest.raises(ConfigError, match="not measurements"):
        read_rows(splitwise, "bloom-176b", "h100-80gb-pcap")


def test_the_power_cap_rows_are_really_a_constant_factor(splitwise: Path) -> None:
    """The claim behind the refusal."""
    with gzip.open(splitwise, "rt") as stream:
        rows = list(csv.DictReader(stream))
    capped = [row for row in rows if row["hardware"] == "h100-80gb-pcap"]
    real = [row for row in rows if row["hardware"] == "h100-80gb"]
    assert len(capped) == len(real) > 0
    for one, other in zip(capped, real, strict=True):
        assert float(one["prompt_time"]) == pytest.approx(1.3 * float(other["prompt_time"]), rel=1e-9)
        assert float(one["token_time"]) == float(other["token_time"])


@pytest.mark.parametrize(("model", "hardware"), [("gpt-3", "dgx-a100"), ("bloom-176b", "dgx-b200")])
def test_unknown_names_are_config_errors_and_leave_no_file(
    splitwise: Path, tmp_path: Path, model: str, hardware: str
) -> None:
    with pytest.raises(ConfigError, match="is not known; use one of"):
        calibrate(splitwise, model, hardware, tmp_path / "out.toml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("prompt_time", "prompt_ms", "line 1: column 'prompt_time' is missing"),
        ("bloom-176b,a100-80gb,128,", "bloom-176b,a100-80gb,-128,", "prompt_size = -128 is below 1"),
        ("bloom-176b,a100-80gb,128,", "bloom-176b,a100-80gb,nan,", "prompt_size = nan is below 1 or not finite"),
        ("bloom-176b,a100-80gb,128,", "bloom-176b,a100-80gb,many,", "prompt_size = 'many' is not a number"),
        ("bloom-176b,a100-80gb,128,", "bloom-176b,a100-80gb,128,9,", "12 fields instead of 11"),
        ("bloom-176b,a100-80gb,", "bloom-176b,b200,", "no row of bloom-176b on a100-80gb"),
    ],
)
def test_a_damaged_file_is_one_clear_line_and_leaves_no_profile(plain: Path, old: str, new: str, told: str) -> None:
    content = plain.read_text()
    assert old in content
    # Every occurrence: damage in rows of other settings would not be read.
    plain.write_text(content.replace(old, new))
    out = plain.parent / "out.toml"
    with pytest.raises(DataError) as caught:
        calibrate(plain, "bloom-176b", "dgx-a100", out)
    assert told in str(caught.value)
    assert str(plain) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_gzip_is_a_data_error(splitwise: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "perf_model.csv.gz"
    path.write_bytes(splitwise.read_bytes()[:keep])
    with pytest.raises(DataError, match=re.escape(str(path))):
        fit_profile(path, "bloom-176b", "dgx-a100")


def test_too_few_points_are_a_data_error(plain: Path) -> None:
    header, *lines = plain.read_text().splitlines()
    kept = [line for line in lines if line.startswith("bloom-176b,a100-80gb,512,1,128,")]
    plain.write_text("\n".join([header, *kept]) + "\n")
    with pytest.raises(DataError, match="only 1 usable points for prefill time"):
        fit_profile(plain, "bloom-176b", "dgx-a100")


def test_a_missing_file_or_an_empty_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        fit_profile(tmp_path / "absent.csv", "bloom-176b", "dgx-a100")
    with pytest.raises(DataError, match=r"holds neither perf_model\.csv\.gz nor"):
        fit_profile(tmp_path, "bloom-176b", "dgx-a100")


def test_the_report_command_ends_with_the_status_of_its_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path), "--profiles", str(tmp_path), "--report", str(tmp_path / "fit.md")]) == 65
    assert "docs/data.md" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_overshoot_covers_most_samples_of_two_clusters(recordings: Path) -> None:
    """The figures in the profile's source."""
    for cluster, below in (("kalos", 96.9), ("seren", 97.7)):
        with (recordings / "acme-a100-power-cdf" / f"gpu_power_{cluster}.csv").open() as stream:
            rows = [(float(row["cdf_pct"]), float(row["power_w"])) for row in csv.DictReader(stream)]
        assert max(pct for pct, drawn_w in rows if drawn_w <= 1.05 * 400.0) == pytest.approx(below, abs=0.05)
        assert max(pct for pct, drawn_w in rows if drawn_w <= 1.10 * 400.0) == pytest.approx(99.0, abs=0.15)


def test_other_watts_of_a_dgx_a100_are_what_the_wall_meter_leaves(recordings: Path) -> None:
    """The figures in the profile's source: wall power under load less 8 GPUs at their limit of 275 W."""
    folder = recordings / "mlperf-inference-a100-h100pcie-bert" / "normalised"
    for scenario, left_w in (("Offline", 1150.0), ("Server", 1181.0)):
        path = folder / f"DGX-A100_A100-SXM-80GBx8_TRT_MaxQ__bert-99__{scenario}__run_1.csv.gz"
        with gzip.open(path, "rt") as stream:
            rows = [row for row in csv.DictReader(stream) if row["phase"] == "load" and row["node_power_w"]]
        other_w = median(float(row["node_power_w"]) for row in rows) - 8 * 275.0
        assert other_w == pytest.approx(left_w, abs=1.0)
        assert other_w <= load_profile("dgx-a100__bloom-176b").other_w


def test_limits_and_clocks_are_what_nvidia_smi_shows(recordings: Path) -> None:
    """The figures in the profiles' sources, for both GPUs."""
    folder = recordings / "nvidia-smi-captures"
    a100, h100 = load_profile("dgx-a100__bloom-176b"), load_profile("dgx-h100__bloom-176b")
    xml = (folder / "xml/a100-sxm4-v12.xml").read_text()
    assert "<product_name>NVIDIA A100-SXM4-80GB</product_name>" in xml
    assert f"<min_power_limit>{a100.min_limit_w:.2f} W</min_power_limit>" in xml
    assert f"<sm_clock>{a100.max_mhz:.0f} MHz</sm_clock>" in xml[xml.index("<max_clocks>") :]
    text = (folder / "captures/linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt").read_text()
    assert re.search(rf"Max Power Limit +: {h100.tdp_w:.2f} W", text)
    assert re.search(rf"Min Power Limit +: {h100.min_limit_w:.2f} W", text)
    assert re.search(rf"Max Clocks\n +Graphics.*\n +SM +: {h100.max_mhz:.0f} MHz", text)


def test_the_documented_steps_rebuild_work_w_exactly(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "azure-llm-2023-conv/AzureLLMInferenceTrace_conv.csv.gz"
    (tmp_path / source).parent.mkdir()
    shutil.copyfile(recordings / source, tmp_path / source)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    script = tmp_path / "work_w.py"
    script.write_text(blocks[0])
    monkeypatch.setenv("OVERWATT_DATA", str(tmp_path))
    runpy.run_path(str(script))
    built, given = (
        _requests(folder / "peer-simulator-runs/traces/azure_conv_x12.csv.gz") for folder in (tmp_path, recordings)
    )
    assert len(built) == 19_366
    assert built == given


def _requests(path: Path) -> list[tuple[float, int, int]]:
    with gzip.open(path, "rt") as stream:
        return [
            (float(row["arrival_timestamp"]), int(row["prompt_size"]), int(row["token_size"]))
            for row in csv.DictReader(stream)
        ]
