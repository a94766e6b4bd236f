"""Same seed, same bytes: again, in several processes, in another interpreter; another seed gives others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import cli
from tests.twin.small_site import WaveSource, write_trace

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SITES = {"out-of-band": "polca-row.toml", "hard": "polca-row-in-band.toml"}
POLICIES = "no-cap,polca,polca-online,fair-share"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example sites with six servers instead of forty, and a trace of five minutes."""
    folder = tmp_path_factory.mktemp("determinism")
    for name in SITES.values():
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert text.count("count = 20") == 2
        text = text.replace("failure_probability = 0.0", "failure_probability = 0.05")
        (folder / name).write_text(text.replace("count = 20", "count = 3"), encoding="utf-8")
    write_trace(folder / "trace.csv", WaveSource(((60.0, 0.2), (180.0, 1.5), (60.0, 0.2))))
    return folder


def arguments(folder: Path, site: str, requests: str, out: Path, *more: str) -> list[str]:
    trace = requests if requests == "six-weeks" else str(folder / requests)
    days = ["--days", "0.005", "--start-day", "20.5"] if requests == "six-weeks" else []
    chosen = ["--requests", trace, "--site", str(folder / SITES[site]), "--policy", POLICIES]
    return ["replay", *chosen, "--add-servers", "0,50", *days, "--json", str(out), *more]


def written(folder: Path, site: str, requests: str, *more: str) -> bytes:
    """The JSON of a replay in this process."""
    out = folder / "out.json"
    assert cli.run(arguments(folder, site, requests, out, *more)) == 0
    return out.read_bytes()


CASES = pytest.mark.parametrize(
    ("site", "requests"), [("out-of-band", "trace.csv"), ("hard", "trace.csv"), ("out-of-band", "six-weeks")]
)


@CASES
def test_the_same_seed_gives_the_same_bytes_again_and_another_seed_others(site: str, requests: str, folder: Path):
    first = written(folder, site, requests)
    assert written(folder, site, requests) == first
    other = written(folder, site, requests, "--seed", "2")
    assert other.replace(b'"seed": 2', b'"seed": 1').replace(b"--seed 2", b"--seed 1") != first


@CASES
def test_several_processes_and_another_interpreter_give_the_same_bytes(site: str, requests: str, folder: Path):
    here = written(folder, site, requests)
    out = folder / "elsewhere.json"
    # Another interpreter hashes texts differently and has met nothing before.
    environment = {**os.environ, "PYTHONHASHSEED": "17"}
    command = [sys.executable, "-m", "daemon.cli", *arguments(folder, site, requests, out, "--processes", "2")]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, timeout=300)
    assert out.read_bytes() == here


def test_the_command_in_the_report_gives_the_same_bytes(folder: Path):
    import json
    import shlex

    first = written(folder, "out-of-band", "trace.csv", "--rate", "1.25", "--seed", "5")
    words = shlex.split(json.loads(first)["header"]["command"])
    assert words[0] == "overwatt"
    out = folder / "again.json"
    assert cli.run([*words[1:], "--json", str(out)]) == 0
    assert out.read_bytes() == first
