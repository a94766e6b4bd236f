"""The report in a real browser: it draws, it switches runs, it fits a phone, it asks the network for nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sim_backend.report import html_out
from tests.twin.fake_result import fake_result

if TYPE_CHECKING:
    from typing import Literal

    from playwright.sync_api import Browser

    Scheme = Literal["light", "dark"]

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="tier browser: install the dev extra, which has playwright"
)
CHROMIUM = shutil.which("chromium")
WIDE, PHONE = 1400, 360


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    if CHROMIUM is None:
        pytest.skip("tier browser: install chromium (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        # Tests run as root in containers, where the sandbox of chromium cannot start.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    html_out.write(fake_result((0.0, 30.0), ("no-cap", "polca"), bins=600), path)
    return path


class Opened:
    """A page, what it complained of and what it asked for."""

    def __init__(self, browser: "Browser", report: Path, width: int, scheme: "Scheme") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_selector("html[data-shown]")


@pytest.fixture
def opened(browser: "Browser", report: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    screen: tuple[int, Scheme] = getattr(request, "param", (WIDE, "light"))
    one = Opened(browser, report, *screen)
    yield one
    one.context.close()


# Counts the pixels of a canvas that something was drawn on.
INKED = """canvas => {
  const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let i = 3; i < bytes.length; i += 4) if (bytes[i]) inked++;
  return inked;
}"""


@pytest.mark.parametrize("opened", [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")], indirect=True)
def test_every_chart_is_drawn_without_complaint_or_network(opened: Opened, report: Path) -> None:
    canvases = opened.page.query_selector_all("canvas")
    assert len(canvases) == 4 + 6
    assert all(canvas.evaluate(INKED) > 1_000 for canvas in canvases)
    assert opened.complaints == []
    assert opened.asked == [report.as_uri()]


@pytest.mark.parametrize("opened", [(PHONE, "light"), (WIDE, "light")], indirect=True)
def test_the_page_is_never_wider_than_the_screen(opened: Opened) -> None:
    widths = opened.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] == widths[1]


def test_choosing_a_run_shows_it_without_loading_anything(opened: Opened) -> None:
    page = opened.page
    before = page.inner_text("#verdict"), page.inner_text("#facts")
    page.select_option("#run", "1")
    assert page.inner_text("#verdict") == "✕ Outside the limits: brakes."
    assert (page.inner_text("#verdict"), page.inner_text("#facts")) != before
    assert page.url.endswith("#run=1")
    assert len(page.query_selector_all("canvas")) == 10
    assert len(opened.asked) == 1


def test_a_cell_of_the_matrix_and_the_arrows_choose_too(opened: Opened) -> None:
    page = opened.page
    page.click('.cell[data-run="2"]')
    assert page.input_value("#run") == "2"
    assert page.get_attribute('.cell[data-run="2"]', "aria-pressed") == "true"
    page.click("#after")
    assert page.input_value("#run") == "3"
    page.click("#before")
    page.click("#before")
    assert page.input_value("#run") == "1"


def test_zooming_the_power_zooms_the_caps_below_it(opened: Opened) -> None:
    page = opened.page
    shot = page.locator("#caps canvas").screenshot()
    box = page.locator("#power .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 40, steps=4)
    page.mouse.up()
    page.mouse.move(0, 0)
    assert page.locator("#caps canvas").screenshot() != shot


def test_dark_and_light_differ_and_follow_a_change(opened: Opened) -> None:
    page = opened.page
    light = page.locator("#power canvas").screenshot()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert page.locator("#power canvas").screenshot() != light
    assert opened.complaints == []


def test_the_content_policy_stops_a_request(opened: Opened) -> None:
    outcome = opened.page.evaluate("fetch('https://example.org/').then(() => 'fetched', () => 'refused')")
    assert outcome == "refused"
    assert any("Content Security Policy" in text for text in opened.complaints)
