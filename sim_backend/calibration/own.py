"""Cards from an operator's own recordings: watts at the wall, and watts of the GPUs.

Any format of `overwatt import` will do. What a card says of the GPU model or the server model is kept where nothing was
recorded; what was recorded replaces it, with the name of the recording as its source.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError
from sim_backend.calibration.servers import fit_base_and_fans
from sim_backend.cards.gpu_card import GpuCard
from sim_backend.cards.reading import FitNote, Sourced
from sim_backend.cards.server_card import ServerCard, node_w
from telemetry.power_trace import PowerTrace, read_power

Floats = NDArray[np.float64]

STEP_S = 10.0
"""Means over this: longer than a meter's window and a sensor's, shorter than the fans take to settle."""
LEVELS = 12
"""Steady levels of GPU power that the samples are gathered to; half of them are fitted, the others checked."""
SPREAD_LEAST = 0.1
"""Of the GPUs' TDP, between the lowest and the highest level: with less, nothing is known of the fans."""
WORST_FIT = 0.1
"""Median error of a server's card beyond which the recordings do not belong together: shipped ones are within 3 %."""
IDLE_PCT = 1.0
"""Percentile of a GPU's readings that counts as a loaded model with nothing to do; below are drop-outs."""


@dataclass(frozen=True, slots=True)
class Own:
    """Files of one server, recorded at the same time."""

    wall: tuple[str, ...]
    gpus: tuple[str, ...]
    recorded: str
    """When, as the operator would say it; stands in the card."""
    utc_offset_h: float | None = None
    """How far local times are ahead of UTC, where one recording has these and the other has Unix times."""


def refitted_gpu(card: GpuCard, own: Own) -> GpuCard:
    """The card with the idle watts of these GPUs.

    Raises:
        DataError: the recording cannot be read, has no watts, or none that such a GPU could draw.
    """
    with read_power(own.gpus) as trace:
        lows = np.array([np.nanpercentile(trace.series(name)[1], IDLE_PCT) for name in _named(trace, own.gpus)])
    loaded_w = round(float(np.median(lows)), 1)
    if not card.idle_w <= loaded_w < card.tdp_w:
        raise DataError(
            f"{_files(own.gpus)}: the lowest readings are {loaded_w:g} W, but a {card.name} with a model in memory "
            f"draws at least the {card.idle_w:g} W of an empty one and less than {card.tdp_w:g} W: give recordings of "
            "single GPUs that hold a model"
        )
    error = float(np.median(np.abs(lows / loaded_w - 1.0)))
    source = {**card.source, "loaded_w": f"lowest percent of the readings of {lows.size} GPUs ({_files(own.gpus)})"}
    note = FitNote(
        recordings=[Path(name).name for name in own.gpus],
        recorded=own.recorded,
        checked_points=lows.size,
        median_error=round(error, 3),
    )
    return msgspec.structs.replace(card, loaded_w=loaded_w, source=source, fit=note)


def refitted_server(card: ServerCard, own: Own) -> ServerCard:
    """The card with the base and the fans of this server: wall watts against the sum of its GPUs' watts.

    Raises:
        DataError: the recordings cannot be read or do not overlap, or the GPUs' power hardly changes in them.
    """
    gpus_w, wall_w = _levels(card, own)
    if np.any(wall_w <= gpus_w):
        raise DataError(
            f"{_files(own.gpus)}: the GPUs draw more than the wall gives ({gpus_w[-1]:.0f} of {wall_w[-1]:.0f} W); "
            "are --wall and --gpus swapped, or of different servers?"
        )
    fitted = np.arange(gpus_w.size) % 2 == 0
    base_w, fans_full_w = fit_base_and_fans(card, gpus_w[fitted], wall_w[fitted])
    changed = msgspec.structs.replace(card, base_w=base_w, fans_full_w=fans_full_w)
    errors = np.abs(node_w(changed, gpus_w[~fitted]) / wall_w[~fitted] - 1.0)
    if float(np.median(errors)) > WORST_FIT:
        raise DataError(
            f"{_files(own.wall)}: base and fans explain the wall to {np.median(errors):.0%} only; check that both "
            "recordings are of the same server and that their clocks agree"
        )
    said = f"wall against GPUs, {gpus_w.size} levels from {gpus_w[0]:.0f} to {gpus_w[-1]:.0f} W ({_files(own.wall)})"
    note = FitNote(
        recordings=[Path(name).name for name in (*own.wall, *own.gpus)],
        recorded=own.recorded,
        checked_points=int((~fitted).sum()),
        median_error=round(float(np.median(errors)), 3),
    )
    source = {**card.source, "base_w": said, "fans_full_w": said}
    return msgspec.structs.replace(changed, source=source, fit=note)


