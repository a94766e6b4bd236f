"""`overwatt calibrate`: fit a server profile to measured latency and power, and write it with its sources."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from daemon.outputs import check_writable


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What differs from one calibration to the next."""

    splitwise: Annotated[
        Path,
        Option(metavar="FILE", help="perf_model.csv of splitwise-sim, plain or .gz; docs/data.md says where from."),
    ]
    model: Annotated[str, Option(metavar="NAME", help="Language model: bloom-176b or llama2-70b.")]
    hardware: Annotated[str, Option(metavar="NAME", help="Server: dgx-a100 or dgx-h100.")]
    out: Annotated[Path, Option(metavar="FILE", help="The profile to write (TOML).")]


def calibrate(options: CalibrateOptions) -> None:
    """Fit a server profile to measured latency and power.

    The profile is a TOML file of numbers, each with its source and, where fitted, the error of the fit. The same input
    gives the same bytes. Name the file as a server's profile in a site file to use it.
    """
    check_writable({"--out": options.out}, {"--splitwise": options.splitwise})
    from sim_backend import calibrate as calibration

    found = calibration.calibrate(options.splitwise, options.model, options.hardware, options.out)
    print(f"wrote {options.out}: {found.name}")
    for section, fit in sorted(found.fits.items()):
        print(
            f"  {section}: off by {fit.median_error:.1%} (median), {fit.worst_error:.1%} (worst of {fit.points} points)"
        )
    for section, words in sorted(found.checks.items()):
        print(f"  {section}: {words}")
