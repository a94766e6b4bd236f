import dataclasses
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from policies.errors import ConfigError
from policies.models.gpu_power import clock_factor
from policies.models.latency import decode_s, prefill_s
from sim_backend.calibration.fit_report import report_text
from sim_backend.calibration.fits import Fit, nonnegative_fit, ramp_fit, relative_errors, rounded
from sim_backend.calibration.hardware import HARDWARE, LLMS, Fact
from sim_backend.calibration.profile_text import profile_text
from sim_backend.profile import SECTIONS, SHIPPED, WHOLE, Profile, load_profile, parse_profile, shipped_names

NAMES = ("dgx-a100__bloom-176b", "dgx-a100__llama2-70b", "dgx-h100__bloom-176b", "dgx-h100__llama2-70b")


@pytest.fixture
def text() -> str:
    return (SHIPPED / f"{NAMES[0]}.toml").read_text()


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, where="site/my.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("site/my.toml")
    return message


def test_the_four_profiles_are_shipped() -> None:
    assert shipped_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_loads_under_its_own_name(name: str) -> None:
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_shipped_profile_has_a_source(name: str) -> None:
    profile = load_profile(name)
    # These are given by what puts a profile together from cards, not by a file.
    composed = {"iteration", "server", "limiter_s"}
    numbers = {f.name for f in dataclasses.fields(Profile)} - {"name", "provenance"} - composed
    assert (profile.iteration, profile.server, profile.limiter_s) == (None, None, 0.0)
    assert numbers == {field for keys in SECTIONS.values() for field in keys.values()}
    assert all(len(profile.provenance[number]) > 10 for number in numbers)
    assert "overwatt calibrate" in profile.provenance["command"]


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_are_ints_and_all_others_floats(name: str) -> None:
    profile = load_profile(name)
    for keys in SECTIONS.values():
        for field in keys.values():
            assert type(getattr(profile, field)) is (int if field in WHOLE else float), field


@pytest.mark.parametrize("name", NAMES)
def test_guesses_are_marked_as_unverified(name: str) -> None:
    provenance = load_profile(name).provenance
    for field in ("overshoot_ratio", "other_max_w", "decode_clock_share"):
        assert provenance[field].startswith("unverified"), field


@pytest.mark.parametrize("name", ["dgx-h100__bloom-176b", "dgx-h100__llama2-70b"])
def test_h100_power_is_said_to_be_unmeasured(name: str) -> None:
    profile = load_profile(name)
    for field in ("idle_w", "prefill_ceiling", "decode_ratio"):
        assert "never measured" in profile.provenance[field], field
    assert "prefill_power.fit" not in profile.provenance
    assert (profile.idle_w, profile.prefill_ceiling * profile.tdp_w) == (75.0, 700.0)
    assert profile.decode_ratio * profile.tdp_w == pytest.approx(380.0, abs=0.1)


def test_kv_memory_of_bloom_is_the_arithmetic_shown() -> None:
    expected = (8 * 80e9 * 0.9 - 2 * 176e9) / (2 * 70 * 14336 * 2)
    profile = load_profile("dgx-a100__bloom-176b")
    assert profile.kv_tokens == int(expected) == 55_803
    assert "224e9 / 4014080 = 55803" in profile.provenance["kv_tokens"]


def test_kv_memory_of_llama_counts_grouped_queries() -> None:
    expected = (8 * 80e9 * 0.9 - 2 * 70e9) / (2 * 80 * 8 * 128 * 2)
    assert load_profile("dgx-a100__llama2-70b").kv_tokens == int(expected) == 1_330_566


