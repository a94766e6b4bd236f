"""Somebody who watches sees at once that something happens: the compiler is loaded behind the first progress."""

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPLAY = ["replay", "--requests", "six-weeks", "--days", "0.02", "--site", "docs/examples/polca-row.toml"]
HEAVY = {"numba", "sim_backend.replay", "daemon.config", "jinja2"}
# Stops the command where it first tells progress, and says what has been loaded until then.
FIRST_PROGRESS = """
import sys
from contextlib import contextmanager
import daemon.progress
@contextmanager
def noting():
    def first(share, doing):
        print(doing, sorted({heavy} & set(sys.modules)))
        sys.exit(0)
    yield first
daemon.progress.progress_bar = noting
from daemon.cli import run
run({words})
"""


def test_the_first_progress_comes_before_the_compiler_is_loaded():
    program = FIRST_PROGRESS.format(heavy=HEAVY, words=[*REPLAY, "--policy", "no-cap"])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("reading []\n", "")


def test_help_loads_nothing_heavy():
    program = f"import sys, daemon.cli; print(sorted({HEAVY | {'rich.progress', 'jinja2'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def on_terminal(words: list[str]) -> tuple[int, str]:
    """Exit status of the command, and what a terminal shows of its standard error."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "daemon.cli", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                read = os.read(ours, 65_536)
            except OSError:
                # Linux ends a terminal whose other side is closed so.
                break
            shown += read
    os.close(ours)
    return running.returncode, shown.decode()


def test_a_refusal_is_shown_below_the_bar():
    status, shown = on_terminal([*REPLAY, "--policy", "nobody"])
    assert status == 64
    assert "reading" in shown
    assert "overwatt: --policy: 'nobody' is not known" in shown.rstrip().splitlines()[-1]


def test_a_warning_is_not_lost_in_the_bar(tmp_path: Path):
    site = tmp_path / "site.toml"
    site.write_text((ROOT / "docs" / "examples" / "work-w.toml").read_text() + "\n[timing]\nlease_s = 1.0\n")
    words = ["replay", "--requests", "six-weeks", "--days", "0.002", "--site", str(site), "--policy", "no-cap"]
    status, shown = on_terminal(words)
    assert status == 0
    # The terminal breaks lines where it likes.
    unbroken = "".join(shown.split())
    assert "overwatt:warning:" in unbroken
    assert "two lost messages drop the fleet".replace(" ", "") in unbroken
