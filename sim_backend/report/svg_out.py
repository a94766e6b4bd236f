"""One small picture for a README: power of two policies against the budget over the whole run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from policies.errors import DataError
from sim_backend.report.facts import S_PER_DAY
from sim_backend.report.packed import merged
from sim_backend.report.verdict import T1_RATIO, T2_RATIO, figure, held
from sim_backend.result import PowerSeries, ReplayResult, RunResult, Vec
from telemetry.whole_file import write_whole

WIDTH, HEIGHT = 880, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 64, 84, 56
POINTS_MOST = 760
"""One point for each pixel of the plot's width, about."""
DAY_STEPS = (0.125, 0.25, 0.5, 1, 2, 7, 14, 28, 56)
STYLE = """
svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:12px}
.bg{fill:#fff;stroke:#d8dce0}.t{fill:#1c2126}.m{fill:#59636d}.g{stroke:#e9ecee}.h{font-size:15px;font-weight:600}
.a{fill:#d9480f;fill-opacity:.26;stroke:#d9480f;stroke-width:.8}.b{fill:none;stroke:#1f5fa8;stroke-width:1.5}
.ka{fill:#c2410c}.kb{fill:#1f5fa8}.l{stroke:#b42318;stroke-width:2}.lt{fill:#b42318;font-weight:600}
.d{stroke:#6b5900;stroke-dasharray:6 4}.dt{fill:#6b5900}.k{stroke:#b42318;stroke-width:1.6}
@media(prefers-color-scheme:dark){
.bg{fill:#1a1e22;stroke:#333a41}.t{fill:#e5e8ea}.m{fill:#9ba6b0}.g{stroke:#262c31}
.a{fill:#ff9f5a;stroke:#ff9f5a}.b{stroke:#6cb0ff}.ka{fill:#ff9f5a}.kb{fill:#6cb0ff}
.l{stroke:#ff8377}.lt{fill:#ff8377}.d{stroke:#e0c75a}.dt{fill:#e0c75a}.k{stroke:#ff8377}}
"""


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where watts and seconds lie in the picture."""

    end_s: float
    low_w: float
    high_w: float

    def x(self, time_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time_s / self.end_s

    def y(self, watts: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high_w - watts) / (self.high_w - self.low_w)


def write(
    result: ReplayResult,
    path: str | Path,
    policies: tuple[str, str] = ("no-cap", "polca"),
    add_servers_pct: float | None = None,
) -> None:
    """Write the picture to `path` whole or not at all; `-` is standard output.

    Args:
        result: must hold a power series of both policies for one number of servers.
        path: the SVG file.
        policies: drawn as an area, and as a line over it.
        add_servers_pct: which number of servers; None takes the most that the second policy held, else the most run.

    Raises:
        DataError: the result lacks what is to be drawn.
    """
    write_whole(path, render(result, policies, add_servers_pct).encode())


def render(
    result: ReplayResult,
    policies: tuple[str, str] = ("no-cap", "polca"),
    add_servers_pct: float | None = None,
) -> str:
    """The picture as text; a pure function of its arguments."""
    runs = _picked(result, policies, add_servers_pct)
    budget_w = figure(result.header, ("budget_w",))
    if budget_w is None:
        raise DataError("the replay names no budget_w in its header; nothing to draw power against")
    series = [merged(run.series, POINTS_MOST) for run in runs if run.series is not None]
    end_s = max(one.high_w.size * one.bin_s for one in series)
    lowest_w = min(float(np.nanmin(one.high_w)) for one in series)
    highest_w = max(budget_w, *(float(np.nanmax(one.high_w)) for one in series))
    room_w = 0.06 * (highest_w - lowest_w)
    plane = _Plane(end_s, max(0.0, lowest_w - room_w), highest_w + room_w)
    parts = [
        *_head(runs),
        *_axes(plane),
        f'<path class="a" d="{_area(plane, series[0])}"/>',
        f'<path class="b" d="{_line(plane, series[1])}"/>',
        *_brakes(plane, series[0], runs[0].policy),
        *_lines(plane, budget_w),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _picked(result: ReplayResult, policies: tuple[str, str], add_servers_pct: float | None) -> tuple[RunResult, ...]:
    """The two runs to draw, on one path, with the same number of servers."""
    drawable = [run for run in result.runs if run.series is not None and run.series.high_w.size]
    ladders: dict[tuple[str, str, float], dict[str, RunResult]] = {}
    for run in drawable:
        ladders.setdefault((str(run.guarantee), str(run.actuation), run.add_servers_pct), {})[run.policy] = run
    both = {key: found for key, found in ladders.items() if all(policy in found for policy in policies)}
    if add_servers_pct is not None:
        both = {key: found for key, found in both.items() if key[2] == add_servers_pct}
    if not both:
        raise DataError(f"the replay keeps no power series of both {policies[0]} and {policies[1]}; run them together")
    path = next(iter(both))[:2]
    here = {key[2]: found for key, found in both.items() if key[:2] == path}
    carried = [
        one.add_servers_pct
        for one in held(result)
        if (one.guarantee, one.actuation) == path and one.policy == policies[1] and one.add_servers_pct in here
    ]
    chosen = here[carried[0] if carried and carried[0] is not None else max(here)]
    return tuple(chosen[policy] for policy in policies)


def _head(runs: Sequence[RunResult]) -> list[str]:
    servers, added = runs[0].servers, f"{runs[0].add_servers_pct:g}"
    title = f"Power of {servers} servers ({added}\N{NO-BREAK SPACE}% added) against their budget"
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label={quoteattr(title)}'
    keys = [
        f'<rect class="a" x="{LEFT}" y="41" width="22" height="10"/>',
        f'<text class="ka" x="{LEFT + 28}" y="51">{escape(_said(runs[0]))}</text>',
        f'<path class="b" d="M{LEFT},65h22"/>',
        f'<text class="kb" x="{LEFT + 28}" y="69">{escape(_said(runs[1]))}</text>',
    ]
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f"<style>{STYLE}</style>",
        f'<rect class="bg" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
        f'<text class="t h" x="{LEFT}" y="26">{escape(title)}</text>',
        *keys,
    ]


def _said(run: RunResult) -> str:
    """A run in a line: what it did to the feed and to its users."""
    parts = []
    brakes, peak = figure(run.figures, ("brakes",)), figure(run.figures, ("peak_over_budget",))
    if brakes is not None:
        parts.append(f"{brakes:.0f} {'brake' if brakes == 1.0 else 'brakes'}")
    if peak is not None:
        parts.append(f"meter peak {100.0 * peak:.1f}\N{NO-BREAK SPACE}% of budget")
    slow = figure(run.figures, ("latency_change_pct", "high", "p50"))
    if slow is not None:
        parts.append(f"median latency of high priority {round(slow, 2) + 0.0:+.2f}\N{NO-BREAK SPACE}%")
    return f"{run.policy}: {', '.join(parts)}" if parts else run.policy


def _axes(plane: _Plane) -> list[str]:
    parts = []
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    for kilowatt in _round_steps(plane.low_w / 1e3, plane.high_w / 1e3):
        y = plane.y(kilowatt * 1e3)
        parts.append(f'<path class="g" d="M{LEFT},{y:.1f}H{right}"/>')
        parts.append(f'<text class="m" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{kilowatt:g} kW</text>')
    days = plane.end_s / S_PER_DAY
    step = next((one for one in DAY_STEPS if days / one <= 9.0), DAY_STEPS[-1])
    for k in range(int(days / step) + 1):
        x = plane.x(k * step * S_PER_DAY)
        if x > right - 8 and k:
            break
        said = f"day {k * step + 1:g}" if step >= 1 else f"{k * step * 24:g} h"
        parts.append(f'<path class="g" d="M{x:.1f},{TOP}V{floor + 5}"/>')
        parts.append(f'<text class="m" x="{x:.1f}" y="{floor + 20}">{said}</text>')
    return parts


def _round_steps(low: float, high: float) -> list[float]:
    size = 10.0 ** np.floor(np.log10((high - low) / 3.0))
    step = next((m * size for m in (1.0, 2.0, 5.0, 10.0) if (high - low) / (m * size) <= 6.0), 10.0 * size)
    return [float(round(k * step, 6)) for k in range(int(np.ceil(low / step)), int(high / step) + 1)]


def _lines(plane: _Plane, budget_w: float) -> list[str]:
    right = WIDTH - RIGHT
    parts = []
    for ratio, name, line, text in (
        (1.0, "budget", "l", "lt"),
        (T2_RATIO, f"T2 {100 * T2_RATIO:g} %", "d", "dt"),
        (T1_RATIO, f"T1 {100 * T1_RATIO:g} %", "d", "dt"),
    ):
        y = plane.y(ratio * budget_w)
        if y <= HEIGHT - BOTTOM:
            parts.append(f'<path class="{line}" d="M{LEFT},{y:.1f}H{right}"/>')
            parts.append(f'<text class="{text}" x="{right + 6}" y="{y + 4:.1f}">{name}</text>')
    return parts


def _points(plane: _Plane, series: PowerSeries, watts: Vec) -> str:
    times = (np.arange(watts.size) + 0.5) * series.bin_s
    pairs = [(plane.x(float(t)), plane.y(float(w))) for t, w in zip(times, watts, strict=True) if np.isfinite(w)]
    return "L".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _line(plane: _Plane, series: PowerSeries) -> str:
    return f"M{_points(plane, series, series.high_w)}"


def _area(plane: _Plane, series: PowerSeries) -> str:
    floor = HEIGHT - BOTTOM
    first, last = plane.x(0.5 * series.bin_s), plane.x((series.high_w.size - 0.5) * series.bin_s)
    return f"M{first:.1f},{floor}L{_points(plane, series, series.high_w)}L{last:.1f},{floor}Z"


def _brakes(plane: _Plane, series: PowerSeries, policy: str) -> list[str]:
    """Marks where the brake was engaged, and the note under the picture."""
    at = [plane.x((float(k) + 0.5) * series.bin_s) for k in np.flatnonzero(series.braked)]
    note = "Highest 1 s power of each interval."
    marks = []
    if at:
        note += f" Red marks above the plot: {policy} engaged the brake."
        marks.append(f'<path class="k" d="{"".join(f"M{x:.1f},{TOP - 7}v7" for x in at)}"/>')
    return [*marks, f'<text class="m" x="{LEFT}" y="{HEIGHT - 14}">{escape(note)}</text>']