def test_the_clock_law_goes_through_polcas_point() -> None:
    profile = load_profile("dgx-a100__bloom-176b")
    for phase in ("prefill", "decode"):
        share, exponent = getattr(profile, f"{phase}_static_share"), getattr(profile, f"{phase}_exponent")
        assert clock_factor(1100.0 / 1410.0, share, exponent) == pytest.approx(0.80, abs=0.001)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_request_loses_about_what_polca_says_at_1100_mhz(name: str) -> None:
    p = load_profile(name)
    in_prefill_s = prefill_s(1020.0, p.prefill_base_s, p.prefill_per_token_s, p.prefill_per_token2_s)
    in_decode_s = 129 * decode_s(1.0, 1084.5, p.decode_base_s, p.decode_per_request_s, p.decode_per_context_s)
    stretch = 1410.0 / 1100.0 - 1.0
    bound_s = p.prefill_clock_share * in_prefill_s + p.decode_clock_share * in_decode_s
    assert stretch * bound_s / (in_prefill_s + in_decode_s) == pytest.approx(0.07, abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_an_h100_is_faster_than_an_a100(name: str) -> None:
    fast, slow = load_profile(name.replace("a100", "h100")), load_profile(name.replace("h100", "a100"))
    for tokens in (128.0, 512.0, 2048.0, 8192.0):
        times_s = [
            prefill_s(tokens, p.prefill_base_s, p.prefill_per_token_s, p.prefill_per_token2_s) for p in (fast, slow)
        ]
        assert times_s[0] < times_s[1]


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="dgx-a100__bloom-176b, dgx-a100__llama2-70b"):
        load_profile("dgx-b200__gpt")


def test_a_name_cannot_reach_outside_the_shipped_folder() -> None:
    with pytest.raises(ConfigError, match=r"must end in \.toml"):
        load_profile("../profiles/dgx-a100__bloom-176b")


def test_a_profile_can_be_the_operators_own_file(tmp_path: Path, text: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text.replace(NAMES[0], "own").replace("idle_w = 70.0", "idle_w = 66.5"))
    profile = load_profile(str(own))
    assert (profile.name, profile.idle_w) == ("own", 66.5)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile(str(tmp_path / "absent.toml"))


def test_a_file_that_is_not_text_is_a_config_error(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile(str(own))


def test_a_syntax_error_names_its_line(text: str) -> None:
    assert "line 4" in refused(text.replace('command = "', "command = ", 1))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("idle_w = 70.0\n", "", "[gpu]: 'idle_w' is missing"),
        ("idle_w = 70.0\n", "idle_w = 70.0\nidel_w = 60\n", "[gpu]: unknown key 'idel_w'"),
        ("[gpu]\n", "[gpus]\n", "unknown key 'gpus'"),
        ("idle_w = 70.0\n", "idle_w = nan\n", "idle_w = nan is outside"),
        ("idle_w = 70.0\n", "idle_w = -1\n", "idle_w = -1 is outside"),
        ("idle_w = 70.0\n", "idle_w = true\n", "idle_w = True must be a number"),
        ("idle_w = 70.0\n", 'idle_w = "70"\n', "idle_w = '70' must be a number"),
        ("idle_w = 70.0\n", "idle_w = 401.0\n", "an idle GPU would draw more than a full one"),
        ("other_w = 1200.0\n", "other_w = 1600.0\n", "a cap derived from other_max_w would not hold the server"),
        ("min_mhz = 210.0\n", "min_mhz = 2100.0\n", "no clock could be set"),
        ("gpus = 8\n", "gpus = 8.0\n", "gpus = 8.0 must be a whole number"),
        ("gpus = 8\n", "gpus = 0\n", "gpus = 0 is outside 1 .. 1024"),
        ("clock_share = 1.0\n", "clock_share = 1.1\n", "clock_share = 1.1 is outside 0 .. 1"),
        ("points = 11\n", "points = 11\nnotes = 1\n", "unknown key 'notes'"),
        ('name = "dgx-a100__bloom-176b"\n', "", "name is missing"),
        ('name = "dgx-a100__bloom-176b"\n', "name = 3\n", "name is missing"),
    ],
)
def test_a_wrong_number_is_refused_with_its_place(text: str, old: str, new: str, told: str) -> None:
    assert old in text
    assert told in refused(text.replace(old, new, 1))


def test_a_number_without_a_source_is_refused(text: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith('idle_w = "')]
    assert "[gpu.source]: 'idle_w' is missing" in refused("\n".join(lines))


def test_an_empty_source_is_refused(text: str) -> None:
    lines = ['idle_w = " "' if line.startswith('idle_w = "') else line for line in text.splitlines()]
    assert "must be a text" in refused("\n".join(lines))


