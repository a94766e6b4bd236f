"""Fits server cards to wall power recorded under GPU limits that bind, and reads those recordings."""

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError
from sim_backend.calibration.fits import nonnegative_fit, rounded
from sim_backend.cards.server_card import ServerCard, dc_w, load_server

Floats = NDArray[np.float64]

H200 = "mlperf-inference-v4.1-h200"
BERT = "mlperf-inference-a100-h100pcie-bert"
SMC = "mlperf-training-v4.0-smc-h100"
IDLE_S = 6
"""Seconds at the end of a recording in which the job has gone: an idle server."""
SETTLED_S = 300
"""Fans have settled by then."""
H100_TDP_W = 700.0
IDLE_GPU_W = {"hgx-h200": 80.0, "dgx-a100": 60.0, "g482-h100-pcie": 50.0, "smc-h100": 70.0}
"""One GPU without a process. Not measured with these servers: an error of 10 W of one GPU moves `base_w` by 80 W and
the model at load by nothing, since the idle server is a fitted point."""


@dataclass(frozen=True, slots=True)
class Point:
    """One steady state of one server."""

    server: str
    """Name of its card."""
    run: str
    gpus_w: float
    wall_w: float
    fitted: bool


_RUNS = (
    # server, folder, file, limit of one GPU, whether the fit sees it
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__llama2-70b-99__Offline__run_1", 500.0, True),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__llama2-70b-99__Offline__ranging", 500.0, False),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__llama2-70b-99__Server__run_1", 500.0, False),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__llama2-70b-99__Server__ranging", 500.0, False),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__gptj-99__Offline__run_1", 350.0, False),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__gptj-99__Offline__ranging", 350.0, False),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__gptj-99__Server__run_1", 350.0, False),
    ("hgx-h200", H200, "H200-SXM-141GBx8_TRT_MaxQ__gptj-99__Server__ranging", 350.0, False),
    ("dgx-a100", BERT, "DGX-A100_A100-SXM-80GBx8_TRT_MaxQ__bert-99__Offline__run_1", 275.0, True),
    ("dgx-a100", BERT, "DGX-A100_A100-SXM-80GBx8_TRT_MaxQ__bert-99__Server__run_1", 275.0, False),
    ("g482-h100-pcie", BERT, "H100-PCIe-80GBx8_TRT_MaxQ__bert-99__Server__run_1", 300.0, True),
    ("g482-h100-pcie", BERT, "H100-PCIe-80GBx8_TRT_MaxQ__bert-99__Server__ranging", 300.0, False),
    ("g482-h100-pcie", BERT, "H100-PCIe-80GBx8_TRT_MaxQ__bert-99__Offline__run_1", 290.0, False),
    ("g482-h100-pcie", BERT, "H100-PCIe-80GBx8_TRT_MaxQ__bert-99__Offline__ranging", 290.0, False),
)


def read_node(path: Path) -> tuple[Floats, NDArray[np.str_]]:
    """Watts by second (NaN where the analyser failed) and the phase of each: pre, load, post.

    Raises:
        DataError: no such recording, or not one of this form.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = [(row["node_power_w"], row["phase"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: not a normalised recording of node power ({error}); fetch it again") from error
    watts = np.array([float(cell) if cell else np.nan for cell, _ in rows])
    return watts, np.array([phase for _, phase in rows])


def read_points(data: Path) -> list[Point]:
    """Steady states of the air-cooled servers: idle after the job, and the mean of the load window."""
    points = []
    for server, folder, name, limit_w, fitted in _RUNS:
        watts, phase = read_node(data / folder / "normalised" / f"{name}.csv.gz")
        gpus = load_server(server).gpus
        run = "__".join(name.split("__")[1:])
        idle_w, load_w = float(np.nanmean(watts[-IDLE_S:])), float(np.nanmean(watts[phase == "load"]))
        points.append(Point(server, f"{run} idle", gpus * IDLE_GPU_W[server], idle_w, fitted))
        points.append(Point(server, f"{run} load", gpus * limit_w, load_w, fitted))
    return points


def read_immersed(data: Path) -> list[Point]:
    """Idle and full steady states of the immersed H100 servers, from the input sensor.

    Idle: half a percent of the samples of the runs in which nodes wait (U-Net on nine nodes). Full: 99.5 % of those
    that train on one node, whose GPUs work at their limit. The fit sees the idle state of one run.
    """
    card = load_server("smc-h100")
    points: list[Point] = []
    for path in sorted((data / SMC / "normalised").glob("*.csv.gz")):
        kind = path.name.split("__")[0]
        if kind not in ("1xSMC-H100-SXM-80GB", "9xSMC-H100-SXM-80GB"):
            continue
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            watts = np.array([float(row["power_w"]) for row in csv.DictReader(file) if row["sensor"] == "ac"])
        full = kind.startswith("1x")
        gpus_w = card.gpus_tdp_w if full else card.gpus * IDLE_GPU_W[card.name]
        wall = float(np.percentile(watts, 99.5 if full else 0.5))
        state = "full" if full else "idle"
        points.append(Point(card.name, f"{path.name.split('__')[2][:-7]} {state}", gpus_w, wall, not points))
    return points


def fit_server(points: list[Point], server: str) -> tuple[float, float]:
    """(base_w, fans_full_w) of `server` from its fitted points; no fans where only one state is to be fitted."""
    card = load_server(server)
    seen = [point for point in points if point.server == server and point.fitted]
    gpus_w, wall_w = np.array([point.gpus_w for point in seen]), np.array([point.wall_w for point in seen])
    return fit_base_and_fans(card, gpus_w, wall_w)


def fit_base_and_fans(card: ServerCard, gpus_w: Floats, wall_w: Floats) -> tuple[float, float]:
    """(base_w, fans_full_w) of a server from steady states; no fans where only one is given."""
    rest_w = dc_w(wall_w, card.psu_rated_w) - gpus_w
    cubes = (gpus_w / card.gpus_tdp_w) ** 3
    columns = np.column_stack([np.ones_like(cubes), cubes])[:, : len(gpus_w)]
    found = (*nonnegative_fit(columns, rest_w), 0.0)
    return rounded(found[0], 3), rounded(found[1], 3)


def fans_settle_s(watts: Floats, phase: NDArray[np.str_]) -> float:
    """Time constant of the slow rise after the load's start: the area under what is missing, over its height.

    NaN where nothing rises by more than 1 % after the first 10 s.
    """
    load_w = watts[phase == "load"][10:]
    end_w = float(np.nanmean(load_w[SETTLED_S:]))
    missing_w = end_w - load_w[:SETTLED_S]
    height_w = float(np.nanmean(missing_w[:10]))
    return float(np.nansum(missing_w) / height_w) if height_w > 0.01 * end_w else float("nan")


def fit(data: Path) -> dict[str, tuple[float, float, float]]:
    """(base_w, fans_full_w, fans_s) of each measured server, by name of its card; fans_s NaN where nothing rises."""
    points = read_points(data) + read_immersed(data)
    settle_s: dict[str, list[float]] = {}
    for server, folder, name, _, _ in _RUNS:
        watts, phase = read_node(data / folder / "normalised" / f"{name}.csv.gz")
        settle_s.setdefault(server, []).append(fans_settle_s(watts, phase))
    found = {}
    for server in sorted({point.server for point in points}):
        rises = [s for s in settle_s.get(server, []) if s == s]
        fans_s = rounded(float(np.median(rises)), 2) if rises else float("nan")
        found[server] = (*fit_server(points, server), fans_s)
    return found
