"""`overwatt predict` as people call it: table, JSON, refusals."""

import json
from pathlib import Path

import pytest

from daemon.cli import run

WORDS = ["predict", "--gpu", "h100", "--gpus", "4", "--model", "llama-3.1-70b", "--engine", "vllm-0.10"]
LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
DOCUMENT = Path(__file__).parents[2] / "docs" / "predict.md"


def test_table_for_people(capsys: pytest.CaptureFixture[str]):
    assert run([*WORDS, "--rps", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("llama-3.1-70b under vllm-0.10 on 4 x h100-sxm, 1 requests/s of 1024 + 256 tokens\n")
    for words in ("stable; load", "largest stable load", "GPUs together, p99", "one GPU, prefill", "first token, p99"):
        assert words in printed.out
    # The first call after an update compiles, and says so.
    assert all(line.startswith(("note: ", "overwatt: compiling")) for line in printed.err.splitlines())


def test_json_on_standard_output_is_all_there_is_and_documented(capsys: pytest.CaptureFixture[str]):
    assert run([*WORDS, "--rps", "1", "--clock", "1400", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    described = DOCUMENT.read_text(encoding="utf-8")
    assert [key for key in found if f"`{key}`" not in described] == []
    assert found["stable"] is True
    assert found["clock_mhz"] == pytest.approx(1_400.0)
    for key in LATENCIES:
        values = [found[key][share]["value"] for share in ("p50", "p90", "p99")]
        assert values == sorted(values)
    for figure in (found["largest_stable_rps"], found["server_w"]["p99"], found["gpu_w"]["decode"]):
        assert figure["low"] < figure["value"] < figure["high"]
    assert run([*found["command"].split()[1:], "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_a_queue_that_grows_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "found.json"
    assert run([*WORDS, "--rps", "1000", "--json", str(out)]) == 0
    assert "NOT STABLE" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["stable"] is False
    assert found["ttft_s"] is None
    assert found["load_ratio"] > 1.0
    assert found["largest_stable_rps"]["value"] < 1_000.0
    assert found["served_rps"]["value"] == pytest.approx(found["largest_stable_rps"]["value"], rel=0.1)
    assert any("queue grows" in note for note in found["notes"])


def test_a_prompt_beyond_the_budget_of_an_iteration_is_noted(capsys: pytest.CaptureFixture[str]):
    assert run([*WORDS, "--rps", "0.1", "--input-tokens", "20000", "--json", "-"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(note.startswith("prompts of up to 20000 tokens run whole") for note in notes)


def test_answers_of_one_token_have_no_gaps(capsys: pytest.CaptureFixture[str]):
    assert run([*WORDS, "--rps", "1", "--output-tokens", "1", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["tpot_s"] is None


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--rps", "0"], 64, "--rps 0: must be above 0"),
        (["--rps", "nan"], 64, "--rps nan: must be above 0"),
        (["--rps", "1", "--input-tokens", "0"], 64, "--input-tokens 0: must be from 1"),
        (["--rps", "1", "--json", "/nowhere/x.json"], 64, "--json /nowhere/x.json"),
        (["--rps", "1", "--gpu", "h1000"], 78, "GPU 'h1000' is not known; there are"),
        (["--rps", "1", "--model", "gpt-7"], 78, "model 'gpt-7' is not known; there are"),
        (["--rps", "1", "--gpus", "1"], 78, "does not fit on 1 x h100-sxm"),
        (["--rps", "1", "--clock", "1"], 78, "--clock 1: "),
        (["--rps", "1", "--trace", "/nowhere.csv"], 65, "/nowhere.csv"),
    ],
)
def test_refusals_are_one_line(words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]):
    assert run([*WORDS, *words]) == status
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
