"""Replay of recorded power through the command: which sites take it, and what caps make of it."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_cli_errors import overwatt

SITE = """\
[site]
name = "training"

[domains.row]
level = "row"
budget_w = {budget_w}

[[servers]]
domain = "row"
profile = "dgx-h100__llama2-70b"
count = 3
priority = "low"
failsafe_w = 5300.0
role = "{role}"
other_w = 1500.0

[workload.recorded]
of = "{of}"

[actuation]
path = "in-band"
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two servers that swing together between 2 and 6.5 kW, one reading each 2 s for 5 minutes."""
    path = tmp_path / "row.csv"
    rows = [f"dc,{node},{2000 * k},{6500 if k % 40 < 30 else 2000}" for k in range(150) for node in (1, 2)]
    path.write_text("sensor,node,time_ms,power_w\n" + "\n".join(rows) + "\n")
    return path


def replay(
    tmp_path: Path,
    recording: Path | str,
    *more: object,
    budget_w: float = 30_000.0,
    role: str = "recorded",
    of: str = "server",
) -> subprocess.CompletedProcess[str]:
    site = tmp_path / "site.toml"
    site.write_text(SITE.format(budget_w=budget_w, role=role, of=of))
    outputs = "--json", tmp_path / "out.json"
    return overwatt("replay", "--power", recording, "--site", site, "--policy", "no-cap", *outputs, *more)


def test_uncapped_the_row_draws_what_was_recorded(tmp_path: Path, recording: Path) -> None:
    done = replay(tmp_path, recording)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    # The third server does the same work, shifted, so that the peak may fall anywhere between two and three at once.
    assert found["header"]["budget_derivation"]["uncapped_peak_w"] == pytest.approx(3 * 6500.0)
    (run,) = found["runs"]
    assert run["recorded_work"]["servers"] == 3
    # Caps begin at failsafe and are raised a few per cent of the budget a second: the first seconds are lost.
    assert 0.0 < run["recorded_work"]["lost_pct"] < 3.0
    assert run["requests"]["arrived"] == {"high": 0, "low": 0}
    assert "lost %" in done.stdout


def test_a_tight_budget_holds_and_is_paid_in_work(tmp_path: Path, recording: Path) -> None:
    done = replay(tmp_path, recording, budget_w=16_500.0)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert run["peak_1s_over_budget"] <= 1.0
    assert run["brakes"] == 0
    assert 3.0 < run["recorded_work"]["most_lost_pct"] < 50.0
    assert "no: work lost" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((), {"role": "mixed"}, "no server of the site takes recorded work"),
        (("--requests", "six-weeks"), {}, "no server of the site serves"),
        (("--power-source", "ac/*"), {}, "no source called 'ac/*'; there are"),
        (("--rate", "2"), {}, "recorded power is replayed as it is"),
        (("--power-format", "dmon"), {}, "overwatt: "),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    tmp_path: Path, recording: Path, arguments: tuple[str, ...], settings: dict[str, str], said: str
) -> None:
    done = replay(tmp_path, recording, *arguments, **settings)  # type: ignore[arg-type]
    assert done.returncode in (64, 65)
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_a_row_s_power_is_shared_out_or_refused(tmp_path: Path) -> None:
    recording = tmp_path / "row.csv"
    recording.write_text("t_s,node_power_w,phase\n" + "".join(f"{k}.0,{18000 + k % 7},load\n" for k in range(200)))
    refused = replay(tmp_path, recording)
    assert refused.returncode == 65
    assert 'set of = "row"' in refused.stderr
    taken = replay(tmp_path, recording, of="row")
    assert taken.returncode == 0, taken.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["header"]["budget_derivation"]["uncapped_peak_w"] == pytest.approx(18_006.0, rel=1e-3)


def test_two_sensors_of_the_same_servers_are_not_added_up(tmp_path: Path) -> None:
    recording = tmp_path / "row.csv"
    rows = [f"{sensor},1,{2000 * k},3000" for k in range(20) for sensor in ("ac", "dc")]
    recording.write_text("sensor,node,time_ms,power_w\n" + "\n".join(rows) + "\n")
    done = replay(tmp_path, recording)
    assert done.returncode == 65
    assert "--power-source" in done.stderr
    assert replay(tmp_path, recording, "--power-source", "dc/*").returncode == 0


def test_more_sources_than_servers_are_refused(tmp_path: Path) -> None:
    recording = tmp_path / "row.csv"
    rows = [f"dc,{node},{2000 * k},3000" for k in range(20) for node in range(4)]
    recording.write_text("sensor,node,time_ms,power_w\n" + "\n".join(rows) + "\n")
    done = replay(tmp_path, recording)
    assert done.returncode == 65
    assert "4 sources for 3 servers" in done.stderr
