"""The summary of a recording as lines for people."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

SHOWN_SOURCES = 24
"""More would hide what stands below; `--json -` shows all."""
_HEADS = ("source", "samples", "period_s", "mean_w", "p99_w", "peak_w", "gaps", "longest_gap_s", "defects")
_CLOCKS = {
    "unix": "UTC",
    "local": "wall clock of an unknown zone",
    "start": "seconds from the start",
    "none": "no times in the recording",
}


def power_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Lines of a summary of power."""
    for name, form in summary["files"].items():
        yield f"{name}: {form}"
    start = summary["start_unix_s"]
    since = "" if start is None else f", from {datetime.fromtimestamp(start, UTC).strftime('%Y-%m-%d %H:%M:%S')}"
    yield f"{_CLOCKS[summary['clock']]}{since}; times from {summary['times_from']}"
    sources = summary["sources"]
    if sources:
        yield ""
        yield from _table([_HEADS, *(_row(each) for each in sources[:SHOWN_SOURCES]), *_overall(summary)])
        if len(sources) > SHOWN_SOURCES:
            yield f"(the first {SHOWN_SOURCES} of {len(sources)} sources; --json - shows all)"
        yield from _sum(summary)
    else:
        yield "no watts: the recording has no reading of power (which is not 0 W)"
    yield from _odd(summary)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    watts = found["watts"]
    odd = ", ".join(f"{count} {words}" for words, count in found["defects"].items())
    return (
        found["source"],
        f"{found['samples']:,}",
        _number(found["period_s"], 3),
        *(_number(watts[key], 1) for key in ("mean_w", "p99_w", "peak_w")),
        f"{found['gaps']:,}",
        _number(found["longest_gap_s"], 3),
        odd or "-",
    )


def _overall(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    watts = summary["overall"]
    if watts is None or len(summary["sources"]) == 1:
        return []
    shown = (_number(watts[key], 1) for key in ("mean_w", "p99_w", "peak_w"))
    return [("all readings", f"{summary['samples']:,}", "", *shown, "", "", "")]


def _sum(summary: dict[str, Any]) -> Iterator[str]:
    found = summary["sum"]
    if found is not None:
        unknown = f", unknown for {found['unknown_steps']} steps" if found["unknown_steps"] else ""
        yield ""
        yield (
            f"sum of {len(summary['sources'])} sources every {_number(found['step_s'], 3)} s: "
            f"mean {found['mean_w']:,.0f} W, p99 {found['p99_w']:,.0f} W, peak {found['peak_w']:,.0f} W{unknown} "
            "(--source leaves out sensors of the same server)"
        )


def _odd(summary: dict[str, Any]) -> Iterator[str]:
    if summary["defects"]:
        yield "defects: " + ", ".join(f"{count:,} {words}" for words, count in summary["defects"].items())
    if summary["without_watts"]:
        names = summary["without_watts"]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        yield f"without watts: {', '.join(names[:8])}{more}"
    if summary["same_readings"]:
        pairs = [" = ".join(pair) for pair in summary["same_readings"]]
        more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
        yield f"the same readings under two names (one meter for both?): {', '.join(pairs[:8])}{more}"


def request_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Lines of a summary of requests."""
    for name, form in summary["files"].items():
        yield f"{name}: {form}"
    yield f"{summary['requests']:,} requests from {summary['first_s']:,.3f} s to {summary['last_s']:,.3f} s"
    if summary["zero_output_rows"]:
        yield f"{summary['zero_output_rows']:,} of them with 0 output tokens, taken as 1"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as their widest cell, numbers at the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    last = len(widths) - 1
    for row in rows:
        cells = [
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
