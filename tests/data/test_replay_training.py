"""The recorded training row as co-located work: 64 servers of one job, under a hard budget."""

import json
from pathlib import Path

import pytest

from daemon.cli import run
from tests.conftest import RECORDINGS

pytestmark = pytest.mark.data
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "training-row.toml"
RUN = "mlperf-training-v4.0-smc-h100/normalised/64xSMC-H100-SXM-80GB__gpt3__result_5848-240517221859825376616_2.csv.gz"


def test_the_training_row_stays_inside_its_budget_and_loses_little_work(tmp_path: Path) -> None:
    assert RECORDINGS is not None
    out = tmp_path / "out.json"
    words = ["replay", "--power", str(Path(RECORDINGS) / RUN), "--power-source", "ac/*", "--site", str(EXAMPLE)]
    assert run([*words, "--policy", "fair-share", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    # The sum of all 64 servers as the data set states it, on a grid of 2 s: 458.6 kW; the meter's mean is that or less.
    assert found["header"]["budget_derivation"]["uncapped_peak_w"] == pytest.approx(458_600.0, rel=0.005)
    (one,) = found["runs"]
    assert one["peak_1s_over_budget"] <= 1.0
    assert (one["brakes"], one["breaker_trips"]) == (0, 0)
    assert 0.0 < one["recorded_work"]["lost_pct"] < 50.0