def test_a_default_source_stands_for_what_has_none(text: str) -> None:
    profile = parse_profile(text, where="here")
    assert profile.provenance["decode_base_s"] == profile.provenance["decode_per_request_s"]
    assert profile.provenance["decode_clock_share"] != profile.provenance["decode_base_s"]


def test_a_default_source_is_refused_among_single_facts(text: str) -> None:
    assert "[gpu.source]: unknown key 'default'" in refused(
        text.replace("[gpu.source]\n", '[gpu.source]\ndefault = "x"\n')
    )


def test_a_section_that_is_no_table_is_refused(text: str) -> None:
    cut = text[: text.index("[gpu]")] + "gpu = 1\n" + text[text.index("[server]") :]
    assert "gpu must be a table" in refused(cut)


def test_other_watts_given_by_a_site_keep_the_margin() -> None:
    profile = load_profile("dgx-a100__bloom-176b")
    other = profile.with_other_w(2800.0)
    assert (other.other_w, other.other_max_w) == (2800.0, 3100.0)
    assert other.idle_w == profile.idle_w
    assert other.provenance["other_w"] == "given by the operator"


@pytest.mark.parametrize("other_w", [-1.0, math.nan, math.inf, 6201.0])
def test_other_watts_that_leave_nothing_for_gpus_are_refused(other_w: float) -> None:
    with pytest.raises(ConfigError, match="nothing of the nameplate"):
        load_profile("dgx-a100__bloom-176b").with_other_w(other_w)


def test_profiles_can_be_compared_and_hashed() -> None:
    assert len({load_profile(name) for name in (*NAMES, *NAMES)}) == len(NAMES)


def test_every_shipped_pair_is_a_known_hardware_and_model() -> None:
    assert set(shipped_names()) == {f"{hardware}__{model}" for hardware in HARDWARE for model in LLMS}


def test_text_of_a_profile_parses_back_to_its_numbers() -> None:
    tree = tomllib.loads((SHIPPED / f"{NAMES[0]}.toml").read_text())
    profile = load_profile(NAMES[0])
    facts = {
        section: {key: Fact(tree[section][key], profile.provenance[target]) for key, target in keys.items()}
        for section, keys in SECTIONS.items()
    }
    again = parse_profile(profile_text(NAMES[0], "overwatt calibrate", facts, {}), where="here")
    assert again == profile
    assert {k: v for k, v in again.provenance.items() if k in {"idle_w", "decode_exponent"}} == {
        k: profile.provenance[k] for k in ("idle_w", "decode_exponent")
    }


def test_a_fit_finds_the_coefficients_that_made_the_points() -> None:
    x = np.array([1.0, 2.0, 5.0, 9.0, 40.0])
    columns = np.column_stack([np.ones_like(x), x, x**2])
    assert nonnegative_fit(columns, columns @ [3.0, 0.5, 0.01]) == pytest.approx((3.0, 0.5, 0.01))


def test_a_fit_never_gives_a_negative_coefficient() -> None:
    x = np.array([1.0, 2.0, 5.0, 9.0])
    fitted = nonnegative_fit(np.column_stack([np.ones_like(x), x]), 10.0 - x)
    assert fitted[1] == 0.0
    assert fitted[0] > 0.0


def test_a_ramp_fit_finds_start_slope_and_ceiling_in_any_order_of_points() -> None:
    octaves = np.array([6.0, 0.0, 4.0, 1.0, 5.0, 2.0, 3.0])
    ratio = np.minimum(0.6 + 0.1 * octaves, 0.95)
    assert ramp_fit(octaves, ratio) == pytest.approx((0.6, 0.1, 0.95))


def test_a_ramp_fit_of_a_flat_line_is_flat() -> None:
    start, slope, ceiling = ramp_fit(np.arange(5.0), np.full(5, 0.7))
    assert [start, slope, ceiling] == pytest.approx([0.7, 0.0, 0.7], abs=1e-9)


def test_errors_are_relative_to_what_was_measured() -> None:
    assert relative_errors(np.array([1.1, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])) == (0.1, 0.25)


def test_fitted_numbers_keep_four_digits() -> None:
    assert rounded(0.000190952136) == 0.000191
    assert Fit((1.0,), 3, 0.01, 0.02).points == 3


def test_a_report_without_profiles_still_has_its_notes() -> None:
    assert "What to know" in report_text(())
