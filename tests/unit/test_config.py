"""Site files: what is read, what is refused, and how that is said."""

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import site_tables
from daemon.config import SiteDocument, parse_site, read_site
from daemon.config_derived import derived
from daemon.config_docs import document
from daemon.toml_lines import line_of, spelled
from policies.errors import ConfigError
from policies.models.trip_curves import NAMED
from sim_backend.site import IN_BAND, OUT_OF_BAND, POINTS, Breaker, Guarantee, Site

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "docs" / "examples"
FILE = Path("site.toml")

HARD = """\
[site]
name = "here"

[domains.row]
level = "row"
budget_w = 220000.0

[[servers]]
domain = "row"
profile = "dgx-a100__bloom-176b"
count = 20
priority = "high"
failsafe_w = 2800.0

[[servers]]
domain = "row"
profile = "dgx-a100__bloom-176b"
count = 20
priority = "low"
failsafe_w = 2800.0

[actuation]
path = "in-band"
"""
REACTIVE = HARD.replace('name = "here"', 'name = "here"\nguarantee = "reactive"')


def checked(text: str) -> tuple[Site, list[str]]:
    """The site and its warnings."""
    found = parse_site(text, FILE)
    return found.site, found.check(found.site)


def refused(text: str) -> list[str]:
    """The lines with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        checked(text)
    assert caught.value.exit_status == 78
    return str(caught.value).splitlines()


def only(text: str) -> str:
    """The one line with which a file is refused."""
    lines = refused(text)
    assert len(lines) == 1, lines
    return lines[0]


# -- what is read ---------------------------------------------------------------------------------------------------


def test_a_short_file_takes_the_defaults_of_the_dataclasses():
    site, warnings = checked(HARD)
    assert warnings == []
    assert site.guarantee is Guarantee.HARD
    assert site.actuation == IN_BAND
    assert site.domains[0].breaker == Breaker()
    assert site == replace(site, lease_s=10.0, tick_s=1.0, settle_s=2.0, enforce_s=1.0, stale_s=5.0, slo={})


def test_delays_left_out_are_those_of_the_path():
    text = REACTIVE.replace('"in-band"', '"out-of-band"\nlatency_s = 20')
    site, _ = checked(text)
    assert site.actuation == replace(OUT_OF_BAND, latency_s=20.0)


def test_every_value_of_a_full_file_arrives():
    text = (
        REACTIVE.replace(
            "budget_w = 220000.0", "peak_ratio = 0.79\n[domains.row.breaker]\npoints = [[1.1, 60], [2, 5]]"
        )
        + "failure_probability = 0.05\n[slo.high]\nttft_s = 5\ntpot_s = 0.2\n[timing]\nlease_s = 12\n"
        + "[policy.polca]\nt1 = 0.75\n"
    )
    site, _ = checked(text)
    assert site.domains[0].budget_w is None
    assert site.domains[0].peak_ratio == 0.79
    assert site.domains[0].breaker.points == ((1.1, 60.0), (2.0, 5.0))
    assert site.actuation.failure_probability == 0.05
    assert site.slo["high"].ttft_s == 5
    assert site.lease_s == 12
    assert site.policy == {"polca": {"t1": 0.75}}


def test_a_profile_path_is_looked_for_beside_the_site_file():
    text = HARD.replace('"dgx-a100__bloom-176b"', '"mine.toml"')
    site = parse_site(text, Path("/etc/overwatt/site.toml")).site
    assert site.servers[0].profile == "/etc/overwatt/mine.toml"


def test_defaults_that_the_documentation_shows_are_those_that_hold():
    site, _ = checked(HARD)
    for table in (site_tables.SiteTable, site_tables.TimingTable):
        for name, field in table.model_fields.items():
            if not field.is_required():
                assert field.get_default() == getattr(site, name), name
    breaker = site_tables.BreakerTable().model_dump()
    assert Breaker(**{**breaker, "points": tuple(map(tuple, breaker["points"]))}) == Breaker()


def test_every_field_of_a_site_can_be_set_in_the_file():
    known = {name for table in site_tables.TABLES.values() for name in table.model_fields}
    elsewhere = {"domains", "servers", "actuation", "slo", "policy", "workload"}
    assert {field.name for field in fields(Site)} - elsewhere <= known
    assert {field.name for field in fields(IN_BAND)} <= known
    assert {field.name for field in fields(Breaker)} <= known


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_are_accepted_without_a_warning(path: Path):
    found = read_site(path)
    assert found.check(found.site) == []
    assert found.site.name == path.stem


def test_the_configuration_page_is_up_to_date():
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == document(), "run: python -m daemon.config_docs > docs/configuration.md"


# -- unknown keys and wrong kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "count = 20",
            "cuont = 20\ncount = 20",
            "site.toml, line 11: servers[0].cuont: unknown key; did you mean count?",
        ),
        (
            'name = "here"',
            'name = "here"\nlease_s = 9',
            "site.toml, line 3: site.lease_s: unknown key; lease_s belongs in [timing]",
        ),
        ("budget_w", "bugdet_w", "site.toml, line 6: domains.row.bugdet_w: unknown key; did you mean budget_w?"),
        (
            "[actuation]",
            "[slo.medium]\nttft_s = 1\n[actuation]",
            "site.toml, line 22: slo.medium: unknown key; known here: high, low",
        ),
        ("[actuation]", "[timings]\n[actuation]", "site.toml, line 22: timings: unknown key; did you mean timing?"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_a_suggestion(old: str, new: str, line: str):
    assert line in refused(HARD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("count = 20", 'count = "20"', "site.toml, line 11: servers[0].count: must be a valid integer, not '20'"),
        ("count = 20", "count = 0", "site.toml, line 11: servers[0].count: must be greater than or equal to 1, not 0"),
        ("= 2800.0", "= -1.0", "site.toml, line 13: servers[0].failsafe_w: must be greater than 0, not -1.0"),
        ("= 2800.0", "= nan", "site.toml, line 13: servers[0].failsafe_w: must be a finite number, not nan"),
        ('"high"', '"mid"', "site.toml, line 12: servers[0].priority: must be 'high' or 'low', not 'mid'"),
        ("count = 20\n", "", "site.toml, line 8: servers[0].count: is missing"),
        (
            "[domains.row]",
            '[domains."r/w"]',
            "site.toml, line 4: domains.r/w: a name is made of letters, digits, '-' and '_'",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_line(old: str, new: str, line: str):
    assert line in refused(HARD.replace(old, new, 1))


def test_a_probability_above_one_is_refused():
    assert "actuation.failure_probability: must be less than or equal to 1" in only(
        HARD + "failure_probability = 1.5\n"
    )


def test_each_error_has_its_own_line():
    lines = refused(HARD.replace("count = 20", "count = 0").replace('"in-band"', '"by-pigeon"'))
    assert len(lines) == 3
    assert all(line.startswith("site.toml, line ") for line in lines)


def test_a_file_that_is_not_toml_names_the_line():
    assert only(HARD.replace("[actuation]", "[actuation")).startswith("site.toml, line 22: not valid TOML: ")


def test_an_empty_file_names_every_missing_table():
    assert refused("") == [f"site.toml: {key}: is missing" for key in ("site", "domains", "servers", "actuation")]


@given(st.text(max_size=200))
def test_any_text_is_a_site_or_a_config_error(text: str):
    with pytest.raises(ConfigError):
        parse_site(text, FILE)


@given(st.integers(0, len(HARD) - 1), st.integers(0, 60), st.text(alphabet='ab_= ."\n[]#0-', max_size=6))
def test_a_mutated_file_is_accepted_or_refused_in_whole_lines(start: int, length: int, inserted: str):
    lines: list[str] = []
    try:
        checked(HARD[:start] + inserted + HARD[start + length :])
    except ConfigError as error:
        lines = str(error).splitlines()
    assert all(line.startswith("site.toml") for line in lines)


# -- relations ------------------------------------------------------------------------------------------------------


def test_out_of_band_cannot_keep_the_hard_guarantee():
    line = only(HARD.replace('"in-band"', '"out-of-band"'))
    assert line.startswith("site.toml, line 23: actuation.path: out-of-band cannot keep the hard guarantee: ")
    assert "40 s commands cannot carry leases" in line


@pytest.mark.parametrize(
    ("timing", "said"),
    [
        (
            "lease_s = 2",
            "timing.lease_s: 2 must be at least 3 x tick_s = 3: "
            "otherwise two lost messages drop the fleet to its failsafe caps",
        ),
        ("stale_s = 1", "every sample is stale before the next one comes"),
        ("settle_s = 1", "a lowering is confirmed by watts read before it took hold"),
        ("enforce_s = 0.01", "servers still draw their old caps when their watts are handed out again"),
    ],
)
def test_times_that_cannot_work_are_refused_under_hard_and_a_warning_under_reactive(timing: str, said: str):
    addition = f"[timing]\n{timing}\n"
    assert said in only(HARD + addition)
    _, warnings = checked(REACTIVE + addition)
    assert len(warnings) == 1
    assert said in warnings[0]
    assert warnings[0].startswith("site.toml, line 26: timing.")


def test_another_tick_than_the_simulated_second_is_refused():
    assert "timing.tick_s: 2 must be 1" in only(REACTIVE + "[timing]\ntick_s = 2\n")


def test_failsafe_caps_above_the_budget_name_line_figure_and_remedy():
    text = HARD.replace("220000.0", "90000.0")
    line = only(text)
    assert line.startswith(
        "site.toml, line 6: domains.row.budget_w: the failsafe caps below add up to 112000 W, 22000 W above"
    )
    assert line.endswith("lower failsafe_w or raise budget_w")
    _, warnings = checked(REACTIVE.replace("220000.0", "90000.0"))
    assert len(warnings) == 1


def test_failsafe_caps_are_added_up_over_the_domains_below():
    text = HARD.replace(
        "[domains.row]", '[domains.site]\nlevel = "site"\nbudget_w = 90000\n\n[domains.row]\nparent = "site"'
    )
    assert "domains.site.budget_w: the failsafe caps below add up to 112000 W" in only(text)


def test_a_derived_budget_cannot_be_checked_and_check_config_says_so():
    site, warnings = checked(HARD.replace("budget_w = 220000.0", "peak_ratio = 0.79"))
    assert warnings == []
    pool = next(figure for figure in derived(site) if figure.name == "domains.row.pool_w")
    assert pool.value is None
    assert "cannot be checked before the run" in pool.meaning


def test_a_failsafe_cap_that_cannot_be_reached_names_the_lowest_that_can():
    line = only(HARD.replace("failsafe_w = 2800.0", "failsafe_w = 2000.0", 1))
    # 1,500 W beside the GPUs at most, and 8 x 1.02 x 400 W x (0.35 + 0.65 x (210 / 1410) ^ 1.48) in a long prompt.
    assert "servers[0].failsafe_w: 2000 W cannot be reached" in line
    assert "2769 W" in line


def test_an_overridden_other_w_keeps_the_margin_of_the_profile():
    line = only(HARD.replace("failsafe_w = 2800.0", "failsafe_w = 2800.0\nother_w = 2800", 1))
    assert "4369 W" in line


def test_a_failsafe_cap_above_the_nameplate_is_refused_whatever_the_guarantee():
    assert "above the server's nameplate of 6500 W" in only(REACTIVE.replace("= 2800.0", "= 7000.0", 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('domain = "row"', 'domain = "rwo"', "servers[0].domain: domain 'rwo' is not known; did you mean row?"),
        ('level = "row"', 'level = "row"\nparent = "hall"', "domains.row.parent: domain 'hall' is not known"),
        ('level = "row"', 'level = "row"\nparent = "row"', "otherwise feeds could form a circle"),
        ("bloom-176b", "blom-176b", "profile 'dgx-a100__blom-176b' is not known; did you mean dgx-a100__bloom-176b?"),
        ("budget_w = 220000.0", "", "neither budget_w nor peak_ratio is given"),
        ("budget_w = 220000.0", "budget_w = 220000.0\npeak_ratio = 0.79", "keep one"),
        (
            "[actuation]",
            '[domains.old]\nlevel = "row"\nbudget_w = 1e6\n[actuation]',
            "domains.old: no servers in this domain",
        ),
    ],
)
def test_a_tree_that_does_not_hold_together_is_refused(old: str, new: str, said: str):
    assert said in only(HARD.replace(old, new, 1))


def test_domains_that_feed_each_other_are_refused():
    text = HARD.replace('level = "row"', 'level = "row"\nparent = "rack"') + (
        '[domains.rack]\nlevel = "rack"\nparent = "row"\nbudget_w = 1e6\n'
    )
    assert any("a row cannot be fed by 'rack', which is a rack" in line for line in refused(text))


def test_a_site_without_servers_is_refused():
    head, _, tail = HARD.partition("[[servers]]")
    text = f"servers = []\n{head}[actuation]{tail.partition('[actuation]')[2]}"
    assert any("at least one server is needed" in line for line in refused(text))


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("[[1.5, 10], [1.2, 60]]", "loads must rise, but 1.2 follows 1.5"),
        ("[[1.1, 10], [1.2, 60]]", "times must not rise, but 60 s at 1.2 follows 10 s at 1.1"),
        ("[[0.9, 10]]", "0.9 is below the rating"),
        ("[[1.1]]", "must be [load over rating, seconds carried]"),
        ("[[1.1, 10, 3]]", "must be [load over rating, seconds carried]"),
    ],
)
def test_breaker_points_must_be_a_trip_curve(points: str, said: str):
    text = HARD.replace("[[servers]]", f"[domains.row.breaker]\npoints = {points}\n[[servers]]", 1)
    assert any(said in line and line.startswith("site.toml, line 9: ") for line in refused(text))


def test_a_brake_that_comes_after_the_breaker_is_said_with_both_times():
    breaker = "[domains.row.breaker]\npoints = [[1.0, 20.0], [1.1, 3.0]]\n[[servers]]"
    line = only(HARD.replace("[[servers]]", breaker, 1))
    assert "carries 1.18 x its rating for 3.0 s, but a brake is obeyed 7.05 s after an overload begins" in line


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("[policy.pocla]\nt1 = 0.8", "policy.pocla: policy 'pocla' is not known; did you mean polca?"),
        ("[policy.polca]\nT1 = 0.8", "policy.polca.T1: parameter 'T1' is not known"),
        ("[policy.polca]\nt1 = 0.95", "0 < t1 < t2 <= 1"),
        (
            "[policy.polca]\nhysteresis = 0.85",
            "hysteresis = 0.85 must be below t1 = 0.8: otherwise a cap is never lifted",
        ),
        ("[policy.polca]\nlow_t2_mhz = 1300", "low_t2_mhz = 1300 must be below low_t1_mhz = 1275"),
        ("[policy.fair-share]\nuncap_at = 0.95", "uncap_at = 0.95 must be below cap_at = 0.89"),
        ("[policy.fair-share]\ncap_at = 89", "89 must be a fraction of the budget, 0 to 1"),
        ("[policy.polca]\nlow_t1_mhz = -5", "-5 must be at least 0"),
    ],
)
def test_policy_parameters_are_checked(policy: str, said: str):
    assert any(said in line for line in refused(f"{HARD}{policy}\n"))


def test_an_unknown_workload_parameter_is_refused():
    line = only(f"{HARD}[workload.six-weeks]\nburst_taus_s = 3.0\n")
    assert line == "site.toml, line 25: workload.six-weeks.burst_taus_s: unknown parameter; did you mean burst_tau_s?"


def test_workload_parameters_are_checked_together():
    checked(f"{HARD}[workload.six-weeks]\nchat_prompt_min = 5000\nchat_prompt_max = 6000\n")
    line = only(f"{HARD}[workload.six-weeks]\nburst_tau_s = 50\nchat_prompt_min = 5000\n")
    assert line.startswith("site.toml, line 26: workload.six-weeks.chat_prompt_min: ")


# -- what follows ---------------------------------------------------------------------------------------------------


def figures(text: str) -> dict[str, float | None]:
    """Derived figures by name."""
    site, _ = checked(text)
    return {figure.name: figure.value for figure in derived(site)}


def test_derived_times_of_polcas_row_are_the_published_ones():
    found = figures((EXAMPLES / "polca-row.toml").read_text(encoding="utf-8"))
    # 2 s window + 2 s delay + 1 s tick, then 40 s for a cap and 5 s for the brake: just within the 10 s of the UPS.
    assert found["cap_obeyed_s"] == 45.0
    assert found["brake_obeyed_s"] == 10.0
    assert found["domains.row.brake_margin_s"] == 0.0
    assert "failsafe_s" not in found


def test_derived_watts_add_up():
    found = figures(HARD)
    assert found["domains.row.failsafe_sum_w"] == 40 * 2800.0
    assert found["domains.row.pool_w"] == 220_000.0 - 112_000.0
    assert found["domains.row.nameplate_sum_w"] == 40 * 6500.0
    assert found["failsafe_s"] == 11.0
    assert found["renewals_spare"] == 9


def test_a_breaker_that_is_never_overloaded_carries_without_end():
    assert figures(HARD.replace("220000.0", "260000.0"))["domains.row.breaker_carries_s"] is None


# -- lines ----------------------------------------------------------------------------------------------------------


def test_lines_are_found_through_headers_arrays_and_dotted_keys():
    text = 'a.b = 1\n[x]\n"q r" = 2\n[[s]]\nk = 1\n[[s]]\nk = 2\n[s.t]\nu = 3\n'
    assert line_of(text, ("a", "b")) == 1
    assert line_of(text, ("x", "q r")) == 3
    assert line_of(text, ("s", 0, "k")) == 5
    assert line_of(text, ("s", 1, "k")) == 7
    assert line_of(text, ("s", 1, "t", "u")) == 9
    assert line_of(text, ("s", 1, "nothing")) == 6
    assert line_of(text, ("nowhere",)) is None
    assert spelled(("s", 1, "t", "u")) == "s[1].t.u"


def test_a_variant_of_the_site_still_names_lines_of_the_file():
    found: SiteDocument = parse_site(REACTIVE.replace('"in-band"', '"out-of-band"'), FILE)
    with pytest.raises(ConfigError, match=r"site\.toml, line 24: actuation\.path: "):
        found.check(replace(found.site, guarantee=Guarantee.HARD))


def test_the_named_curves_of_the_file_are_those_that_exist():
    assert set(get_args(site_tables.Curve)) == {POINTS, *NAMED}


def test_a_named_curve_and_points_of_ones_own_exclude_each_other():
    text = '[domains.row.breaker]\ncurve = "ul-489"\npoints = [[1.1, 9.0]]\n[[servers]]'
    assert any("brings its own times" in line for line in refused(HARD.replace("[[servers]]", text, 1)))


def test_a_ups_beside_the_breaker_counts_where_it_is_tighter():
    text = '[domains.row.breaker]\npoints = [[1.0, 9999.0]]\n[domains.row.ups]\ncurve = "ul-489"\n[[servers]]'
    assert "for 0.0 s, but a brake" in only(HARD.replace("[[servers]]", text, 1))


def test_a_hot_room_shows_in_the_derived_figures():
    text = "[domains.row.breaker]\nambient_c = 50.0\nreference_c = 40.0\nderating_per_k = 0.005\n[[servers]]"
    found = figures(HARD.replace("[[servers]]", text, 1))
    assert found["domains.row.breaker_derated_ratio"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("role", "serving", "said"),
    [
        ('role = "prompt"', "", "they need servers for the other phase"),
        ('role = "token"', "", "kv_bytes_per_token: is missing"),
        ("", "[serving]\ncached_share = 0.2\n", 'needs batching = "chunked"'),
    ],
)
def test_phases_apart_need_each_other_and_what_moves_between_them(role: str, serving: str, said: str):
    text = HARD.replace("[[servers]]", f"{serving}[[servers]]\n{role}", 1)
    if role == 'role = "token"':
        text = text.replace("[[servers]]", '[[servers]]\nrole = "prompt"').replace('role = "prompt"\nrole', "role", 1)
    assert any(said in line for line in refused(text))


def test_a_profile_may_be_put_together_from_cards():
    text = HARD.replace("dgx-a100__bloom-176b", "dgx-a100__llama-3.1-70b__vllm-0.5").replace("2800.0", "3300.0")
    assert parse_site(text, FILE).check(parse_site(text, FILE).site) == []


def test_a_card_that_is_not_there_is_named():
    text = HARD.replace("dgx-a100__bloom-176b", "dgx-a100__no-such-model__vllm-0.5")
    assert any("no-such-model" in line for line in refused(text))
