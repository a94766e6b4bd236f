"""`overwatt check-config`: show what a site file says and everything that follows from it."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from daemon.failures import UsageError

FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class CheckConfigOptions:
    """What to check, and how to show it."""

    file: Annotated[Path, Argument(metavar="FILE", help="Site file (TOML); docs/configuration.md describes it.")]
    output: Annotated[str, Option(metavar="|".join(FORMATS), help="How to print.")] = "text"


def check_config(options: CheckConfigOptions) -> None:
    """Check a site file and show what follows from it.

    Prints the effective values, defaults included, and every time and watt derived from them. Nothing is simulated.
    Exit status 78 if the file cannot be used, with one line for each reason: file, line, key
    and what would happen otherwise. What is merely questionable is a warning on standard error.
    """
    if options.output not in FORMATS:
        raise UsageError(f"--output {options.output}: there are {' and '.join(FORMATS)}")
    from daemon.config import read_site
    from daemon.config_derived import derived

    document = read_site(options.file)
    warnings = document.check(document.site)
    effective = dict(_effective(document.site))
    figures = derived(document.site)
    if options.output == "json":
        shown = {
            "file": str(options.file),
            "effective": effective,
            "derived": {figure.name: figure.value for figure in figures},
            "meaning": {figure.name: figure.meaning for figure in figures},
            "warnings": warnings,
        }
        print(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for line in warnings:
        print(f"overwatt: warning: {line}", file=sys.stderr)
    print(f"{options.file}: usable, {len(warnings)} warning{'' if len(warnings) == 1 else 's'}\n")
    width = max(len(name) for name in [*effective, *(figure.name for figure in figures)])
    print("Effective values")
    for name, value in effective.items():
        print(f"  {name:{width}}  {'-' if value is None else value}")
    print("\nWhat follows")
    for figure in figures:
        shown_value = "-" if figure.value is None else f"{round(figure.value, 3):,.10g}"
        print(f"  {figure.name:{width}}  {shown_value:>10}  {figure.meaning}")


def _effective(site: Any) -> Iterator[tuple[str, object]]:
    """Keys as in the file, with defaults filled in, a policy's parameters included."""
    from daemon.site_tables import SiteTable, TimingTable
    from policies import POLICIES

    for name in SiteTable.model_fields:
        yield f"site.{name}", getattr(site, name)
    for domain in site.domains:
        yield from _flat(f"domains.{domain.name}", asdict(domain), leave_out=("name",))
    for place, group in enumerate(site.servers):
        yield from _flat(f"servers[{place}]", asdict(group))
    yield from _flat("actuation", asdict(site.actuation))
    for name, slo in site.slo.items():
        yield from _flat(f"slo.{name}", asdict(slo))
    for name in TimingTable.model_fields:
        yield f"timing.{name}", getattr(site, name)
    for name, (defaults, _) in POLICIES.items():
        yield from _flat(f"policy.{name}", {**defaults, **site.policy.get(name, {})})
    yield from _flat("workload.six-weeks", site.workload)


def _flat(at: str, table: dict[str, Any], leave_out: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{at}.{name}", value)
        elif name in leave_out:
            continue
        elif isinstance(value, tuple):
            yield f"{at}.{name}", [list(point) for point in value]
        else:
            # A policy's NaN stands for "settled in the run, by the path's times"; JSON has no word for it.
            yield f"{at}.{name}", None if isinstance(value, float) and math.isnan(value) else value
