"""`overwatt calibrate` with an operator's own recordings, and what it refuses."""

import math
import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sim_backend.cards.server_card import load_server, node_w
from tests.integration.test_cli_errors import overwatt

CARD = load_server("dgx-h100")
BASE_W, FANS_W = 1200.0, 400.0
LOCAL = datetime(2025, 6, 15, 17, 6, 40)  # noqa: DTZ001 -- as nvidia-smi writes it, two hours ahead of UTC
START_MS = 1_750_000_000_000
"""The same instant, Unix."""


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """An hour of a server that goes from idle to full load and back, its wall meter and its 8 GPUs, each second."""
    wall, gpus = ["sensor,node,time_ms,power_w"], ["timestamp, index, power.draw [W]"]
    truth = CARD.__class__(
        **{f: getattr(CARD, f) for f in CARD.__struct_fields__} | {"base_w": BASE_W, "fans_full_w": FANS_W}
    )
    for second in range(3600):
        each_w = 100.0 + 550.0 * (0.5 - 0.5 * math.cos(2.0 * math.pi * second / 1800.0))
        wall.append(f"ac,1,{START_MS + second * 1000},{float(node_w(truth, 8 * each_w)):.1f}")
        stamp = f"{LOCAL + timedelta(seconds=second):%Y/%m/%d %H:%M:%S}.000"
        gpus += [f"{stamp}, {gpu}, {each_w:.2f}" for gpu in range(8)]
    paths = tmp_path / "wall.csv", tmp_path / "gpus.csv"
    paths[0].write_text("\n".join(wall) + "\n")
    paths[1].write_text("\n".join(gpus) + "\n")
    return paths


def test_a_server_is_fitted_to_its_own_recordings(own: tuple[Path, Path], tmp_path: Path) -> None:
    wall, gpus = own
    out = tmp_path / "mine.toml"
    done = overwatt(
        "calibrate",
        "--card",
        "dgx-h100",
        "--wall",
        wall,
        "--gpus",
        gpus,
        "--recorded",
        "2026-11",
        "--utc-offset-h",
        2,
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    made = tomllib.loads(out.read_text())
    assert made["base_w"] == pytest.approx(BASE_W, rel=0.02)
    assert made["fans_full_w"] == pytest.approx(FANS_W, rel=0.05)
    assert made["fit"]["median_error"] < 0.005
    assert "wall.csv" in made["source"]["base_w"]
    assert load_server(str(out)).base_w == made["base_w"]


def test_clocks_of_different_kinds_are_not_guessed_at(own: tuple[Path, Path], tmp_path: Path) -> None:
    wall, gpus = own
    done = overwatt("calibrate", "--card", "dgx-h100", "--wall", wall, "--gpus", gpus, "--out", tmp_path / "mine.toml")
    assert done.returncode == 65
    assert "--utc-offset-h" in done.stderr


def test_a_gpu_s_idle_watts_are_taken_from_its_own_recording(own: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    done = overwatt("calibrate", "--card", "h100-sxm", "--gpus", own[1], "--out", out)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(out.read_text())["loaded_w"] == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give either --data"),
        (("--data", ".", "--gpus", "x"), "give either --data"),
        (("--wall", "x"), "--wall alone"),
        (("--card", "vllm-0.10", "--gpus", "GPUS"), "watts say nothing of an engine"),
        (("--card", "dgx-h100", "--gpus", "GPUS"), "a server needs --wall"),
        (("--card", "h100-sxm", "--gpus", "GPUS", "--wall", "WALL"), "a GPU takes --gpus alone"),
        (("--card", "no-such", "--gpus", "GPUS"), "no card 'no-such'"),
        (("--card", "h100-sxm", "--gpus", "WALL"), "give recordings of single GPUs"),
        (("--card", "dgx-h100", "--gpus", "WALL", "--wall", "GPUS", "--utc-offset-h", "2"), "swapped"),
        (("--card", "b200", "--data", "."), "no numbers of its own"),
        (("--card", "h100-sxm", "--data", "."), "overwatt: "),
    ],
)
def test_what_cannot_be_fitted_is_one_line_and_no_file(
    own: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "mine.toml"
    places = {"WALL": own[0], "GPUS": own[1]}
    done = overwatt("calibrate", *(places.get(word, word) for word in words), "--out", out)
    assert done.returncode in (64, 65, 78)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
