"""The report as one HTML file that needs no network: figures, charts, and the script that draws them."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from sim_backend.report import packed
from sim_backend.report.facts import facts, value_text
from sim_backend.report.headline import all_carried, best, capital, finding, uncontrolled
from sim_backend.report.json_out import plain
from sim_backend.report.table import Row, added, columns, legend, row, section_title
from sim_backend.report.verdict import T1_RATIO, T2_RATIO, Held, Outcome, figure, held, limits_of, sections
from sim_backend.result import ReplayResult, RunResult
from telemetry.whole_file import write_whole

HERE = Path(__file__).parent
STYLES = ("uPlot.min.css", "report.css")
SCRIPTS = ("uPlot.iife.min.js", "charts.js", "report.js")
WORDS = {Outcome.WITHIN: "holds", Outcome.OUTSIDE: "fails", Outcome.UNKNOWN: "unknown"}
_SPACE = "\N{NO-BREAK SPACE}"
SIGNS = {Outcome.WITHIN: "✓", Outcome.OUTSIDE: "✕", Outcome.UNKNOWN: "?"}


def write(result: ReplayResult, path: str | Path) -> None:
    """Write the report to `path` whole or not at all; `-` is standard output."""
    write_whole(path, render(result).encode())


def render(result: ReplayResult) -> str:
    """The whole page; a pure function of `result`."""
    header, limits, answers = result.header, limits_of(result.header), held(result)
    head = columns(result)
    rows = [row(run, limits, head) for run in result.runs]
    styles, scripts = [asset(name) for name in STYLES], [asset(name) for name in SCRIPTS]
    return _template().render(
        policy=_content_policy(styles, scripts),
        styles=[Markup(text) for text in styles],  # noqa: S704 - our own files, never input
        scripts=[Markup(text) for text in scripts],  # noqa: S704 - our own files, never input
        content=Markup(_embedded(_content(result, rows))),  # noqa: S704 - every `<` is escaped in there
        site=header.get("site", "site"),
        subtitle=_subtitle(header),
        finding=finding(answers),
        without=uncontrolled(header),
        limits=", ".join(limit.words for limit in limits),
        legend=legend(limits),
        columns=head,
        sections=_sections(result, rows, answers),
        names=[run_name(run) for run in result.runs],
        assumptions=_assumptions(header),
        command=header.get("command", ""),
        versions=plain(header.get("versions", {})),
        reasons=reasons,
        words=WORDS,
        signs=SIGNS,
        added=added,
        chosen=chosen(result, answers),
    )


def _subtitle(header: Mapping[str, object]) -> str:
    parts = [str(header[key]) for key in ("site", "workload") if key in header]
    days = figure(header, ("days",))
    parts += [] if days is None else [f"{days:g} days"]
    parts += [f"seed {header['seed']}"] if "seed" in header else []
    return ", ".join(parts)


def chosen(result: ReplayResult, answers: list[Held]) -> int:
    """Index of the run to open with: the most that the last of the best policies held, else the first run."""
    leaders = best(answers)
    if not leaders:
        return 0
    path = (leaders[0].guarantee, leaders[0].actuation)
    # The plain baselines are asked for first by custom, so among equals the last is the one of interest.
    one = [leader for leader in leaders if (leader.guarantee, leader.actuation) == path][-1]
    wanted = (*path, one.policy, one.add_servers_pct)
    for index, run in enumerate(result.runs):
        if wanted == (str(run.guarantee), str(run.actuation), run.policy, run.add_servers_pct):
            return index
    return 0


@cache
def asset(name: str) -> str:
    """Text of a file that is put into the page."""
    return (HERE / "assets" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _content_policy(styles: list[str], scripts: list[str]) -> str:
    """Nothing may be fetched, and only the very scripts and styles written here may run."""

    def hashes(texts: list[str]) -> str:
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(content: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _content(result: ReplayResult, rows: list[Row]) -> dict[str, object]:
    labels: dict[str, str] = {}
    runs = [_run(one, labels) for one in rows]
    return {"budget_w": figure(result.header, ("budget_w",)), "labels": labels, "runs": runs}


def _run(one: Row, labels: dict[str, str]) -> dict[str, object]:
    run, texts = one.run, {}
    for key, (label, text) in facts(run).items():
        labels[key] = label
        texts[key] = text
    # A run that computes its own thresholds says which; the others are drawn against POLCA's.
    t1, t2 = figure(run.figures, ("t1_ratio",)), figure(run.figures, ("t2_ratio",))
    return {
        "name": run_name(run),
        "place": capital(section_title(str(run.guarantee), str(run.actuation))),
        "verdict": f"{SIGNS[one.verdict.outcome]} {_judged(one)}",
        "outcome": str(one.verdict.outcome),
        "t1": T1_RATIO if t1 is None else t1,
        "t2": T2_RATIO if t2 is None else t2,
        "facts": texts,
        "power": None if run.series is None else packed.power(run.series),
        "latency": packed.latency(run),
    }


def run_name(run: RunResult) -> str:
    """How a run is called where it is chosen."""
    return f"{run.policy}, {added(run.add_servers_pct)} ({run.servers} servers)"


def reasons(one: Row) -> str:
    """Why a run holds or fails, short enough for a cell: what broke, or how near the budget it came."""
    if one.verdict.missing and not one.verdict.broken:
        return f"no {', '.join(one.verdict.missing)}"
    if not one.verdict.broken:
        peak = figure(one.run.figures, ("peak_over_budget",))
        return "" if peak is None else f"peak {100.0 * peak:.1f}{_SPACE}%"
    counts = {"brakes": figure(one.run.figures, ("brakes",)), "trips": figure(one.run.figures, ("breaker_trips",))}
    said = []
    for name in one.verdict.broken:
        count = counts.get(name)
        said.append(
            name.replace(" ", _SPACE) if count is None else f"{count:.0f}{_SPACE}{name[: -1 if count == 1.0 else None]}"
        )
    return ", ".join(said)


def _judged(one: Row) -> str:
    match one.verdict.outcome:
        case Outcome.WITHIN:
            return "Within every limit."
        case Outcome.OUTSIDE:
            return f"Outside the limits: {', '.join(one.verdict.broken)}."
        case Outcome.UNKNOWN:
            return f"Cannot be judged, no figure for {', '.join(one.verdict.missing)}."


def _sections(result: ReplayResult, rows: list[Row], answers: list[Held]) -> list[dict[str, object]]:
    """Per guarantee and path: a matrix of policies and ratios, and the rows with every figure."""
    found: list[dict[str, object]] = []
    by_run = {id(one.run): (index, one) for index, one in enumerate(rows)}
    for (guarantee, actuation), runs in sections(result).items():
        here = [by_run[id(run)] for run in runs]
        cells = {(one.run.policy, one.run.add_servers_pct): (index, one) for index, one in here}
        ratios = sorted({run.add_servers_pct for run in runs})
        servers = {one.run.add_servers_pct: one.run.servers for _, one in here}
        found.append(
            {
                "title": capital(section_title(guarantee, actuation)),
                "sentence": all_carried(answers, guarantee, actuation),
                "ratios": [(pct, servers[pct]) for pct in ratios],
                "policies": [
                    (policy, [cells.get((policy, pct)) for pct in ratios])
                    for policy in dict.fromkeys(run.policy for run in runs)
                ],
                "rows": here,
            }
        )
    return found


_HEADER_WORDS = {
    "site": "Site",
    "domain": "Domain under study",
    "workload": "Workload",
    "rate": "Request rate, multiplied by",
    "compress_time": "Time axis, divided by",
    "seed": "Seed",
    "days": "Days",
    "duration_s": "Simulated time",
    "budget_w": "Budget of the domain",
    "budget_derivation": "How the budget came about",
    "servers_at_0_pct": "Servers before any are added",
    "other_w": "Non-GPU power per server",
    "uncontrolled": "Servers that fit with no control",
}


def _assumptions(header: Mapping[str, object]) -> list[tuple[str, str]]:
    lines = []
    for key in [*_HEADER_WORDS, *sorted(header.keys() - _HEADER_WORDS.keys() - {"versions", "command"})]:
        if header.get(key) is not None:
            lines.append((_HEADER_WORDS.get(key, capital(key.replace("_", " "))), _said((key,), plain(header[key]))))
    return lines


def _said(path: tuple[str, ...], value: object) -> str:
    # Neither is in the unit that its last word would name.
    if path[-1] in {"seed", "servers_at_0_pct"}:
        return str(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')}: {_said((*path, key), item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_said(path, item) for item in value)
    return value_text(path, value)
