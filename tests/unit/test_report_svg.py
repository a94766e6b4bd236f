import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from policies.errors import DataError
from sim_backend.report import svg_out
from sim_backend.result import ReplayResult
from tests.twin.fake_result import fake_result

RESULT = fake_result((0.0, 30.0), ("no-cap", "polca"), bins=1500)


def texts(picture: str) -> list[str]:
    root = ET.fromstring(picture)
    return [
        ("".join(element.itertext())).replace("\N{NO-BREAK SPACE}", " ")
        for element in root.iter()
        if element.tag.endswith("}text")
    ]


def test_the_picture_shows_both_policies_and_the_budget_in_words() -> None:
    said = texts(svg_out.render(RESULT))
    assert said[0] == "Power of 52 servers (30 % added) against their budget"
    assert any(text.startswith("no-cap: ") and "brakes" in text for text in said)
    assert any(text.startswith("polca: 0 brakes, meter peak ") for text in said)
    assert "budget" in said


def test_the_picture_is_small_and_fetches_nothing() -> None:
    picture = svg_out.render(RESULT)
    assert len(picture) < 40_000
    assert re.findall(r"(?:href|src|url\(|@import)", picture) == []


def test_the_picture_is_the_same_each_time() -> None:
    assert svg_out.render(RESULT) == svg_out.render(fake_result((0.0, 30.0), ("no-cap", "polca"), bins=1500))


def test_everything_drawn_lies_inside_the_picture() -> None:
    for path in re.findall(r'class="[ab]" d="M([\d.,L-]+)Z?"', svg_out.render(RESULT)):
        for pair in path.split("L"):
            x, y = (float(part) for part in pair.split(","))
            assert 0.0 <= x <= svg_out.WIDTH
            assert 0.0 <= y <= svg_out.HEIGHT


def test_another_number_of_servers_can_be_asked_for() -> None:
    assert texts(svg_out.render(RESULT, add_servers_pct=0.0))[0].startswith("Power of 40 servers")


def test_a_short_run_is_measured_in_hours() -> None:
    assert "6 h" in texts(svg_out.render(fake_result((30.0,), ("no-cap", "polca"), days=1.0)))


@pytest.mark.parametrize(
    "result",
    [
        fake_result((30.0,), ("polca",), bins=20),
        ReplayResult(RESULT.header, tuple(replace(run, series=None) for run in RESULT.runs)),
        ReplayResult({}, RESULT.runs),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(result: ReplayResult, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        svg_out.write(result, tmp_path / "picture.svg")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_written_whole(tmp_path: Path) -> None:
    svg_out.write(RESULT, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text() == svg_out.render(RESULT)
