import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sim_backend.report import html_out, packed
from sim_backend.report.facts import facts, seconds_text
from sim_backend.result import LatencyCurve, ReplayResult, RunResult
from tests.twin.fake_result import fake_header, fake_result, fake_run

ASSETS = Path(html_out.__file__).parent / "assets"
SMALL = fake_result((0.0, 30.0), ("no-cap", "polca"), bins=600)
EVIL = "</script><script>alert(1)</script><b title=\"'&"


class Elements(HTMLParser):
    """Every tag with its attributes, and the text inside script and style."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inside = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in self.texts:
            self.texts[self.inside][-1] += data


def content_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_vendored_files_are_those_that_were_published() -> None:
    lines = (ASSETS / "SHA256SUMS").read_text().splitlines()
    sums = {line.split()[1]: line.split()[0] for line in lines if not line.startswith("#")}
    assert set(sums) == {"LICENSE-uPlot", "uPlot.iife.min.js", "uPlot.min.css"}
    for name, expected in sums.items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == expected, name


def test_the_page_fetches_nothing() -> None:
    page = Elements(html_out.render(SMALL))
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "srcset", "href", "action", "style", "onclick"} & attributes.keys(), (tag, attributes)
    assert not re.search(r"@import|url\(", "".join(page.texts["style"]))


def test_the_content_policy_allows_this_very_code_and_no_network() -> None:
    page = Elements(html_out.render(SMALL))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    scripts = [text for text, (_, a) in zip(page.texts["script"], _tags(page, "script"), strict=True) if not a]
    for text in [*scripts, *page.texts["style"]]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert len(scripts) == 3


def _tags(page: Elements, name: str) -> list[tuple[str, dict[str, str | None]]]:
    return [(tag, attributes) for tag, attributes in page.tags if tag == name]


def test_names_from_files_cannot_become_code() -> None:
    run = replace(fake_run("polca", 0.0, bins=5), policy=EVIL, figures={EVIL: EVIL, "brakes": 0})
    header = fake_header() | {"site": EVIL, "command": EVIL, EVIL: EVIL}
    page = html_out.render(ReplayResult(header, (run,)))
    assert "alert(1)</script>" not in page
    assert len(re.findall(r"<script", page)) == 4
    assert content_of(page)["runs"][0]["facts"][EVIL] == EVIL


def test_the_same_result_gives_the_same_page() -> None:
    assert html_out.render(SMALL) == html_out.render(fake_result((0.0, 30.0), ("no-cap", "polca"), bins=600))


def test_forty_runs_stay_small() -> None:
    result = fake_result((0.0, 10.0, 20.0, 30.0), bins=1500)
    assert len(result.runs) == 40
    assert len(html_out.render(result).encode()) < 3_000_000


def test_words_and_signs_carry_the_verdict_beside_the_colour() -> None:
    page = html_out.render(SMALL)
    assert "✓ holds" in page
    assert "✕ fails" in page
    runs = content_of(page)["runs"]
    assert [run["verdict"] for run in runs[:2]] == ["✓ Within every limit.", "✕ Outside the limits: brakes."]


def test_the_page_opens_with_the_most_that_was_held() -> None:
    page = Elements(html_out.render(SMALL))
    chosen = next(a["data-chosen"] for t, a in page.tags if t == "select")
    run = SMALL.runs[int(chosen or -1)]
    assert (run.policy, run.add_servers_pct) == ("polca", 30.0)


def test_the_page_says_how_to_make_it_again() -> None:
    page = html_out.render(SMALL)
    assert "overwatt replay --requests six-weeks" in page
    assert "numba 0.68.1" in page
    assert "peak of the uncapped fleet before servers are added / 0.79" in page


@pytest.mark.parametrize(
    "runs",
    [
        (),
        (RunResult("polca", 0.0, 40, "in-band", "hard", {}),),
        (replace(fake_run("polca", 0.0, bins=5), latency={}, latency_uncapped={}),),
        (replace(fake_run("polca", 0.0, bins=5), latency_uncapped={}),),
    ],
)
def test_a_run_that_lacks_something_still_has_a_page(runs: tuple[RunResult, ...]) -> None:
    content = content_of(html_out.render(ReplayResult({}, runs)))
    assert len(content["runs"]) == len(runs)


def test_a_policy_with_thresholds_of_its_own_is_drawn_against_them() -> None:
    run = fake_run("polca-online", 0.0, bins=5)
    run = replace(run, figures={**run.figures, "t2_ratio": 0.86})
    content = content_of(html_out.render(ReplayResult(fake_header(), (run,))))
    assert (content["runs"][0]["t1"], content["runs"][0]["t2"]) == (0.80, 0.86)


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    html_out.write(SMALL, tmp_path / "out.html")
    assert (tmp_path / "out.html").read_text() == html_out.render(SMALL)


def unpacked_w(text: str, step_w: float) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(text), "<u2")
    return np.where(steps == packed.STEPS, np.nan, steps * step_w)


def test_packed_power_comes_back_within_a_step() -> None:
    series = fake_run("no-cap", 30.0, bins=300).series
    assert series is not None
    series.worst_meter_w[0] = np.nan
    found = packed.power(series)
    step_w = found["step_w"]
    assert isinstance(step_w, float)
    assert step_w < 5.0
    for key, values in (("low", series.low_w), ("high", series.high_w), ("worst_meter", series.worst_meter_w)):
        text = found[key]
        assert isinstance(text, str)
        np.testing.assert_allclose(unpacked_w(text, step_w), values, atol=step_w)


def test_a_single_capped_server_and_a_brake_survive_packing() -> None:
    series = fake_run("no-cap", 0.0, bins=10).series
    assert series is not None
    series.capped_share[:] = 0.0
    series.capped_share[3] = 0.001
    series.braked[4] = True
    text = packed.power(series)["caps"]
    assert isinstance(text, str)
    assert list(base64.b64decode(text)[2:6]) == [0, 1, packed.BRAKED_BIT, 0]


def test_folding_bins_keeps_every_extreme() -> None:
    series = fake_run("no-cap", 50.0, bins=5003).series
    assert series is not None
    few = packed.merged(series, 1500)
    assert few.mean_w.size <= 1500
    assert few.bin_s == series.bin_s * 4
    assert few.high_w.max() == series.high_w.max()
    assert few.low_w.min() == series.low_w.min()
    assert few.braked.any() == series.braked.any()
    np.testing.assert_allclose(few.mean_w[:-1], series.mean_w[:5000].reshape(-1, 4).mean(axis=1))


def test_packed_distributions_keep_median_and_tail() -> None:
    value_s = np.geomspace(0.1, 10.0, 2001)
    share = np.linspace(0.0, 1.0, 2001)
    curve = LatencyCurve(value_s, share)
    other = LatencyCurve(value_s * 2.0, share)
    run = replace(
        fake_run("polca", 0.0, bins=5), latency={"high": {"e2e_s": curve}}, latency_uncapped={"high": {"e2e_s": other}}
    )
    (found,) = packed.latency(run)
    assert (found["priority"], found["metric"]) == ("high", "e2e_s")
    x = np.frombuffer(base64.b64decode(str(found["value_s"])), "<f4")
    for name, median_s in (("run", 1.0), ("uncapped", 2.0)):
        steps = np.frombuffer(base64.b64decode(str(found[name])), "<u2") / packed.STEPS
        odds = packed.LEAST_ODDS + steps * (packed.MOST_ODDS - packed.LEAST_ODDS)
        assert np.interp(0.0, odds, x) == pytest.approx(median_s, rel=0.01)
        assert np.interp(np.log10(0.99 / 0.01), odds, x) == pytest.approx(median_s * 10**0.98, rel=0.01)


def test_a_zero_or_missing_latency_does_not_break_the_logarithm() -> None:
    curve = LatencyCurve(np.array([0.0, 0.5, np.nan]), np.array([0.2, 0.9, 1.0]))
    run = replace(fake_run("polca", 0.0, bins=5), latency={"low": {"tbt_s": curve}}, latency_uncapped={})
    (found,) = packed.latency(run)
    assert found["uncapped"] is None
    assert np.isfinite(np.frombuffer(base64.b64decode(str(found["value_s"])), "<f4")).all()


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0, "0 s"),
        (0.0412, "41.2 ms"),
        (1.0, "1 s"),
        (90.0, "90 s"),
        (7200.0, "2 h"),
        (86400.0 * 3, "3 d"),
        (2e-5, "0.02 ms"),
    ],
)
def test_durations_are_written_in_a_unit_that_suits_them(value_s: float, text: str) -> None:
    assert seconds_text(value_s).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"peak_over_budget": 0.964}, "96.40 %"),
        ({"capped_s": {"low": 7200.0}}, "2 h"),
        ({"energy_j": 3.6e9}, "1 MWh (3.6 GJ)"),
        ({"latency_change_pct": {"high": {"p50": 0.5}}}, "+0.50 %"),
        ({"latency_change_detail_pct": {"high": {"ttft_s": {"p50": 0.5}}}}, "+0.50 %"),
        ({"latency": {"high": {"e2e_s": {"p99": 0.25}}}}, "250 ms"),
        ({"requests": {"arrived": 1_234_567}}, "1 234 567"),
        ({"overload_left_min_s": None}, "none"),
        ({"throughput_tokens_per_s": {"high": 1290.7}}, "1 290.7 tokens/s"),
        ({"goodput_rps": {"high": 0.5}}, "0.500 /s"),
        ({"rise_2s_points": 9.0}, "9.00 points"),
        ({"breaker_heat_max_ratio": 0.25}, "0.250"),
        ({"slo_attainment_ratio": {"low": 0.99}}, "99.00 %"),
        ({"seed": 20260101}, "20260101"),
        ({"unheard_of": 0.1234567}, "0.1235"),
    ],
)
def test_every_figure_is_written_with_the_unit_of_its_key(figures: dict[str, object], text: str) -> None:
    ((_, written),) = facts(RunResult("p", 0.0, 1, "in-band", "hard", figures)).values()
    assert written.replace("\N{NO-BREAK SPACE}", " ") == text
