"""The table of policies and ratios: plain text, Markdown, and colour where a terminal shows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from sim_backend.report.headline import capital, sentences
from sim_backend.report.verdict import Limit, Outcome, Verdict, figure, judge, limits_of, sections
from sim_backend.result import ReplayResult, RunResult

S_PER_H = 3600.0
BROKEN_MARK = "!"
NO_FIGURE = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a run as a table shows it."""

    title: tuple[str, str]
    """Two lines, so that the table stays narrow."""
    path: tuple[str, ...]
    text: Callable[[float], str]
    limit: str | None = None
    """Name of the limit this figure is held against."""
    rare: bool = False
    """Left out where no run has the figure."""


def _count(value: float) -> str:
    return f"{value:.0f}"


def _share_pct(value: float) -> str:
    return f"{100.0 * value:.1f}"


def _change_pct(value: float) -> str:
    # A fall of 0.04 % is no change, and is not to be read as -0.0.
    return f"{round(value, 1) + 0.0:+.1f}"


def _limited_pct(value: float) -> str:
    # Two decimals near zero: 0.96 % under a limit of 1 % must not be shown as 1.0.
    return f"{round(value, 2) + 0.0:+.2f}" if abs(value) < 10.0 else f"{value:+.1f}"


def _hours(value: float) -> str:
    return f"{value / S_PER_H:.1f}"


COLUMNS = (
    Column(("", "brakes"), ("brakes",), _count, "brakes"),
    Column(("", "trips"), ("breaker_trips",), _count, "trips"),
    Column(("peak %", "budget"), ("peak_over_budget",), _share_pct),
    Column(("HP P50", "%"), ("latency_change_pct", "high", "p50"), _limited_pct, "HP P50"),
    Column(("HP P99", "%"), ("latency_change_pct", "high", "p99"), _limited_pct, "HP P99"),
    Column(("LP P50", "%"), ("latency_change_pct", "low", "p50"), _limited_pct, "LP P50"),
    Column(("LP P99", "%"), ("latency_change_pct", "low", "p99"), _limited_pct, "LP P99"),
    Column(("HP thr.", "%"), ("throughput_change_pct", "high"), _change_pct),
    Column(("LP thr.", "%"), ("throughput_change_pct", "low"), _change_pct),
    Column(("HP cap", "h"), ("capped_s", "high"), _hours),
    Column(("LP cap", "h"), ("capped_s", "low"), _hours),
    Column(("work", "lost %"), ("recorded_work", "lost_pct"), _limited_pct, "work lost", rare=True),
)


def columns(result: ReplayResult) -> tuple[Column, ...]:
    """The columns for these runs."""
    told = {c.path for c in COLUMNS if c.rare for run in result.runs if figure(run.figures, c.path) is not None}
    return tuple(column for column in COLUMNS if not column.rare or column.path in told)


@dataclass(frozen=True, slots=True)
class Row:
    """One run, written out."""

    run: RunResult
    verdict: Verdict
    cells: tuple[str, ...]
    broken: tuple[bool, ...]
    """Per cell, whether it breaks its limit."""


def row(run: RunResult, limits: Sequence[Limit], shown: Sequence[Column]) -> Row:
    """Write out the figures of `run` that are `shown` and hold them against `limits`."""
    verdict = judge(run, limits)
    values = [figure(run.figures, column.path) for column in shown]
    return Row(
        run,
        verdict,
        tuple(NO_FIGURE if v is None else c.text(v) for c, v in zip(shown, values, strict=True)),
        tuple(column.limit in verdict.broken for column in shown),
    )


def section_title(guarantee: str, actuation: str) -> str:
    """How a guarantee and a path are called above their table."""
    return f"{actuation} actuation, {guarantee} guarantee"


def added(add_servers_pct: float) -> str:
    """Servers added as text: `+30 %`."""
    return f"+{add_servers_pct:g}\N{NO-BREAK SPACE}%"


def legend(limits: Sequence[Limit]) -> str:
    """What the columns mean and which limits they are held against."""
    return (
        f"Limits: {', '.join(limit.words for limit in limits)}. P50 and P99: change of end-to-end time against the "
        "same fleet uncapped; HP, LP: high, low priority; thr.: change of generated tokens per second; cap h: mean "
        "hours a server spent under a cap; work lost: by servers that do recorded work, of what they do uncapped."
    )


