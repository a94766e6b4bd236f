"""The command as a user meets it: bad input gives one clear line, an exit status, and nothing half-written."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from policies import POLICIES

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "docs" / "examples"
OVERWATT = (sys.executable, "-m", "daemon.cli")
GOOD = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)


def overwatt(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*OVERWATT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )


def replay(trace: object, tmp_path: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Replay `trace` with both outputs in `tmp_path`."""
    outputs = "--json", tmp_path / "out.json", "--html", tmp_path / "out.html"
    site = EXAMPLES / "work-w.toml"
    return overwatt("replay", "--requests", trace, "--site", site, "--policy", "polca", *outputs, *more)


def assert_one_line(done: subprocess.CompletedProcess[str], status: int, *said: object) -> None:
    """Refused in one line that holds all of `said`."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("overwatt: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for text in said:
        assert str(text) in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing", None, ""),
        ("empty", "", ""),
        ("header-only", GOOD.splitlines(keepends=True)[0], ""),
        ("malformed", GOOD.replace("374", "many"), ", line 2"),
        ("columns", GOOD.replace(",44", ""), ", line 2"),
        ("unknown-header", GOOD.replace("TIMESTAMP", "WHEN"), ", line 1"),
        ("unsorted", GOOD.replace("18:15:50", "18:15:40"), ", line 3"),
        ("negative", GOOD.replace("396", "-396"), ", line 3"),
        ("gigantic", GOOD.replace("396", "396000000000"), ", line 3"),
        ("truncated", GOOD[:-5], ", line 3"),
        ("binary", "\x00\x01\x02", ""),
    ],
)
def test_a_bad_trace_is_one_line_with_file_and_line(name: str, content: str | None, said: str, tmp_path: Path):
    trace = tmp_path / f"{name}.csv"
    if content is not None:
        trace.write_text(content, encoding="utf-8")
    assert_one_line(replay(trace, tmp_path), 65, f"{trace}{said}")
    assert [path.name for path in tmp_path.iterdir() if path != trace] == []


def test_a_truncated_gzip_is_one_line(tmp_path: Path):
    import gzip

    trace = tmp_path / "trace.csv.gz"
    trace.write_bytes(gzip.compress(GOOD.encode() * 50)[:-20])
    assert_one_line(replay(trace, tmp_path), 65, trace)


def test_failsafe_caps_above_the_budget_are_one_line_with_file_and_line(tmp_path: Path):
    site = tmp_path / "site.toml"
    text = (EXAMPLES / "polca-row-in-band.toml").read_text(encoding="utf-8")
    site.write_text(text.replace("peak_ratio = 0.79", "budget_w = 90000.0"), encoding="utf-8")
    line = text.splitlines().index("peak_ratio = 0.79") + 1
    for arguments in (
        ("check-config", site),
        ("replay", "--requests", "six-weeks", "--site", site, "--policy", "polca"),
    ):
        assert_one_line(
            overwatt(*arguments),
            78,
            f"{site}, line {line}: domains.row.budget_w: ",
            "22000 W above",
            "lower failsafe_w",
        )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[site\n", b"a = 1\na = 2\n", b"#" * (1 << 21)])
def test_a_file_that_is_no_site_file_is_one_line(content: bytes, tmp_path: Path):
    site = tmp_path / "site.toml"
    site.write_bytes(content)
    assert_one_line(overwatt("check-config", site), 78, site)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "."])
def test_a_path_that_is_no_file_ends(path: str):
    done = overwatt("check-config", path)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr


def test_an_output_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path):
    done = replay("six-weeks", tmp_path, "--json", tmp_path / "no" / "out.json")
    assert_one_line(done, 64, "--json", "create it first")


def test_asserts_cannot_be_switched_off():
    assert_one_line(overwatt("--version", PYTHONOPTIMIZE="1"), 64, "start without it")


def test_the_version_is_shown():
    done = overwatt("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("overwatt ")


@pytest.mark.parametrize("arguments", [(), ("replay",), ("check-config",), ("calibrate",)], ids=str)
def test_help_is_quick_to_load_and_fits_a_terminal(arguments: tuple[str, ...]):
    code = (
        "import sys, daemon.cli\n"
        f"status = daemon.cli.run([*{arguments!r}, '--help'])\n"
        "print([m for m in ('numba', 'rich', 'scipy', 'jinja2') if m in sys.modules], file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0
    assert done.stderr == "[]\n"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_help_lists_every_policy_there_is():
    listed = overwatt("replay", "--help").stdout.partition("Policies to compare: ")[2].partition(".")[0]
    assert "".join(listed.split()) == ",".join(POLICIES)


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m daemon.cli check-config docs/examples/polca-row.toml | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("processes", "doing"), [(1, b"uncapped"), (2, b"load curve")])
def test_an_interrupted_replay_leaves_nothing_behind(processes: int, doing: bytes, tmp_path: Path):
    outputs = "--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")
    arguments = "--requests", "six-weeks", "--site", str(EXAMPLES / "polca-row.toml"), "--policy", "polca,no-cap"
    terminal, its_end = pty.openpty()
    # In a group of its own: a terminal sends the signal to the whole group, and so does this test.
    run = subprocess.Popen(
        [*OVERWATT, "replay", *arguments, *outputs, "--processes", str(processes)],
        stdout=subprocess.PIPE,
        stderr=its_end,
        cwd=REPOSITORY,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(its_end)
    shown = b""
    while doing not in shown:
        shown += os.read(terminal, 4096)
    os.killpg(run.pid, signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    shown = b"".join(iter(lambda: read_or_end(terminal), b""))
    os.close(terminal)
    # CPython ends by the signal itself if it struck inside exec() of a text, as imports do; a shell says 130 to both.
    assert run.returncode in (130, -signal.SIGINT), shown
    assert out == b""
    assert b"overwatt: interrupted; no output was written" in shown
    assert b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def read_or_end(terminal: int) -> bytes:
    """What was shown; nothing once the other end is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
