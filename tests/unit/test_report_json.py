import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from sim_backend.report import json_out
from sim_backend.result import ReplayResult, RunResult
from sim_backend.site import Guarantee
from tests.twin.fake_result import fake_header, fake_result, fake_run

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/schema/replay.schema.json").read_text())
DOCUMENT = (ROOT / "docs/replay-json.md").read_text()


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def with_figures(**figures: object) -> ReplayResult:
    run = fake_run("polca", 30.0, bins=10)
    return ReplayResult(fake_header(), (replace(run, figures={**run.figures, **figures}),))


def test_the_output_follows_its_schema() -> None:
    validator().validate(json.loads(json_out.encode(fake_result((0.0, 30.0), bins=50))))


def test_the_schema_also_takes_runs_without_requests_of_one_priority() -> None:
    nothing = {"high": None, "low": None}
    result = with_figures(latency=nothing, latency_change_pct=nothing, latency_change_detail_pct=nothing)
    validator().validate(json.loads(json_out.encode(result)))


@pytest.mark.parametrize("broken", [{"brakes": -1}, {"brakes": "many"}, {"capped_s": {"middle": 1.0}}, {"a-b": 1}])
def test_the_schema_refuses_what_the_document_does_not_say(broken: dict[str, object]) -> None:
    assert not validator().is_valid(json.loads(json_out.encode(with_figures(**broken))))


def documented(heading: str) -> set[str]:
    """Keys in the first column of the table below a heading of docs/replay-json.md."""
    section = DOCUMENT.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("heading", ["header", "runs"])
def test_every_documented_key_is_in_the_schema(heading: str) -> None:
    part = SCHEMA["properties"][heading]
    known = set(part.get("items", part)["properties"])
    assert documented(heading)
    assert documented(heading) - known == set()


def test_every_key_of_the_schema_says_what_it_means() -> None:
    run = SCHEMA["properties"]["runs"]["items"]["properties"]
    header = SCHEMA["properties"]["header"]["properties"]
    assert [key for key, part in {**header, **run}.items() if not part.get("description")] == []


def test_the_same_result_gives_the_same_bytes_whatever_the_order_of_its_keys() -> None:
    run = fake_run("polca", 30.0, bins=10)
    turned = replace(run, figures=dict(reversed(run.figures.items())))
    header = fake_header()
    turned_header = dict(reversed(header.items()))
    first = json_out.encode(ReplayResult(header, (run,)))
    assert first == json_out.encode(ReplayResult(turned_header, (turned,)))


def test_what_was_run_stands_beside_what_it_found() -> None:
    run = json.loads(json_out.encode(with_figures()))["runs"][0]
    assert (run["policy"], run["add_servers_pct"], run["servers"]) == ("polca", 30.0, 52)
    assert (run["actuation"], run["guarantee"], run["brakes"]) == ("out-of-band", "reactive", 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_number_that_is_none_is_written_as_null(value: float) -> None:
    text = json_out.encode(with_figures(peak_over_budget=value)).decode()
    assert json.loads(text)["runs"][0]["peak_over_budget"] is None
    assert not re.search(r"NaN|Infinity", text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([1.0, np.nan]), [1.0, None]),
        ((1, 2), [1, 2]),
        (Guarantee.HARD, "hard"),
        (-0.0, 0.0),
        ({Guarantee.HARD: 1}, {"hard": 1}),
        (None, None),
    ],
)
def test_values_of_numpy_and_of_our_own_become_plain(value: object, expected: object) -> None:
    plain = json_out.plain(value)
    assert plain == expected
    assert type(plain) is type(expected)
    assert json.dumps(plain) == json.dumps(expected)


def test_negative_zero_is_written_as_zero() -> None:
    assert json.dumps(json_out.plain(-0.0)) == "0.0"


@pytest.mark.parametrize("value", [object(), {1: 2}, {"x"}, b"bytes"])
def test_anything_else_is_refused_and_not_guessed(value: object) -> None:
    with pytest.raises(TypeError):
        json_out.plain(value)


def test_a_figure_may_not_hide_what_was_run() -> None:
    run = RunResult("polca", 0.0, 40, "in-band", "hard", {"servers": 3})
    with pytest.raises(AssertionError, match="servers"):
        json_out.run_object(run)


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    result = with_figures()
    json_out.write(result, tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == json_out.encode(result)
