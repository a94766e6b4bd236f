"""The command line: what is parsed, what is refused before anything is simulated, and how."""

import json
from pathlib import Path

import pytest

from daemon import cli
from daemon.commands.replay_options import ReplayOptions
from daemon.failures import UsageError
from daemon.outputs import check_writable
from daemon.replay_job import command, plan, with_other_w
from policies.errors import ConfigError, DataError, InvariantViolated
from sim_backend.site import IN_BAND, ServerGroup

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ROW = EXAMPLES / "polca-row.toml"
IN_BAND_ROW = EXAMPLES / "polca-row-in-band.toml"
REPLAY = ("replay", "--requests", "six-weeks", "--site", str(ROW), "--policy", "polca")


def options(**given: object) -> ReplayOptions:
    """Options of a replay that is fine as it stands."""
    return ReplayOptions(**{"requests": "six-weeks", "site": ROW, "policy": "polca", **given})  # type: ignore[arg-type]


def usage(**given: object) -> str:
    """The line with which a replay is refused as called wrongly."""
    with pytest.raises(UsageError) as caught:
        plan(options(**given))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- options to a job -------------------------------------------------------------------------------------------------


def test_options_become_a_job():
    job = plan(options(policy="polca,no-cap", add_servers="0,30", seed=5, days=1.5, start_day=7.25, processes=2)).job
    assert job.policies == ("polca", "no-cap")
    assert job.add_servers_pct == (0.0, 30.0)
    assert (job.seed, job.days, job.start_day, job.processes) == (5, 1.5, 7.25, 2)
    assert job.guarantees == ("reactive",)
    assert job.site.name == "polca-row"


def test_percentages_may_carry_their_sign_and_spaces():
    assert plan(options(add_servers="0%, 12.5 ,30%")).job.add_servers_pct == (0.0, 12.5, 30.0)


def test_the_other_path_comes_with_its_own_delays():
    job = plan(options(actuation="in-band", guarantee="hard,reactive")).job
    assert job.site.actuation == IN_BAND
    assert job.guarantees == ("hard", "reactive")


def test_naming_the_path_a_site_has_keeps_its_delays():
    job = plan(options(actuation="out-of-band")).job
    assert job.site.actuation == plan(options()).job.site.actuation


def test_other_watts_move_the_failsafe_caps_so_that_gpus_keep_their_limits():
    groups = [
        ServerGroup("row", "dgx-a100__bloom-176b", 1, "high", 2400.0),
        ServerGroup("row", "dgx-a100__bloom-176b", 1, "low", 2400.0, other_w=1000.0),
    ]
    changed = list(with_other_w(groups, 2800.0))
    assert [(g.other_w, g.failsafe_w) for g in changed] == [(2800.0, 4000.0), (2800.0, 4200.0)]


def test_the_command_to_run_again_leaves_out_outputs_and_processes():
    line = command(
        options(add_servers="0,30", days=2.0, start_day=20.5, json=Path("a.json"), processes=2, other_w=2800.0)
    )
    asked = f"--requests six-weeks --site {ROW} --policy polca --add-servers 0,30"
    assert line == f"overwatt replay {asked} --other-w 2800 --seed 1 --days 2 --start-day 20.5"


