"""`overwatt import` as a user meets it: what is understood, what is written, and one line where a file is damaged."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from daemon import cli
from telemetry.power_trace import read_power
from tests.power_samples import SAMPLES, WATTS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.csv.gz"
    path.write_bytes(gzip.compress(SAMPLES["nodes"][0]()))
    return path


def run(*arguments: object) -> int:
    return cli.run(["import", *map(str, arguments)])


def test_the_summary_says_what_was_understood(recording: Path, capsys) -> None:
    assert run(recording) == 0
    out = capsys.readouterr().out
    assert "nodes.csv.gz: power-csv" in out
    assert "UTC, from 2024-05-09 12:22:02" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("ac/0"))
    assert row == ["ac/0", "4", "2.000", "364.9", "608.8", "612.8", "0", "2.000", "-"]
    assert "sum of 2 sources every 2.000 s: mean 740 W, p99 1,228 W, peak 1,236 W" in out


def test_the_summary_as_json_has_every_figure(recording: Path, capsys) -> None:
    assert run(recording, "--json", "-", "--source", "ac/1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "power"
    assert found["clock"] == "unix"
    assert [each["source"] for each in found["sources"]] == ["ac/1"]
    assert found["overall"]["mean_w"] == np.mean(WATTS) + 10
    assert found["sources"][0]["period_s"] == pytest.approx(2.0)
    assert found["sum"] is None


def test_conversion_keeps_times_and_watts(recording: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.parquet"
    assert run(recording, "-o", out) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    before, after = read_power(recording), read_power(out)
    assert after.quality.start_unix_s == before.quality.start_unix_s == 1715257322.0
    for source in before.sources:
        assert np.array_equal(before.series(source), after.series(source))
    first = out.read_bytes()
    assert run(recording, "-o", out) == 0
    assert out.read_bytes() == first, "the same input gives the same bytes"


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_converted(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(SAMPLES[name][0]())
    assert run(tmp_path / "in", "-o", tmp_path / "out.parquet") == 0
    trace = read_power(tmp_path / "out.parquet")
    assert trace.series(trace.sources[0])[1].tolist() == pytest.approx(list(WATTS))


def test_a_damaged_file_gives_one_line_and_no_output(recording: Path, tmp_path: Path, capsys) -> None:
    rows = gzip.decompress(recording.read_bytes()).replace(b"612.75", b"61?.75", 1)
    recording.write_bytes(gzip.compress(rows))
    out, report = tmp_path / "out.parquet", tmp_path / "out.json"
    out.write_text("old")
    assert run(recording, "-o", out, "--json", report) == 65
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nodes.csv.gz, line 4: " in error
    assert out.read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nodes.csv.gz", "out.parquet"]


def test_no_watts_are_said_and_not_written(tmp_path: Path, capsys) -> None:
    path = tmp_path / "scrape.prom"
    path.write_text('DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1",Hostname="h"} 30\n')
    assert run(path) == 0
    out = capsys.readouterr().out
    assert "no watts" in out
    assert "without watts: GPU-1" in out
    assert run(path, "-o", tmp_path / "out.parquet") == 65
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (["--source", "rack*"], 64, "no such source with watts; there are ac/0, ac/1"),
        (["--period-s", "0"], 64, "--period-s 0.0: give seconds"),
        (["-o", "-"], 64, "Parquet needs a file"),
        (["--format", "spl"], 65, "no such format"),
        (["--format", "mlperf-analyser"], 65, "is no reading of a power analyser"),
        (["-o", "/nowhere/out.parquet"], 64, "there is no directory"),
    ],
)
def test_wrong_calls_are_told(more, status: int, words: str, recording: Path, capsys) -> None:
    assert run(recording, *more) == status
    assert words in capsys.readouterr().err
    assert run(recording, "-o", recording) == 64


def test_requests_are_imported_too(tmp_path: Path, capsys) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n")
    assert run(path, "-o", tmp_path / "out.parquet", "--summary") == 0
    assert "requests.csv: requests-csv\n1 requests from 0.000 s to 0.000 s" in capsys.readouterr().out
    assert run(tmp_path / "out.parquet") == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Two million rows over and over again in time, so that they must be sorted as well."""
    path = tmp_path / "long.csv.gz"
    block = b"".join(
        b"ac,%d,%d,%d\n" % (k % 64, 1715257324220 + k // 64 * 2000, 2300 + k * 79 % 4000) for k in range(500_000)
    )
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"sensor,node,time_ms,power_w\n")
        for _ in range(4):
            stream.write(block)
    # The peak of this process alone: that of a finished child would include what it was forked from.
    code = "import sys; from daemon import cli; cli.run(sys.argv[1:]); print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", code, "import", str(path), "-o", str(tmp_path / "out.parquet"), "--summary"]
    done = subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert "2,000,000" in done.stdout
    peak_kb = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM"))
    assert int(peak_kb) / 1024 < 200.0
