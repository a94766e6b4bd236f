"""Published request recordings: read with the statistics they state, and drawn from with their rates."""

import csv
import gzip
import json
import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from policies.errors import DataError
from telemetry.request_reading import Reading
from telemetry.request_spool import Requests
from telemetry.request_text import open_source
from telemetry.request_trace import RequestTrace, read_request_trace
from telemetry.servegen import LENGTHS_S, WINDOW_S, Client, ServeGen
from telemetry.servegen_draw import drawn
from telemetry.servegen_files import read_archive
from telemetry.trace import detect

pytestmark = pytest.mark.data

CATEGORIES = ("language__m-small", "reason__deepseek-r1")


@pytest.fixture(scope="module")
def servegen(recordings: Path) -> Path:
    return recordings / "servegen-m-small-and-r1"


@pytest.fixture(scope="module")
def loads(servegen: Path) -> dict[str, ServeGen]:
    found = {}
    for name in CATEGORIES:
        with open_source(servegen / f"{name}__raw.tar.xz", name) as source:
            found[name] = read_archive(source)
    return found


def whole(trace: RequestTrace) -> Requests:
    return trace.read(0, trace.rows)


def test_each_recording_is_known_for_what_it_is(recordings: Path, servegen: Path) -> None:
    known = {
        recordings / "azure-llm-2023-conv/AzureLLMInferenceTrace_conv.csv.gz": "requests-csv",
        recordings / "peer-simulator-runs/traces/azure_conv_x12.csv.gz": "requests-csv",
        recordings / "mooncake-synthetic/synthetic_trace.jsonl.gz": "mooncake",
        servegen / "language__m-small__raw.tar.xz": "servegen",
        servegen / "language__m-small__aggregate_10min.csv.gz": "servegen-aggregate",
    }
    assert {path: detect(path).name for path in known} == known


def test_mooncake_has_its_published_statistics(recordings: Path) -> None:
    trace = read_request_trace(recordings / "mooncake-synthetic/synthetic_trace.jsonl.gz")
    rows = whole(trace)
    assert trace.rows == 3_993
    assert trace.last_s / 60 == pytest.approx(17, abs=0.1)
    assert trace.rows / trace.last_s == pytest.approx(3.9, abs=0.01)
    assert rows["prompt_tokens"].mean() == pytest.approx(15_325, abs=1)
    assert np.median(rows["prompt_tokens"]) == 11_587
    assert np.quantile(rows["prompt_tokens"], 0.99) == pytest.approx(66_456, abs=1)
    assert rows["output_tokens"].mean() == pytest.approx(149, abs=0.5)
    assert np.median(rows["output_tokens"]) == 69
    gaps_s = np.diff(rows["arrival_s"])
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, abs=0.03)  # "Poisson arrivals"