# -- refusals before anything is simulated --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"requests": None}, "--requests is missing"),
        ({"site": None}, "--site is missing"),
        ({"policy": None}, "--policy is missing: name one or more of no-cap, "),
        ({"policy": "pocla"}, "--policy: 'pocla' is not known; did you mean polca?; there are no-cap, "),
        ({"policy": "polca,"}, "--policy: '' is not known"),
        ({"policy": "polca,polca"}, "--policy: a value is given twice"),
        ({"add_servers": "30,abc"}, "--add-servers: 'abc' is not a percentage from 0 to 1000"),
        ({"add_servers": "-10"}, "--add-servers: '-10' is not a percentage"),
        ({"add_servers": "nan"}, "--add-servers: 'nan' is not a percentage"),
        ({"add_servers": "30,30%"}, "--add-servers: a value is given twice"),
        ({"days": 0.0}, "--days: 0 must be above 0"),
        ({"days": 43.0}, "--days: 43 is more than the 42 days of six-weeks"),
        ({"start_day": -1.0}, "--start-day: -1 must lie from 0 to below 42"),
        ({"start_day": 42.0}, "--start-day: 42 must lie from 0 to below 42"),
        ({"start_day": float("nan")}, "--start-day: nan must lie from 0 to below 42"),
        ({"start_day": 1.3}, "--start-day: 1.3 must fall on a whole hour; 1.2916666666666667 does"),
        ({"start_day": 20.5, "days": 22.0}, "--start-day: 22 days from day 20.5 end after day 42"),
        ({"start_day": 1.0, "requests": "trace.csv"}, "--start-day is for six-weeks"),
        ({"rate": 2.0}, "--rate changes recorded traces only"),
        ({"compress_time": 12.0}, "--compress-time changes recorded traces only"),
        ({"rate": -1.0, "requests": "trace.csv"}, "--rate: -1 must be above 0"),
        ({"processes": 0}, "--processes: 0 must be at least 1"),
        ({"seed": -1}, "--seed: -1 must not be negative"),
        ({"other_w": -5.0}, "--other-w: -5 must be at least 0"),
        ({"html": Path("-")}, "--html: name a file"),
        ({"guarantee": "firm"}, "--guarantee: 'firm' is not known; there are hard, reactive"),
        ({"guarantee": "hard"}, "the hard guarantee cannot be kept out-of-band: 40 s commands cannot carry leases"),
        ({"site": IN_BAND_ROW, "actuation": "out-of-band"}, "the hard guarantee cannot be kept out-of-band"),
        ({"actuation": "by-pigeon"}, "--actuation: 'by-pigeon' is not known; there are out-of-band, in-band"),
        ({"record": Path("run.journal"), "policy": "polca,no-cap"}, "--record keeps the journal of one run"),
    ],
)
def test_a_wrong_call_is_refused_with_what_to_do(given: dict[str, object], said: str):
    assert said in usage(**given)


def test_a_relation_broken_by_the_options_is_refused_as_configuration(tmp_path: Path):
    site = tmp_path / "site.toml"
    site.write_text(
        IN_BAND_ROW.read_text(encoding="utf-8").replace("lease_s = 10.0", "lease_s = 2.0"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="two lost messages"):
        plan(options(site=site))
    assert any("two lost messages" in line for line in plan(options(site=site, guarantee="reactive")).warnings)


def test_outputs_must_not_overwrite_inputs_or_each_other(tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text("x", encoding="utf-8")
    assert "--requests names the same file" in usage(requests=str(trace), json=trace)
    assert "--json names the same file" in usage(json=tmp_path / "out", html=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "it is a directory"), ("none/out.json", "create it first"), ("file/out.json", "there is no directory")],
)
def test_an_output_that_cannot_be_written_is_said_at_once(tmp_path: Path, name: str, said: str):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        check_writable({"--json": tmp_path / name}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_asking_whether_an_output_can_be_written_leaves_nothing_behind(tmp_path: Path):
    old = tmp_path / "out.json"
    old.write_text("old", encoding="utf-8")
    check_writable({"--json": old, "--html": tmp_path / "new.html"}, {})
    assert old.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


# -- exit status and messages ---------------------------------------------------------------------------------------


def said_by(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    status = cli.run(arguments)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 64, "Missing command"),
        (("repaly",), 64, "No such command 'repaly'"),
        (("replay", "--polcy", "polca"), 64, "No such option: --polcy"),
        (("replay", "--seed", "x"), 64, "Invalid value for '--seed'"),
        (("replay",), 64, "--requests is missing"),
        ((*REPLAY[:-1], "pocla"), 64, "did you mean polca?"),
        (("check-config", "nowhere.toml"), 78, "nowhere.toml: no such file"),
        (("check-config", str(ROW), "--output", "xml"), 64, "--output xml: there are text and json"),
        (("replay", "--journal", "a", "--policy", "polca"), 64, "--policy does not go with --journal"),
    ],
)
def test_an_error_is_one_line_and_an_exit_status(
    arguments: tuple[str, ...], status: int, said: str, capsys: pytest.CaptureFixture[str]
):
    got, out, err = said_by(arguments, capsys)
    assert got == status
    assert out == ""
    assert err.startswith("overwatt: ")
    assert err.count("\n") == 1
    assert said.lower() in err.lower()