def render(result: ReplayResult) -> str:
    """The table as plain text: no colour, no escape sequence; a figure that breaks its limit ends in `!`."""
    limits, head = limits_of(result.header), columns(result)
    parts = [*sentences(result), ""]
    titles = [
        ["", "", "", *(column.title[0] for column in head), "within"],
        ["policy", "added", "servers", *(column.title[1] for column in head), "limits"],
    ]
    for (guarantee, actuation), runs in sections(result).items():
        rows = []
        for run in runs:
            one = row(run, limits, head)
            cells = [cell + BROKEN_MARK if bad else cell + " " for cell, bad in zip(one.cells, one.broken, strict=True)]
            rows.append([run.policy, f"{added(run.add_servers_pct)} ", f"{run.servers} ", *cells, one.verdict.words])
        parts += [section_title(guarantee, actuation), *_aligned(titles, rows), ""]
    parts.append(f"{BROKEN_MARK} breaks its limit. {legend(limits)}")
    return "\n".join(parts).replace("\N{NO-BREAK SPACE}", " ") + "\n"


def _aligned(titles: list[list[str]], rows: list[list[str]]) -> list[str]:
    # Text to the left, numbers to the right. A number keeps one place free behind it, for the mark.
    first, last = 0, len(titles[0]) - 1
    headed = [[cell if i in (first, last) else cell + " " for i, cell in enumerate(cells)] for cells in titles]
    widths = [max(len(cells[i]) for cells in [*headed, *rows]) for i in range(last + 1)]

    def line(cells: list[str]) -> str:
        sided = enumerate(zip(cells, widths, strict=True))
        return " ".join(c.ljust(w) if i in (first, last) else c.rjust(w) for i, (c, w) in sided).rstrip()

    return [*(line(cells) for cells in headed), "-" * (sum(widths) + last), *(line(cells) for cells in rows)]


def markdown(result: ReplayResult) -> str:
    """The table as Markdown, one per guarantee and path; a figure that breaks its limit is bold."""
    limits, head = limits_of(result.header), columns(result)
    titles = ["policy", "added", "servers", *(" ".join(filter(None, c.title)) for c in head), "within limits"]
    parts = [*sentences(result), ""]
    for (guarantee, actuation), runs in sections(result).items():
        parts += [f"**{capital(section_title(guarantee, actuation))}**", ""]
        parts += [_markdown_line(titles), "|---|" + "---:|" * (len(titles) - 2) + "---|"]
        for run in runs:
            one = row(run, limits, head)
            cells = [f"**{cell}**" if bad else cell for cell, bad in zip(one.cells, one.broken, strict=True)]
            cells = [run.policy, added(run.add_servers_pct), str(run.servers), *cells, one.verdict.words]
            parts.append(_markdown_line(cells))
        parts.append("")
    parts.append(f"**Bold** breaks its limit. {legend(limits)}")
    return "\n".join(parts).replace("\N{NO-BREAK SPACE}", " ") + "\n"


def _markdown_line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def show(result: ReplayResult, stream: TextIO) -> None:
    """Print the table: coloured on a terminal, plain anywhere else."""
    if not stream.isatty():
        stream.write(render(result))
        return
    # Imported here: reports that go to files need not wait a tenth of a second for it.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    limits, head = limits_of(result.header), columns(result)
    console = Console(file=stream, highlight=False)
    for sentence in sentences(result):
        console.print(sentence, markup=False)
    for (guarantee, actuation), runs in sections(result).items():
        table = Table(title=section_title(guarantee, actuation), box=box.SIMPLE_HEAD, title_justify="left")
        for title in ("policy", "added", "servers"):
            table.add_column(title, justify="left" if title == "policy" else "right", no_wrap=title != "policy")
        for column in head:
            table.add_column("\n".join(column.title).strip(), justify="right", no_wrap=True)
        table.add_column("within\nlimits")
        for run in runs:
            table.add_row(*_coloured(row(run, limits, head)))
        console.print(table)
    console.print(f"{BROKEN_MARK} breaks its limit. {legend(limits)}", style="dim", markup=False)


def _coloured(one: Row) -> list[str]:
    from rich.markup import escape

    style = {Outcome.WITHIN: "green", Outcome.OUTSIDE: "red", Outcome.UNKNOWN: "yellow"}[one.verdict.outcome]
    cells = [f"[red]{cell}{BROKEN_MARK}[/]" if bad else cell for cell, bad in zip(one.cells, one.broken, strict=True)]
    identity = [escape(one.run.policy), added(one.run.add_servers_pct), str(one.run.servers)]
    return [*identity, *cells, f"[{style}]{escape(one.verdict.words)}[/]"]
