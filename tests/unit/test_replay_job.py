"""A whole job on a small site: budget, references, header, refusals, and figures that add up."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from policies import POLICIES
from policies.errors import ConfigError, DataError
from sim_backend import arrivals, closed_loop, replay, six_weeks
from sim_backend.fleet import build_servers
from sim_backend.outcome import outcome_of
from sim_backend.replay import ReplayJob, run_replay
from sim_backend.report import json_out
from sim_backend.runs import LoopTask, Reference, ReferenceTask, run_loop, run_reference
from sim_backend.site import IN_BAND, Domain, Guarantee, Site
from tests.twin.plant_cases import plant_of, requests
from tests.twin.small_site import WaveSource, hard_site, site_of, write_trace

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema/replay.schema.json").read_text())
SHORT = WaveSource(((120.0, 0.3), (180.0, 1.5)))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trace(tmp_path_factory.mktemp("traces") / "short.csv", SHORT)


def job_of(site: Site, requests: object, **changes: object) -> ReplayJob:
    job = ReplayJob(site, str(requests), ("polca",), (site.guarantee.value,), (0.0,), seed=1, check_every=1)
    return replace(job, **changes)  # type: ignore[arg-type]


def quiet(share: float, what: str) -> None:
    """Nobody watches."""


def result_of(job: ReplayJob) -> dict[str, Any]:
    """What stands in the JSON of a job, which follows its schema."""
    found: dict[str, Any] = json.loads(json_out.encode(run_replay(job, quiet)))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    return found


# -- budget -----------------------------------------------------------------------------------------------------------


def test_a_derived_budget_puts_the_uncapped_peak_at_the_ratio_asked_for(trace: Path):
    header = result_of(job_of(site_of(None), trace))["header"]
    derived = header["budget_derivation"]
    assert header["budget_w"] == pytest.approx(derived["uncapped_peak_w"] / 0.79)
    assert derived["uncapped_peak_over_budget"] == pytest.approx(0.79)
    assert derived["how"] == "peak of the uncapped fleet before servers are added / 0.79"


def test_the_derived_budget_does_not_depend_on_the_servers_added(trace: Path):
    alone, beside = job_of(site_of(None), trace), job_of(site_of(None), trace, add_servers_pct=(50.0, 100.0))
    assert result_of(alone)["header"]["budget_w"] == result_of(beside)["header"]["budget_w"]


def test_a_given_budget_stays(trace: Path):
    header = result_of(job_of(site_of(23_000.0), trace))["header"]
    assert header["budget_w"] == 23_000.0
    assert header["budget_derivation"]["how"] == "given in the site file"


def test_only_the_budget_of_the_first_domain_can_be_derived(trace: Path):
    domains = (Domain("row", "row", None, 1e5), Domain("rack", "rack", "row", None, 0.8))
    with pytest.raises(ConfigError, match="give domain 'rack' a budget_w"):
        run_replay(job_of(site_of(1.0, domains=domains), trace), quiet)


def reference(servers: int, power_w: list[float]) -> Reference:
    plant = plant_of(requests([0.0]))
    plant.advance(1.0)
    return Reference(servers, 0.0, np.repeat(np.array(power_w), 2), 0, outcome_of(plant, []))


@pytest.mark.parametrize(
    ("budget_w", "servers"),
    [
        (70.0, 4.0),  # 8 need 140: scaled down
        (140.0, 8.0),
        (160.0, 10.0),
        (175.0, 11.0),
        (220.0, 14.0),  # beyond the largest fleet: scaled up from 180 for 12
    ],
)
def test_servers_that_fit_with_no_control_lie_where_peak_and_rise_meet_the_budget(budget_w: float, servers: float):
    # Peak + largest rise: 100 + 40 = 140 for 8 servers, 120 + 60 = 180 for 12.
    references = {0.0: reference(8, [60.0, 100.0]), 50.0: reference(12, [60.0, 120.0])}
    fit = replay._uncontrolled(references, budget_w, base=8, window_s=2)
    assert fit["servers"] == servers
    assert fit["add_servers_pct"] == pytest.approx(100.0 * (servers / 8 - 1.0))


def test_a_larger_fleet_that_happens_to_need_less_does_not_count():
    references = {
        0.0: reference(8, [60.0, 100.0]),
        50.0: reference(12, [90.0, 110.0]),
        100.0: reference(16, [0.0, 100]),
    }
    assert replay._uncontrolled(references, 139.0, 8, 2)["servers"] == 7.0
    assert replay._uncontrolled(references, 141.0, 8, 2)["servers"] == 12.0
    # From 140 for 12 to 200 for 16; were the 130 of 12 believed it would be 14.
    assert replay._uncontrolled(references, 165.0, 8, 2)["servers"] == 13.0


def documented(heading: str) -> set[str]:
    """Keys in the first column of the table below a heading of docs/replay-json.md."""
    text = (Path(__file__).parents[2] / "docs/replay-json.md").read_text(encoding="utf-8")
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_every_key_that_is_written_is_documented_and_the_other_way_round(trace: Path):
    found = result_of(job_of(site_of(23_000.0), trace))
    assert set(found["header"]) == documented("header") - {"recorded_servers"}
    # Written only where servers do recorded work; tests/integration/test_replay_power.py looks at it.
    assert set(found["runs"][0]) == documented("runs") - {"recorded_work"}


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_failsafe_caps_too_low_to_keep_are_refused_under_the_hard_guarantee(trace: Path):
    # 2769 W is the least a server keeps: 16800 W feed six of them at 2800 W, and seven at 2400 W.
    with pytest.raises(ConfigError) as caught:
        run_replay(job_of(hard_site(16_800.0), trace, add_servers_pct=(0.0, 17.0)), quiet)
    assert "\n" not in str(caught.value)
    for figure in ("7 servers (+17 %)", "2400 W each", "budget of 16800 W", "2769 W"):
        assert figure in str(caught.value)
    run_replay(job_of(hard_site(16_800.0), trace), quiet)


def test_with_a_derived_budget_they_are_refused_once_it_is_known(trace: Path):
    with pytest.raises(ConfigError, match=r"18 servers \(\+200 %\): their failsafe caps must be lowered"):
        run_replay(job_of(hard_site(None), trace, add_servers_pct=(200.0,)), quiet)


def test_under_the_reactive_guarantee_they_are_a_figure(trace: Path):
    site = site_of(16_800.0)
    kept = result_of(job_of(site, trace))["header"]["failsafe_sum_over_budget"]
    assert kept == pytest.approx(1.0)
    kept = result_of(job_of(site, trace, add_servers_pct=(0.0, 17.0)))["header"]["failsafe_sum_over_budget"]
    assert kept == pytest.approx(7 * 2_769.08 / 16_800.0, rel=1e-5)


def test_a_journal_holds_one_run_only(trace: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="one policy, one guarantee"):
        run_replay(job_of(site_of(1e5), trace, add_servers_pct=(0.0, 30.0), journal=tmp_path / "j"), quiet)


@pytest.mark.parametrize("rows", ["1.0,10,10", "0.0,10,10\n0.5,10,10"])
def test_a_trace_that_ends_before_the_meter_speaks_is_refused(rows: str, tmp_path: Path):
    path = tmp_path / "tiny.csv"
    path.write_text(f"arrival_timestamp,prompt_size,token_size\n{rows}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        run_replay(job_of(site_of(1e5), path), quiet)
    assert str(caught.value).startswith(f"{path}: ")
    assert "after 4 s: give a longer trace" in str(caught.value)


def test_the_shortest_run_that_the_meter_sees_has_figures(tmp_path: Path):
    path = tmp_path / "short.csv"
    path.write_text("arrival_timestamp,prompt_size,token_size\n0.0,10,10\n2.5,10,10\n", encoding="utf-8")
    found = result_of(job_of(site_of(None), path))
    assert found["header"]["duration_s"] == 5.0
    assert found["runs"][0]["peak_over_budget"] > 0.0


def test_a_journal_that_cannot_be_written_ends_the_job(trace: Path, tmp_path: Path):
    with pytest.raises(DataError, match="cannot write the journal"):
        run_replay(job_of(site_of(1e5), trace, journal=tmp_path / "none" / "run.journal"), quiet)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_goes_wrong_in_a_run_ends_the_job(processes: int, trace: Path):
    site = site_of(1e5, policy={"polca": {"t1": 0.95}})
    with pytest.raises(ConfigError, match="0 < t1 < t2"):
        run_replay(job_of(site, trace, policies=("no-cap", "polca"), processes=processes), quiet)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_every_combination_is_run_in_the_order_asked_for(trace: Path):
    site = site_of(None, IN_BAND)
    job = job_of(
        site, trace, policies=("no-cap", "polca"), guarantees=("hard", "reactive"), add_servers_pct=(50.0, 0.0)
    )
    found = result_of(job)
    asked = [(g, p, pct) for g in ("hard", "reactive") for p in ("no-cap", "polca") for pct in (50.0, 0.0)]
    assert [(r["guarantee"], r["policy"], r["add_servers_pct"]) for r in found["runs"]] == asked
    assert {r["servers"] for r in found["runs"]} == {6, 9}
    assert found["header"]["servers_at_0_pct"] == 6


@pytest.mark.parametrize("add_pct", [0.0, 50.0])
def test_without_caps_the_closed_loop_is_the_reference_to_the_last_bit(add_pct: float, trace: Path):
    site = site_of(1e6)
    workload, site = replay.prepared(job_of(site, trace))
    uncapped = run_reference(ReferenceTask(site, workload, add_pct))
    task = LoopTask(site, workload, "no-cap", Guarantee.REACTIVE, add_pct, 1, 1, uncapped, None)
    run = run_loop(task)
    assert run.figures["energy_j"] == pytest.approx(uncapped.power_w.sum(), rel=1e-12)
    assert run.figures["peak_1s_over_budget"] == uncapped.power_w.max() / 1e6
    change = run.figures["latency_change_detail_pct"]
    assert isinstance(change, dict)
    assert {v for metrics in change.values() for qs in metrics.values() for v in qs.values()} == {0.0}
    assert run.figures["throughput_change_pct"] == {"low": 0.0, "high": 0.0}
    assert run.figures["commands"] == {"sent": 0, "failed": 0, "reissued": 0}


def test_every_whole_hour_is_compared_with_the_same_hour_uncapped(tmp_path: Path):
    path = write_trace(tmp_path / "hours.csv", WaveSource(((3_700.0, 0.3), (3_600.0, 1.0))))
    runs = result_of(job_of(site_of(20_000.0), path, policies=("no-cap", "one-threshold-all")))["runs"]
    calm = result_of(job_of(site_of(1e6), path, policies=("no-cap",)))["runs"][0]
    assert calm["worst_hour_change_pct"] == {"high": {"p50": 0.0, "p99": 0.0}, "low": {"p50": 0.0, "p99": 0.0}}
    for run in runs:
        for name in ("high", "low"):
            worst, whole = run["worst_hour_change_pct"][name], run["latency_change_pct"][name]
            assert worst["p50"] > 0.0
            assert worst["p50"] >= 0.9 * whole["p50"]


def test_cores_and_workloads_draw_their_chance_apart():
    streams = {arrivals.TRACE_STREAM, six_weeks._STREAM, closed_loop.CORE_STREAM}
    assert len(streams) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_requests_add_up_whatever_the_policy(policy: str, trace: Path):
    offered = sum(len(block) for block in SHORT.blocks())
    counted = result_of(job_of(site_of(18_000.0), trace, policies=(policy,)))["runs"][0]["requests"]
    for name in ("high", "low"):
        assert counted["arrived"][name] == sum(counted[part][name] for part in ("completed", "in_flight", "rejected"))
    assert sum(counted["arrived"].values()) == pytest.approx(offered, abs=2)  # the last second is not simulated


def test_progress_rises_to_the_whole(trace: Path):
    told: list[float] = []
    run_replay(job_of(site_of(1e5), trace, policies=("no-cap", "polca")), lambda share, _: told.append(share))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


def test_the_header_names_all_that_was_asked(trace: Path):
    job = job_of(site_of(1e5), trace, days=200.0 / 86_400.0, rate=1.5, compress_time=1.25, command="as given")
    header = result_of(job)["header"]
    assert (header["seed"], header["rate"], header["compress_time"], header["command"]) == (1, 1.5, 1.25, "as given")
    assert header["duration_s"] == 200.0
    assert (header["site"], header["domain"], header["workload"]) == ("small", "row", str(trace))
    assert header["other_w"] == 1_200.0
    assert build_servers(job.site, 0.0).count == header["servers_at_0_pct"]
