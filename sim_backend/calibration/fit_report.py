"""Every affine profile again, and how well the fits do: `python -m sim_backend.calibration.fit_report FILE`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from policies.errors import OverwattError
from sim_backend.calibration.affine import Calibration, calibrate
from sim_backend.calibration.hardware import HARDWARE, LLMS
from sim_backend.profile import SECTIONS, SHIPPED
from telemetry.whole_file import write_whole

REPORT = Path("docs/fit.md")

_TITLES = {
    "prefill_time": "prefill time",
    "decode_time": "decode time",
    "prefill_power": "prefill power",
    "decode_power": "decode power",
}

_HEAD = """# How well the profiles fit

Written by `python -m sim_backend.calibration.fit_report $OVERWATT_DATA/splitwise-perf-model`, which also writes the
profiles again; not edited by hand. Errors are |model / measured - 1| of the rounded parameters in the profile, over
the points that the fit was made with; each point is the median of the repeats of one setting. Origins:
[data.md](data.md).

| profile | what | points | median error | worst error |
|---|---|---:|---:|---:|
"""

_NOTES = """
## Parameters

{parameters}
## Beyond the fits

{checks}
## What to know when using them

- **Prefill time** is a constant, a linear and a quadratic term, fitted from 128 to 8,192 batched tokens. The engine
  never batches more than `max_batch_tokens` = 2,048 unless one prompt alone is longer, and the longest prompt measured
  had 8,192. The measured curve bends upwards from 2,048 to 8,192 tokens and is straighter beyond (batches of 32 and 64
  prompts of 512), so the quadratic over-states larger batches, as listed above. In the Azure 2023 conversation trace
  one prompt of 19,366 is longer than 8,192 tokens.
- **Decode time** depends on batch and resident context, not on the number of requests alone. It was measured up to a
  batch of 64 with 37 thousand tokens of context. BLOOM-176B cannot hold much more; Llama2-70B on the same server can,
  up to thirty times, and is extrapolated there.
- **Prefill power** is the published *peak* (samples each 100 ms). It is used for the whole prefill, hence the positive
  deviation of the predicted run averages: energy of prompt-heavy loads is over-stated, peaks are not.
- **H100 power was never measured** in these recordings: 75 W idle, 700 W prefill and 380 W decode are constants of the
  authors' simulator, so its profiles have no power fit. The file's rows `h100-80gb-pcap` are an assumption (prompt time
  x 1.300, token time x 1.000), not measurements, and are refused.
- **Averages of prompts of 4,096 tokens and more** contain idle time (0.17-0.18 of TDP) and are not used.
- **Clocks.** Neither the shares of time bound by the SM clock nor the power law against the clock were measured by
  phase; the profiles show the arithmetic and mark what is unverified.
"""


def calibrate_shipped(splitwise: Path, profiles: Path, report: Path) -> tuple[Calibration, ...]:
    """Write every shipped pair of hardware and model into the folder `profiles`, and the fit errors to `report`."""
    calibrations = tuple(
        calibrate(splitwise, model, hardware, profiles / f"{hardware}__{model}.toml")
        for hardware in sorted(HARDWARE)
        for model in sorted(LLMS)
    )
    write_whole(report, report_text(calibrations).encode())
    return calibrations


def report_text(calibrations: Sequence[Calibration]) -> str:
    """The page with all errors, parameters and deviations."""
    rows, checks = [], []
    for c in calibrations:
        for section, title in _TITLES.items():
            if section not in c.fits:
                rows.append(f"| `{c.name}` | {title} | 0 | not measured | not measured |")
                continue
            fit = c.fits[section]
            errors = f"{100 * fit.median_error:.1f} % | {100 * fit.worst_error:.1f} %"
            rows.append(f"| `{c.name}` | {title} | {fit.points} | {errors} |")
        checks += [f"- `{c.name}`, {_TITLES[section]}: {text}." for section, text in c.checks.items() if text]
    return _HEAD + "\n".join(rows) + "\n" + _NOTES.format(parameters=_parameters(calibrations), checks=_lines(checks))


def _parameters(calibrations: Sequence[Calibration]) -> str:
    head = "| | " + " | ".join(f"`{c.name}`" for c in calibrations) + " |"
    table = [head, "|---" * (1 + len(calibrations)) + "|"]
    for section in _TITLES:
        for key, target in SECTIONS[section].items():
            values = " | ".join(f"{c.facts[section][key].value:g}" for c in calibrations)
            table.append(f"| `{target}` | {values} |")
    return _lines(table)


def _lines(items: Sequence[str]) -> str:
    return "".join(f"{item}\n" for item in items)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write profiles and report from the command line."""
    parser = argparse.ArgumentParser(prog="python -m sim_backend.calibration.fit_report", description=__doc__)
    parser.add_argument("splitwise", type=Path, help="Splitwise's perf_model.csv, plain or gzipped, or its folder")
    parser.add_argument("--profiles", type=Path, default=SHIPPED, help="folder of the profiles (default: the shipped)")
    parser.add_argument("--report", type=Path, default=REPORT, help=f"the page (default: {REPORT})")
    given = parser.parse_args(arguments)
    try:
        calibrate_shipped(given.splitwise, given.profiles, given.report)
    except OverwattError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
