"""How long `overwatt` takes to say something: from exec to the first byte on a terminal, and to the end of W.

The command runs on a pseudo-terminal, as people run it; medians and worst of repeated runs, compiled code in the cache.
"""

import os
import pty
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.work_w import SITE, trace_of_w

REPEATS = 9
READ_BYTES = 65_536
LIMIT_S = 0.6
"""Until the first progress of a replay."""


def run_on_terminal(arguments: list[str]) -> tuple[float, float]:
    """Seconds to the first byte that is shown, and to the end."""
    argv = [sys.executable, "-m", "daemon.cli", *arguments]
    began_s = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, argv)  # noqa: S606 -- the child of a pty.fork has nothing else to do
    first_s = None
    while True:
        try:
            shown = os.read(terminal, READ_BYTES)
        except OSError:
            # Linux ends a terminal whose other side is closed so.
            break
        if first_s is None and shown:
            first_s = time.perf_counter() - began_s
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    if first_s is None or status != 0:
        sys.exit(f"start_bench: overwatt {' '.join(arguments)} ended with status {status}")
    return first_s, time.perf_counter() - began_s


def report(label: str, arguments: list[str]) -> float:
    """Print one line; returns the median seconds to the first byte."""
    run_on_terminal(arguments)
    runs = [run_on_terminal(arguments) for _ in range(REPEATS)]
    firsts, wholes = [first for first, _ in runs], [whole for _, whole in runs]
    first_s = statistics.median(firsts)
    print(
        f"{label:<28} first output {first_s:.2f} s (worst {max(firsts):.2f}), "
        f"end {statistics.median(wholes):.2f} s (worst {max(wholes):.2f})",
        flush=True,
    )
    return first_s


def main() -> None:
    """Measure and print."""
    report("overwatt --help", ["--help"])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        words = ["replay", "--requests", str(trace_of_w()), "--site", str(SITE), "--policy", "polca"]
        words += ["--json", str(out / "w.json"), "--html", str(out / "w.html")]
        first_s = report("overwatt replay, work W", words)
    print(f"first progress within {LIMIT_S} s: {'yes' if first_s <= LIMIT_S else 'no'}")


if __name__ == "__main__":
    main()