def _levels(card: ServerCard, own: Own) -> tuple[Floats, Floats]:
    """Mean GPU and wall watts at rising levels of GPU power."""
    with read_power(own.gpus) as gpus, read_power(own.wall) as wall:
        _named(gpus, own.gpus)
        _named(wall, own.wall)
        clocks = {gpus.quality.clock, wall.quality.clock}
        if len(clocks) > 1 and (clocks != {"unix", "local"} or own.utc_offset_h is None):
            raise DataError(
                f"{_files(own.wall)} and {_files(own.gpus)}: times of different kinds ({wall.quality.clock} and "
                f"{gpus.quality.clock}), so nobody knows what was drawn at once; say with --utc-offset-h how far local "
                "times are ahead of UTC, or record both with Unix times"
            )
        gpu_s, gpus_w = _total(gpus, own.utc_offset_h)
        wall_s, wall_w = _total(wall, own.utc_offset_h)
    start_s, end_s = max(gpu_s[0], wall_s[0]), min(gpu_s[-1], wall_s[-1])
    grid_s = np.arange(start_s, end_s, STEP_S)
    if grid_s.size < 2 * LEVELS:
        raise DataError(
            f"{_files(own.wall)} and {_files(own.gpus)}: they overlap for {max(end_s - start_s, 0.0):.0f} s, but "
            f"{2 * LEVELS * STEP_S:.0f} s are needed; record both at once, on clocks that agree"
        )
    x, y = np.interp(grid_s, gpu_s, gpus_w), np.interp(grid_s, wall_s, wall_w)
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, LEVELS)
    levels_w = np.array([x[part].mean() for part in parts])
    if levels_w[-1] - levels_w[0] < SPREAD_LEAST * card.gpus_tdp_w:
        raise DataError(
            f"{_files(own.gpus)}: the GPUs draw {levels_w[0]:.0f} to {levels_w[-1]:.0f} W together, too little change "
            "to tell base from fans: record idle time and full load"
        )
    return levels_w, np.array([y[part].mean() for part in parts])


def _total(trace: PowerTrace, utc_offset_h: float | None) -> tuple[Floats, Floats]:
    """Sum of all sources where it is known, on a clock that another recording may share."""
    time_s, total_w = trace.total_w(STEP_S)
    known = np.isfinite(total_w)
    ahead_s = 3600.0 * (utc_offset_h or 0.0) if trace.quality.clock == "local" else 0.0
    return time_s[known] + (trace.quality.start_unix_s or 0.0) - ahead_s, total_w[known]


def _named(trace: PowerTrace, files: tuple[str, ...]) -> tuple[str, ...]:
    if not trace.sources:
        raise DataError(f"{_files(files)}: no source with watts; overwatt import --summary shows what there is")
    return tuple(trace.sources)


def _files(files: tuple[str, ...]) -> str:
    return ", ".join(Path(name).name for name in files)


def refitted_own(card: Sourced, own: Own) -> Sourced:
    """The card with what the recordings say of it; for the kinds that they can say anything of."""
    if isinstance(card, ServerCard):
        return refitted_server(card, own)
    assert isinstance(card, GpuCard), "an engine is fitted to benchmarks, not to watts"
    return refitted_gpu(card, own)
