"""docs/fidelity.md and the bands of predictions are what the recordings say today."""

from pathlib import Path

import pytest

from benchmarks.fidelity import AREAS, BANDS, PAGE, document
from sim_backend.fidelity.bands import bands_text, read_bands
from sim_backend.fidelity.check import Check
from tests.conftest import RECORDINGS

pytestmark = pytest.mark.data
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return [check for area in AREAS for check in area.checks(Path(str(RECORDINGS)))]


def test_the_page_is_what_make_fidelity_writes(checks: list[Check]) -> None:
    assert (ROOT / PAGE).read_text() == document(checks)


def test_the_bands_are_what_make_fidelity_writes(checks: list[Check]) -> None:
    assert (ROOT / BANDS).read_text() == bands_text(checks)
    assert read_bands(ROOT / BANDS)


def test_every_figure_is_of_points_that_were_not_fitted(checks: list[Check]) -> None:
    assert all(check.held_out_points > 0 for check in checks)
    assert all(0.0 <= check.median_error <= check.worst_error for check in checks)
