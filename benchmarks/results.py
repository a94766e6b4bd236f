"""Every table of results: six weeks at +30 % servers, and the day of their peak at 0 to +50 % on each command path.

`make results` writes docs/results.md, the tables between the marks in README.md, docs/picture.svg and the whole reports
under build/results/. It takes about an hour on two cores; `--part` runs one kind of job, and `--part pages` writes the
pages again from what lies in build/results/.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from daemon.config import load_site
from policies import POLICIES
from sim_backend.arrivals import DAY_S
from sim_backend.replay import ReplayJob, run_replay
from sim_backend.report import html_out, json_out, svg_out, table
from sim_backend.report.verdict import DEFAULT_LIMITS, figure, judge
from sim_backend.result import RunResult
from sim_backend.site import IN_BAND, Site
from sim_backend.six_weeks import SIX_WEEKS_DAYS, SixWeeks, SixWeeksParams

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "results"
SITES = {"1.2": "polca-row.toml", "2.8": "polca-row-2800.toml"}
"""Non-GPU kilowatts of a server -> site file."""
RATIOS = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
SIX_WEEKS_POLICIES = ("no-cap", "one-threshold-low", "one-threshold-all", "polca", "polca-online")
SEED = 1
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One job of the results and the file it leaves."""

    name: str
    other_kw: str
    job: ReplayJob


