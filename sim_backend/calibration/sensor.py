"""Reads recordings of power sensors under load steps, and fits what an A100's sensor sees of them."""

import csv
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim_backend.calibration.fits import rounded

Floats = NDArray[np.float64]

FOLDER = "gpu-power-sensor"
LOCAL_S = 3600.0
"""nvidia-smi wrote local time, one hour ahead of the Unix times of load and meter."""
WINDOWS_S = np.array([0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.075, 0.1])
_DELAYS_S = np.arange(-0.03, 0.08, 0.0025)
_POLL_S = 0.013
"""Between two lines of the recordings of the A100: a refresh is seen half of that late in the mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Polled:
    """What nvidia-smi said, line by line; Unix seconds."""

    time_s: Floats
    power_w: Floats
    """`power.draw`: the average where the GPU has one."""
    instant_w: Floats

    def refreshed(self) -> NDArray[np.intp]:
        """Lines with a new instantaneous reading; the first is not known to be one."""
        return np.flatnonzero(np.diff(self.instant_w)) + 1


def read_polled(data: Path, name: str) -> Polled:
    """One `*gpudata.csv.gz`, by the part of its name before that."""
    with gzip.open(data / FOLDER / f"{name}gpudata.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    stamps = [datetime.strptime(row["timestamp"], "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC) for row in rows]
    return Polled(
        np.array([stamp.timestamp() for stamp in stamps]) - LOCAL_S,
        np.array([float(row["power.draw [W]"]) for row in rows]),
        np.array([float(row["power.draw.instant [W]"]) for row in rows]),
    )


def read_switches(data: Path, name: str) -> Floats:
    """Unix seconds at which the load was switched, on and off in turn, of one `*timestamps.csv.gz`."""
    with gzip.open(data / FOLDER / f"{name}timestamps.csv.gz", "rt", encoding="utf-8") as file:
        return np.unique(np.array([int(line) for line in file.read().split()[1:]], dtype=np.float64)) / 1e6


def read_meter(data: Path) -> tuple[Floats, Floats]:
    """Unix seconds and watts of the external meter on the A100's supply lines, every 2 ms."""
    path = data / FOLDER / "Transient_Response__A100_TR__PMD_reference_2ms.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, 0] / 1e3, table[:, 1]


def on_share(switches_s: Floats, end_s: Floats, window_s: float) -> Floats:
    """Share of the windows that end at `end_s` in which the load is on: after an even number of switches."""
    since_s = np.concatenate(
        [[0.0], np.cumsum(np.where(np.arange(len(switches_s) - 1) % 2 == 0, np.diff(switches_s), 0.0))]
    )
    on_s = np.interp(end_s, switches_s, since_s) - np.interp(end_s - window_s, switches_s, since_s)
    share: Floats = on_s / window_s
    return share


@dataclass(frozen=True, slots=True)
class SquareWave:
    """What readings of a load that is switched every 52 ms say of the window; half of the readings are fitted."""

    window_s: float
    rms_by_window: dict[float, float]
    """Over the readings' swing, of the readings not fitted."""
    readings: int


def fit_window(data: Path) -> SquareWave:
    """The window whose mean of the switched load follows an A100's readings best.

    Besides the window: the delay between refresh and log, and the readings at load on and off.
    """
    polled, switches_s = read_polled(data, "5050__A100__"), read_switches(data, "5050__A100__")
    lines = polled.refreshed()
    time_s, read_w = polled.time_s[lines], polled.instant_w[lines]
    inside = (time_s > switches_s[0] + 0.3) & (time_s < switches_s[-1] - 0.1)
    time_s, read_w = time_s[inside], read_w[inside]
    count = np.arange(len(time_s))
    # Refreshes are regular; polling is what makes their times uneven.
    refresh_s = np.polyval(np.polyfit(count, time_s, 1), count) - _POLL_S / 2.0
    seen = count % 2 == 0
    swing_w = float(np.ptp(read_w))
    fitted, held = {}, {}
    for window_s in WINDOWS_S:
        fits = [_levels(on_share(switches_s, refresh_s - d, window_s), read_w, seen) for d in _DELAYS_S]
        best = min(fits, key=lambda rms: rms[0])
        fitted[float(window_s)], held[float(window_s)] = best[0], best[1] / swing_w
    return SquareWave(min(fitted, key=lambda window_s: fitted[window_s]), held, int((~seen).sum()))


def _levels(share: Floats, read_w: Floats, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Rms error in watts of the fitted and of the other readings, with the two levels that suit the fitted ones."""
    columns = np.column_stack([1.0 - share, share])
    levels_w = np.linalg.lstsq(columns[seen], read_w[seen], rcond=None)[0]
    off_w = columns @ levels_w - read_w
    return float(np.sqrt((off_w[seen] ** 2).mean())), float(np.sqrt((off_w[~seen] ** 2).mean()))


@dataclass(frozen=True, slots=True)
class StepLoad:
    """An A100 board's calibration against the external meter, fitted to the first half of the recording."""

    gain: float
    offset_w: float
    overshoot_ratio: float
    """Largest 2 ms mean of the meter after the load's start over its mean once settled."""


def fit_step(data: Path, window_s: float) -> StepLoad:
    """Gain and offset that take the meter's means over `window_s` to the readings at their refreshes."""
    polled = read_polled(data, "Transient_Response__A100_TR__")
    time_s, meter_w = read_meter(data)
    lines = polled.refreshed()
    middle_s = (time_s[0] + time_s[-1]) / 2.0
    lines = lines[(polled.time_s[lines] > time_s[0] + 0.2) & (polled.time_s[lines] < middle_s)]
    means_w = means_before(time_s, meter_w, polled.time_s[lines] - _POLL_S / 2.0, window_s)
    # Readings during the switch itself say more about the clock of the log than about the gain.
    steady = np.abs(means_w - means_before(time_s, meter_w, polled.time_s[lines] - _POLL_S / 2.0, 2 * window_s)) < 2.0
    gain, offset_w = np.polyfit(means_w[steady], polled.instant_w[lines][steady], 1)
    on_s = read_switches(data, "Transient_Response__A100_TR__")[0]
    loaded_w = meter_w[(time_s > on_s) & (time_s < on_s + 5.0)]
    settled_w = float(loaded_w[len(loaded_w) // 2 :].mean())
    return StepLoad(rounded(float(gain), 3), rounded(float(offset_w), 2), rounded(float(loaded_w.max()) / settled_w, 3))


def means_before(time_s: Floats, power_w: Floats, end_s: Floats, window_s: float) -> Floats:
    """Means over the `window_s` before each of `end_s` of an evenly sampled series."""
    step_s = float(time_s[1] - time_s[0])
    edges_s = np.append(time_s, time_s[-1] + step_s)
    energy_j = np.concatenate([[0.0], np.cumsum(power_w) * step_s])
    means: Floats = (np.interp(end_s, edges_s, energy_j) - np.interp(end_s - window_s, edges_s, energy_j)) / window_s
    return means
