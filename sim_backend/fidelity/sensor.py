"""The simulated power sensors against recorded ones."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim_backend.calibration.sensor import FOLDER, fit_step, fit_window, read_meter, read_polled
from sim_backend.fidelity.check import Check, errors_of
from sim_backend.sensor import KINDS, SensorBank

Floats = NDArray[np.float64]

GROUP = "Power sensors"
DCGM = "dcgmi-dmon-logs"
LIMIT = 0.05
LIMIT_SWING = 0.1
STEP_S = 0.002


def checks(data: Path) -> list[Check]:
    """What sensors read of steps and square waves, how old it is, and what their counters sum."""
    return [_step(data), _square(data), _average(data), *_refreshes(data), _counter(data)]


def _check(quantity: str, source: str, counts: tuple[int, int], errors: tuple[float, float, float], note: str) -> Check:
    median, worst, bias = errors
    return Check(GROUP, quantity, source, *counts, median, worst, LIMIT, bias, note=note)


def _step(data: Path) -> Check:
    """An A100's readings of a load's end, simulated from the external meter's 2 ms means."""
    found = fit_step(data, KINDS["a100"].window_s)
    polled = read_polled(data, "Transient_Response__A100_TR__")
    time_s, meter_w = read_meter(data)
    lines = polled.refreshed()
    bank = SensorBank([KINDS["a100"]], STEP_S, np.random.default_rng(0))
    bank.gain[:], bank.offset_w[:] = found.gain, found.offset_w
    refresh_s = polled.time_s[lines][polled.time_s[lines] > time_s[0]] - time_s[0]
    # The refreshes' phase: polling sees them up to one poll late, so the earliest of all is nearest.
    bank.phase_s[:] = float(np.min(refresh_s % refresh_interval_s(refresh_s))) % KINDS["a100"].refresh_s
    read_w = np.empty(len(meter_w))
    for i, watts in enumerate(meter_w):
        bank.advance(np.array([watts]))
        read_w[i] = bank.read().power_w[0]
    middle_s = (time_s[0] + time_s[-1]) / 2.0
    held = (polled.time_s > middle_s) & (polled.time_s < time_s[-1] - 0.1)
    model_w = np.interp(polled.time_s[held], time_s, read_w)
    counts = (int((lines < np.argmax(held)).sum()), int(held.sum()))
    note = (
        f"gain {found.gain:g} and offset {found.offset_w:g} W of this board from the step up; worst during the switch"
    )
    return _check("A100, readings of a step down", FOLDER, counts, errors_of(model_w, polled.instant_w[held]), note)


def refresh_interval_s(refresh_s: Floats) -> float:
    """Median interval of observed refreshes."""
    return float(np.median(np.diff(refresh_s)))


def _square(data: Path) -> Check:
    found = fit_window(data)
    rms = found.rms_by_window[found.window_s]
    whole = found.rms_by_window[KINDS["a100"].refresh_s]
    note = (
        f"rms over swing; window of {1e3 * found.window_s:.0f} ms fitted to the other half; "
        f"a sensor that averaged over its whole refresh would be off by {100 * whole:.0f} points"
    )
    return Check(
        GROUP,
        "A100, readings of a load switched every 52 ms",
        FOLDER,
        found.readings + 1,
        found.readings,
        rms,
        rms,
        LIMIT_SWING,
        unit="points",
        note=note,
    )


def _average(data: Path) -> Check:
    """A 3090's average against the mean of its last ten instantaneous readings, while the load rises and lasts."""
    polled = read_polled(data, "Transient_Response__3090_TR__")
    lines = polled.refreshed()
    lines = lines[polled.time_s[lines] < polled.time_s[0] + 7.0]
    kept = round(KINDS["rtx"].average_s / KINDS["rtx"].refresh_s)
    instant_w = polled.instant_w[lines]
    model_w = np.convolve(instant_w, np.ones(kept) / kept, mode="valid")
    # The average is refreshed together with the instantaneous reading; one line later both are new.
    read_w = polled.power_w[np.minimum(lines[kept - 1 :] + 1, len(polled.power_w) - 1)]
    note = "nothing fitted: mean of ten readings; after the load this board refreshed its average once a second only"
    return _check("RTX 3090, 1 s average of a step up", FOLDER, (0, len(model_w)), errors_of(model_w, read_w), note)


def _refreshes(data: Path) -> list[Check]:
    lines = []
    for quantity, name, kind in (
        ("A100, refresh interval", "pwr_update_freq__A100_", "a100"),
        ("RTX 3090, refresh interval", "Transient_Response__3090_TR__", "rtx"),
    ):
        polled = read_polled(data, name)
        measured_s = refresh_interval_s(polled.time_s[polled.refreshed()])
        error = KINDS[kind].refresh_s / measured_s - 1.0
        counts = (0, len(polled.refreshed()))
        lines.append(_check(quantity, FOLDER, counts, (abs(error), abs(error), error), f"measured {measured_s:.4f} s"))
    return lines


def _counter(data: Path) -> Check:
    """An H100's energy counter: each refresh adds the reading times the refresh interval."""
    error: list[float] = []
    for path in sorted((data / DCGM).glob("h100*.dmon.txt.gz")):
        power_w, energy_j = read_dmon(path)
        fresh = np.flatnonzero(np.diff(energy_j)) + 1
        added_j = np.diff(energy_j[fresh])
        error += list(power_w[fresh[1:]] * KINDS["h100"].refresh_s / added_j - 1.0)
    off = np.abs(np.array(error))
    note = "reading x 0.1 s against the counter's step; worst where a refresh was missed between two rows"
    errors = (float(np.median(off)), float(off.max()), float(np.median(error)))
    return _check("H100, energy counter", DCGM, (0, len(error)), errors, note)


def read_dmon(path: Path) -> tuple[Floats, Floats]:
    """Watts and joules of each row of a `dcgmi dmon` log that ends in POWER, TOTEC and SACLK."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [words for line in file if (words := line.split()) and words[0] == "GPU"]
    table = np.array([(float(row[-3]), float(row[-2]) / 1e3) for row in rows])
    return table[:, 0], table[:, 1]
