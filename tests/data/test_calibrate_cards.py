"""Every shipped card with fitted numbers is what `overwatt calibrate` makes of the published recordings."""

from pathlib import Path

import pytest

from daemon.cli import run
from sim_backend.calibration.shipped import FOLDERS, ORIGINS
from tests.conftest import RECORDINGS

pytestmark = pytest.mark.data


@pytest.mark.parametrize("name", sorted(ORIGINS))
def test_the_shipped_card_is_made_again_to_the_byte(name: str, tmp_path: Path) -> None:
    out = tmp_path / f"{name}.toml"
    assert run(["calibrate", "--data", str(RECORDINGS), "--out", str(out)]) == 0
    (shipped,) = [folder / out.name for folder in FOLDERS if (folder / out.name).exists()]
    assert out.read_bytes() == shipped.read_bytes()
