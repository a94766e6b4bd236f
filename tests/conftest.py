"""What every tier shares: where the recordings are, which tiers can run here, and what a skipped test counts for."""

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

NO_SKIPS = os.environ.get("OVERWATT_NO_SKIPS") == "1"
"""Set where every tier must run: a test that is skipped there has proved nothing, so it fails."""
RECORDINGS = os.environ.get("OVERWATT_DATA")
DEFAULT_SEED = 7

# The same examples in every run, so that a failure seen once is seen again; `--hypothesis-profile=search` looks for new
# ones. The time of one example says little on a busy machine: the test as a whole has a limit instead.
settings.register_profile("repeat", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("repeat"), derandomize=False, max_examples=2_000)
settings.load_profile("repeat")


def missing_tiers() -> dict[str, str]:
    """Markers whose tests cannot run here, each with what to do about it."""
    missing = {}
    if not RECORDINGS:
        missing["data"] = "tier data: set OVERWATT_DATA to a folder made as docs/data.md says"
    elif not Path(RECORDINGS).is_dir():
        missing["data"] = f"tier data: OVERWATT_DATA={RECORDINGS} is not a folder"
    if shutil.which("chromium") is None:
        missing["browser"] = "tier browser: install chromium (Debian: apt install chromium)"
    return missing


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own tests."""
    parser.addoption(
        "--rewrite", action="store_true", help="write the transcripts of tests/scenarios again; read the diff"
    )
    parser.addoption("--seed", type=int, default=None, help="of tests/simulation: only its storm; default: all")


def pytest_report_header(config: pytest.Config) -> str:
    """Name the seed that makes a storm again."""
    seed = config.getoption("--seed")
    storms = "the suite of storms" if seed is None else f"--seed {seed}"
    return f"overwatt: {storms}, recordings {'found' if RECORDINGS else 'not given'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tiers that cannot run here, saying so."""
    for marker, reason in missing_tiers().items():
        for item in items:
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be left out, a skipped test is a failed one."""
    report = yield
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and OVERWATT_NO_SKIPS=1 forbids it: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself whole."""
    report = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid} was skipped, and OVERWATT_NO_SKIPS=1 forbids it: {_reason(report.longrepr)}"
        )
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which nothing ran is no success."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus != pytest.ExitCode.OK or session.config.getoption("collectonly"):
        return
    if not reporter.stats.get("passed"):
        reporter.ensure_newline()
        reporter.write_line("no test ran", red=True)
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def _reason(longrepr: object) -> str:
    """Why a test was skipped: the last member of what pytest keeps about it."""
    return str(longrepr[-1]) if isinstance(longrepr, tuple) else str(longrepr)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder with the public recordings; only tests marked `data` may ask for it."""
    if not RECORDINGS:
        pytest.skip("tier data: set OVERWATT_DATA to a folder made as docs/data.md says")
    return Path(RECORDINGS)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of a simulation; `--seed` chooses another, the header of the run names it."""
    value: int | None = request.config.getoption("--seed")
    return DEFAULT_SEED if value is None else value


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether transcripts are to be written again instead of compared."""
    value: bool = request.config.getoption("--rewrite")
    return value