def peak_day(site: Site) -> float:
    """The day of the six weeks that holds the highest target."""
    params = SixWeeksParams().with_overrides(dict(site.workload))
    minutes_s = np.arange(0.0, SIX_WEEKS_DAYS * DAY_S, 60.0)
    target = SixWeeks(params, 1, lambda u: u, SEED).target(minutes_s)
    return float(minutes_s[int(target.argmax())] // DAY_S)


def parts() -> Iterator[Part]:
    """All jobs, the long ones first."""
    for other_kw, name in SITES.items():
        site = load_site(ROOT / "docs" / "examples" / name)
        yield Part(f"six-weeks-{other_kw}", other_kw, _job(site, SIX_WEEKS_POLICIES, ("reactive",), (30.0,), None, 0.0))
    every = tuple(POLICIES)
    for other_kw, name in SITES.items():
        site = load_site(ROOT / "docs" / "examples" / name)
        day = peak_day(site)
        yield Part(f"day-oob-{other_kw}", other_kw, _job(site, every, ("reactive",), RATIOS, 1.0, day))
        in_band = replace(site, actuation=IN_BAND)
        yield Part(f"day-in-band-{other_kw}", other_kw, _job(in_band, every, ("reactive", "hard"), RATIOS, 1.0, day))


def _job(
    site: Site,
    policies: tuple[str, ...],
    guarantees: tuple[str, ...],
    ratios: tuple[float, ...],
    days: float | None,
    start_day: float,
) -> ReplayJob:
    return ReplayJob(
        site, "six-weeks", policies, guarantees, ratios, SEED, days, start_day, processes=PROCESSES,
        command="make results",
    )  # fmt: skip


def run(part: Part) -> None:
    """Run one job and keep its JSON, report and table."""
    result = run_replay(
        part.job, lambda share, what: print(f"\r{part.name}: {share:4.0%} {what}   ", end="", flush=True)
    )
    print()
    BUILD.mkdir(parents=True, exist_ok=True)
    json_out.write(result, BUILD / f"{part.name}.json")
    html_out.write(result, BUILD / f"{part.name}.html")
    (BUILD / f"{part.name}.md").write_text(table.markdown(result), encoding="utf-8")
    if part.name == "six-weeks-1.2":
        svg_out.write(result, ROOT / "docs" / "picture.svg", ("no-cap", "polca"), 30.0)


def results_of(name: str) -> dict[str, Any]:
    """The JSON that a part left."""
    path = BUILD / f"{name}.json"
    if not path.exists():
        sys.exit(f"results: {path} is missing; run make results")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _as_run(entry: dict[str, Any]) -> RunResult:
    known = {key: entry[key] for key in ("policy", "add_servers_pct", "servers", "actuation", "guarantee")}
    return RunResult(**known, figures=entry)


def _cell(entry: dict[str, Any]) -> str:
    verdict = judge(_as_run(entry), tuple(DEFAULT_LIMITS.values()))
    if verdict.outcome == "within":
        return "ok"
    brakes, trips = entry["brakes"], entry["breaker_trips"]
    if brakes or trips:
        # What a brake does to latencies is in the full tables; here it is enough that it was needed.
        said = [_counted(brakes, "brake"), *([_counted(trips, "trip")] if trips else [])]
        return ", ".join(said)
    shown = []
    for name in verdict.broken:
        value = figure(entry, next(limit.path for limit in DEFAULT_LIMITS.values() if limit.name == name))
        assert value is not None
        shown.append(f"{name} {value:+.1f} %")
    return ", ".join(shown) if shown else "unknown"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _signed(value: float) -> str:
    """A change in per cent; never a negative zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


def matrix(name: str, guarantee: str) -> list[str]:
    """Policy x ratio: 'ok', or which limits are broken and by how much."""
    found = results_of(name)
    entries = [r for r in found["runs"] if r["guarantee"] == guarantee]
    ratios = sorted({r["add_servers_pct"] for r in entries})
    lines = ["| policy | " + " | ".join(f"+{r:.0f} %" for r in ratios) + " |", "|---" * (len(ratios) + 1) + "|"]
    for policy in dict.fromkeys(r["policy"] for r in entries):
        row = {r["add_servers_pct"]: _cell(r) for r in entries if r["policy"] == policy}
        lines.append(f"| {policy} | " + " | ".join(row[r] for r in ratios) + " |")
    return lines


def uncontrolled(name: str) -> str:
    """One line: servers that fit with no control at all."""
    header = results_of(name)["header"]
    fit = header["uncontrolled"]
    return (
        f"With no control at all (uncapped peak plus its largest 40 s rise under the budget) "
        f"{fit['servers']:.0f} servers fit ({fit['add_servers_pct']:+.0f} %)."
    )


TITLES = {
    ("day-oob", "reactive"): "Out-of-band (caps obeyed after 40 s, brake 5 s), reactive",
    ("day-in-band", "reactive"): "In-band (caps obeyed after 50 ms), reactive",
    ("day-in-band", "hard"): "In-band, hard guarantee: what all servers may draw stays inside the budget",
}


def readme_tables() -> str:
    """The matrices of the README."""
    blocks: list[str] = []
    for other_kw in SITES:
        blocks.append(f"### {other_kw} kW beside the GPUs of a server\n")
        blocks.append(
            f"**Six weeks, 30 % more servers, out-of-band, reactive.** {uncontrolled(f'six-weeks-{other_kw}')}\n"
        )
        blocks.append("\n".join(claims(f"six-weeks-{other_kw}")) + "\n")
        blocks.append(f"The day of the peak alone, 0 to 50 % more servers. {uncontrolled(f'day-oob-{other_kw}')}\n")
        for (name, guarantee), title in TITLES.items():
            blocks.append(f"**{title}.**\n")
            blocks.append("\n".join(matrix(f"{name}-{other_kw}", guarantee)) + "\n")
    return "\n".join(blocks)


def claims(name: str) -> list[str]:
    """POLCA's own table: brakes, latency and throughput."""
    lines = [
        "| policy | brakes | trips | peak of budget | HP P50 | HP P99 | LP P50 | LP P99 | HP / LP throughput |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in results_of(name)["runs"]:
        change, tokens = entry["latency_change_pct"], entry["throughput_change_pct"]
        cells = [f"{_signed(change[p][q])} %" for p in ("high", "low") for q in ("p50", "p99")]
        lines.append(
            f"| {entry['policy']} | {entry['brakes']} | {entry['breaker_trips']} | "
            f"{100 * entry['peak_over_budget']:.1f} % | {' | '.join(cells)} | "
            f"{_signed(tokens['high'])} / {_signed(tokens['low'])} % |"
        )
    return lines


def pages() -> None:
    """Write docs/results.md and the README's tables."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
    if not marked.search(text):
        sys.exit("results: README.md has no place for the tables: <!-- results --> .. <!-- /results -->")
    tables = readme_tables()
    readme.write_text(marked.sub(lambda m: m[1] + tables + m[2], text), encoding="utf-8")
    full = [
        "# Results in full\n",
        "Written by `make results`; what decides them is in [sensitivity.md](sensitivity.md).\n",
    ]
    kinds = {
        "six-weeks": "Six weeks, +30 %, out-of-band",
        "day-oob": "Day of the peak, out-of-band",
        "day-in-band": "Day of the peak, in-band",
    }
    for name, title in kinds.items():
        for other_kw in SITES:
            full.append(f"## {title}, {other_kw} kW non-GPU\n")
            full.append((BUILD / f"{name}-{other_kw}.md").read_text(encoding="utf-8"))
    (ROOT / "docs" / "results.md").write_text("\n".join(full), encoding="utf-8")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "six-weeks", "day", "pages"), default="all")
    options = parser.parse_args()
    for part in parts():
        if options.part == "all" or part.name.startswith(options.part):
            run(part)
    pages()


if __name__ == "__main__":
    main()