@pytest.mark.parametrize(
    ("error", "status"), [(DataError("trace.csv:3: bad"), 65), (ConfigError("a\nb"), 78), (KeyboardInterrupt(), 130)]
)
def test_what_a_run_raises_decides_the_exit_status(
    error: BaseException,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("sim_backend.replay.run_replay", fails)
    got, out, err = said_by((*REPLAY, "--json", str(tmp_path / "out.json")), capsys)
    assert got == status
    assert out == ""
    assert all(line.startswith("overwatt: ") for line in err.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_invariant_is_told_with_its_whole_story(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(*_: object) -> None:
        raise InvariantViolated("the story that led here")

    monkeypatch.setattr("sim_backend.replay.run_replay", fails)
    status, _, err = said_by(REPLAY, capsys)
    assert status == 70
    assert "Traceback" in err
    assert "the story that led here" in err


def test_results_are_written_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from tests.twin.fake_result import fake_result

    monkeypatch.setattr("sim_backend.replay.run_replay", lambda *_: fake_result((0.0, 30.0), ("polca",)))
    written = tmp_path / "out.json", tmp_path / "out.html"
    status, out, err = said_by((*REPLAY, "--json", str(written[0]), "--html", str(written[1])), capsys)
    assert (status, err) == (0, "")
    assert "polca" in out
    assert len(json.loads(written[0].read_text(encoding="utf-8"))["runs"]) == 4
    assert written[1].read_text(encoding="utf-8").startswith("<!")


def test_json_on_standard_output_has_it_for_itself(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    from tests.twin.fake_result import fake_result

    monkeypatch.setattr("sim_backend.replay.run_replay", lambda *_: fake_result((0.0,), ("polca",)))
    status = cli.run((*REPLAY, "--json", "-"))
    shown = capfd.readouterr()
    assert status == 0
    assert json.loads(shown.out)["runs"]
    assert "polca" in shown.err


def test_a_journal_that_differs_is_wrong_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sim_backend.journal_replay.verify", lambda _: "step 7 differs")
    assert said_by(("replay", "--journal", "a.journal"), capsys) == (65, "", "overwatt: a.journal: step 7 differs\n")
    monkeypatch.setattr("sim_backend.journal_replay.verify", lambda _: None)
    assert said_by(("replay", "--journal", "a.journal"), capsys)[0] == 0


def test_check_config_as_json_is_json_without_nan(capsys: pytest.CaptureFixture[str]):
    status, out, err = said_by(("check-config", str(IN_BAND_ROW), "--output", "json"), capsys)
    assert (status, err) == (0, "")

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    shown = json.loads(out, parse_constant=no_constant)
    assert shown["effective"]["timing.lease_s"] == 10.0
    assert shown["effective"]["policy.polca.t2"] == 0.89
    assert shown["derived"]["failsafe_s"] == 11.0
    assert shown["meaning"].keys() == shown["derived"].keys()


def test_check_config_shows_warnings_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    site = tmp_path / "site.toml"
    site.write_text(
        ROW.read_text(encoding="utf-8").replace("failsafe_w = 2800.0", "failsafe_w = 2000.0"), encoding="utf-8"
    )
    status, out, err = said_by(("check-config", str(site)), capsys)
    assert status == 0
    assert "usable, 2 warnings" in out
    assert err.count("overwatt: warning: ") == 2