def test_mooncake_prefixes_hit_what_a_plain_count_says(recordings: Path) -> None:
    path = recordings / "mooncake-synthetic/synthetic_trace.jsonl.gz"
    seen: set[int] = set()
    expected = []
    with gzip.open(path, "rt") as stream:
        for row in map(json.loads, stream):
            fresh = [block not in seen for block in row["hash_ids"][: (row["input_length"] - 1) // 512]]
            expected.append(512 * (fresh.index(True) if True in fresh else len(fresh)))
            seen.update(row["hash_ids"][: row["input_length"] // 512])
    trace = read_request_trace(path)
    extras = trace.read_extras(0, trace.rows)
    assert extras is not None
    assert extras["cached_tokens"].tolist() == expected
    assert sum(expected) / whole(trace)["prompt_tokens"].sum() == pytest.approx(0.650, abs=0.001)
    small = read_request_trace(path, Reading(cache_blocks=2_000)).read_extras(0, trace.rows)
    assert small is not None
    assert (small["cached_tokens"] <= extras["cached_tokens"]).all()
    assert 0.1 < small["cached_tokens"].sum() / extras["cached_tokens"].sum() < 0.9


@pytest.mark.parametrize("factor", [1, 12])
def test_the_peers_traces_are_the_published_hour_compressed(recordings: Path, factor: int) -> None:
    azure = whole(read_request_trace(recordings / "azure-llm-2023-conv/AzureLLMInferenceTrace_conv.csv.gz"))
    trace = read_request_trace(recordings / f"peer-simulator-runs/traces/azure_conv_x{factor}.csv.gz")
    rows = whole(trace)
    assert trace.rows == 19_366
    assert trace.first_s == 1.0
    assert rows["arrival_s"] == pytest.approx(azure["arrival_s"] / factor + 1.0, abs=1e-6)
    assert (rows["prompt_tokens"] == azure["prompt_tokens"]).all()
    assert (rows["output_tokens"] == azure["output_tokens"]).all()


def aggregate(servegen: Path, name: str) -> tuple[list[float], list[float], list[int]]:
    with gzip.open(servegen / f"{name}__aggregate_10min.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    return (
        [float(row["t_s"]) for row in rows],
        [float(row["requests_per_s"]) for row in rows],
        [int(row["active_clients"]) for row in rows],
    )


@pytest.mark.parametrize("name", CATEGORIES)
def test_the_published_sums_come_out_of_the_clients_files(
    servegen: Path, loads: dict[str, ServeGen], name: str
) -> None:
    start_s, rate_rps, active = loads[name].rates()
    expected = aggregate(servegen, name)
    assert start_s.tolist() == expected[0]
    assert rate_rps == pytest.approx(expected[1], abs=6e-5)  # published with four decimals
    assert active.tolist() == expected[2]


def test_production_rates_are_those_described(loads: dict[str, ServeGen]) -> None:
    _, rate_rps, _ = loads["language__m-small"].rates()
    assert len(loads["language__m-small"].clients) == 43
    assert len(rate_rps) == 2016
    assert rate_rps.mean() == pytest.approx(1174, abs=0.5)
    assert np.median(rate_rps) == pytest.approx(1159, abs=0.5)
    assert np.quantile(rate_rps, 0.99) == pytest.approx(2367, abs=0.5)
    assert rate_rps.max() == pytest.approx(3880, abs=0.5)
    assert np.diff(rate_rps).max() == pytest.approx(2063, abs=0.5)
    assert (rate_rps == 0.0).sum() == 37
    _, rate_rps, _ = loads["reason__deepseek-r1"].rates()
    assert len(loads["reason__deepseek-r1"].clients) == 73
    assert rate_rps.mean() == pytest.approx(16.0, abs=0.05)
    assert rate_rps.max() == pytest.approx(42.5, abs=0.05)


def counted(requests: Requests, windows: int) -> np.ndarray:
    return np.bincount((requests["arrival_s"] // WINDOW_S).astype(int), minlength=windows)


def test_a_drawn_day_has_the_stated_rates(loads: dict[str, ServeGen]) -> None:
    """In each window the sum over clients lies within its sampling error, which burstiness widens: CV^2 x requests."""
    load = loads["reason__deepseek-r1"]
    _, rate_rps, _ = load.rates()
    expected, variance = rate_rps * WINDOW_S, np.zeros(len(rate_rps))
    for client in load.clients:
        variance[client.start_s // WINDOW_S] += client.cv**2 * client.rate_rps * WINDOW_S
    rows = counted(np.concatenate(list(drawn(load, Reading(seed=1)))), len(rate_rps))
    scores = (rows - expected) / variance**0.5
    assert abs(scores.mean()) < 4 / len(scores) ** 0.5
    assert 0.6 < scores.std() < 1.2  # a burst longer than its window varies less than the formula says
    assert abs(rows.sum() - expected.sum()) < 3 * variance.sum() ** 0.5
    assert 3 * variance.sum() ** 0.5 < 0.03 * expected.sum()


def test_drawn_gaps_have_the_stated_burstiness(loads: dict[str, ServeGen]) -> None:
    """Windows with over 1,500 requests, where a sample shows its CV: within 8% for nine of ten, and 2% on average."""
    load = loads["reason__deepseek-r1"]
    lengths = next(client.lengths for client in load.clients if client.lengths)
    errors = []
    for client in load.clients:
        for at in np.flatnonzero((client.rate_rps * WINDOW_S > 1500) & (client.cv < 2.0))[::7]:
            one = slice(at, at + 1)
            alone = Client(
                client.number, client.start_s[one], client.rate_rps[one], client.cv[one], client.weibull[one], lengths
            )
            rows = np.concatenate(list(drawn(ServeGen((alone,), load.end_s), Reading())))
            gaps_s = np.diff(rows["arrival_s"])
            errors.append(gaps_s.std() / gaps_s.mean() / client.cv[at] - 1.0)
    assert len(errors) > 20
    assert abs(np.mean(errors)) < 0.02
    assert np.quantile(np.abs(errors), 0.9) < 0.08


@pytest.mark.parametrize("name", CATEGORIES)
def test_drawn_lengths_have_the_quantiles_of_their_distribution(loads: dict[str, ServeGen], name: str) -> None:
    """The share of drawn counts up to a stated quantile is that share: four standard deviations of 20,000 draws."""
    rng = np.random.default_rng(5)
    checked = 0
    for client in loads[name].clients:
        for lengths in client.lengths.values():
            for counts in (lengths.prompt, lengths.output):
                sample = counts.draw(rng, 20_000)
                cumulative = counts.cumulative / counts.cumulative[-1]
                for at in np.searchsorted(cumulative, [0.5, 0.9, 0.99]):
                    share = (sample <= counts.counts[min(at, len(cumulative) - 1)]).mean()
                    stated = cumulative[min(at, len(cumulative) - 1)]
                    assert abs(share - stated) < 5 * (stated * (1 - stated) / 20_000) ** 0.5 + 1e-9
                    checked += 1
    assert checked > 100


@pytest.mark.parametrize("name", CATEGORIES)
def test_requests_of_the_sums_have_the_published_quantiles(servegen: Path, name: str) -> None:
    """Per window of six hours: p50, p90 and p99 within 8%, the mean within 15%, which a few huge prompts move."""
    trace = read_request_trace(
        servegen / f"{name}__aggregate_10min.csv.gz",
        Reading(stop_s=86_400.0, factor=0.01 if "m-small" in name else 1.0),
    )
    rows = whole(trace)
    if "r1" in name:
        assert rows["output_tokens"].mean() == pytest.approx(1600, rel=0.02)  # "about 1600 tokens"
    with (servegen / f"{name}__tokens_6h.csv").open() as stream:
        stated = {int(row["window_start_s"]): row for row in csv.DictReader(stream)}
    for start_s in range(0, 86_400, LENGTHS_S):
        inside = rows[(rows["arrival_s"] >= start_s) & (rows["arrival_s"] < start_s + LENGTHS_S)]
        for column, kind in (("prompt_tokens", "in"), ("output_tokens", "out")):
            row = stated[start_s]
            found = np.quantile(inside[column], [0.5, 0.9, 0.99])
            expected = [float(row[f"{kind}_{each}"]) for each in ("p50", "p90", "p99")]
            assert found == pytest.approx(expected, rel=0.08, abs=1.0)
            assert inside[column].mean() == pytest.approx(float(row[f"{kind}_mean"]), rel=0.15)


def test_fourteen_days_are_drawn_in_order_with_their_gap(servegen: Path) -> None:
    trace = read_request_trace(servegen / "language__m-small__raw.tar.xz", Reading(factor=0.0005))
    _, rate_rps, _ = aggregate(servegen, "language__m-small")
    rows = np.zeros(len(rate_rps), dtype=int)
    last_s = 0.0
    for block in trace.blocks():
        assert block.arrival_s[0] >= last_s
        assert (np.diff(block.arrival_s) >= 0.0).all()
        last_s = float(block.arrival_s[-1])
        rows += np.bincount((block.arrival_s // WINDOW_S).astype(int), minlength=len(rows))
    assert trace.rows / (0.0005 * sum(rate_rps) * WINDOW_S) == pytest.approx(1.0, abs=0.1)
    silent = np.array(rate_rps) == 0.0
    assert silent.sum() == 37
    assert rows[silent].sum() == 0


def test_a_load_that_is_too_large_says_which_share_can_be_read(servegen: Path) -> None:
    with pytest.raises(DataError, match=r"stands for 1,420,5\d\d,\d{3} requests, .*factor at most 0.035"):
        read_request_trace(servegen / "language__m-small__raw.tar.xz")


PROGRAM = """
import re, sys
from pathlib import Path
from telemetry.request_reading import Reading
from telemetry.request_trace import read_request_trace
trace = read_request_trace(sys.argv[1], Reading(factor=float(sys.argv[2])))
# getrusage would also count what the parent had when it forked.
peak_kb = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(trace.rows, int(peak_kb) // 1024)
"""


@pytest.mark.parametrize(
    ("file", "factor"),
    [
        ("mooncake-synthetic/synthetic_trace.jsonl.gz", "1"),
        ("servegen-m-small-and-r1/language__m-small__raw.tar.xz", "0.001"),
        ("servegen-m-small-and-r1/reason__deepseek-r1__raw.tar.xz", "3"),
    ],
)
def test_reading_stays_below_200_mb(recordings: Path, file: str, factor: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(recordings / file), factor], capture_output=True, text=True, check=True
    )
    rows, peak_mb = map(int, ran.stdout.split())
    assert rows > 3_000
    assert peak_mb < 200


def test_damaged_copies_of_the_recordings_are_refused_in_one_line(recordings: Path, tmp_path: Path) -> None:
    """Cut, garbled and zeroed at many places; most are refused, the others give requests."""
    rng = np.random.default_rng(11)
    sources = [
        (recordings / "mooncake-synthetic/synthetic_trace.jsonl.gz", gzip.decompress, 40),
        (recordings / "servegen-m-small-and-r1/reason__deepseek-r1__raw.tar.xz", lzma.decompress, 12),
    ]
    refused = 0
    for path, unpack, rounds in sources:
        packed = path.read_bytes()
        plain = unpack(path.read_bytes())[:3_000_000]
        for content in (packed, plain):
            for _ in range(rounds):
                damaged = bytearray(content)
                at = int(rng.integers(len(damaged)))
                kind = rng.integers(3)
                if kind == 0:
                    del damaged[at:]
                else:
                    length = int(rng.integers(1, 40))
                    damaged[at : at + length] = bytes(length) if kind == 1 else rng.bytes(length)
                copy = tmp_path / "copy"
                copy.write_bytes(damaged)
                refused += _refused(copy)
    assert refused > 80


def _refused(path: Path) -> bool:
    try:
        read_request_trace(path, Reading(stop_s=1200.0)).close()
    except DataError as error:
        text = str(error)
        assert text.isprintable()
        assert "; " in text
        return True
    return False


def test_archives_hold_what_was_counted(servegen: Path) -> None:
    """Guards the numbers above against another version of the files."""
    with tarfile.open(servegen / "language__m-small__raw.tar.xz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("-trace.csv") for name in names) == 43
    assert sum(name.endswith("-dataset.json") for name in names) == 6
