"""Node power of the server cards against wall power at known GPU limits."""

import csv
from pathlib import Path

import numpy as np

from sim_backend.calibration.servers import BERT, H200, SMC, Point, read_immersed, read_points
from sim_backend.cards.server_card import load_server, node_w
from sim_backend.fidelity.check import Check, errors_of

GROUP = "Server power (wall)"
LIMIT = 0.05
PEAK_H100_W = 8480.0
"""Largest wall power of an air-cooled 8 x H100 HGX node in training and stress tests (arXiv 2412.08602)."""
ACME = "acme-a100-power-cdf"
_FOLDERS = {"hgx-h200": H200, "dgx-a100": BERT, "g482-h100-pcie": BERT, "smc-h100": SMC}


def checks(data: Path) -> list[Check]:
    """Errors of node power at states no parameter was fitted to, idle and under load."""
    points = read_points(data) + read_immersed(data)
    lines = []
    for server, folder in _FOLDERS.items():
        for state in ("load", "full", "idle"):
            chosen = [p for p in points if p.server == server and p.run.endswith(state) and not p.fitted]
            if chosen:
                fitted = sum(p.fitted for p in points if p.server == server)
                lines.append(_check(server, folder, state, chosen, fitted))
    return [*lines, _published_peak(), _production_mean(data)]


def _check(server: str, folder: str, state: str, points: list[Point], fitted: int) -> Check:
    card = load_server(server)
    model_w = np.array([float(node_w(card, point.gpus_w)) for point in points])
    median, worst, bias = errors_of(model_w, np.array([point.wall_w for point in points]))
    return Check(
        group=GROUP,
        quantity=f"{server}, {state}",
        source=folder,
        fitted_points=fitted,
        held_out_points=len(points),
        median_error=median,
        worst_error=worst,
        limit=LIMIT,
        bias=bias,
        limit_on_worst=True,
        note="GPUs taken at their limit" if state != "idle" else "idle GPUs taken from other sources",
    )


def _published_peak() -> Check:
    card = load_server("dgx-h100")
    error = float(node_w(card, card.gpus_tdp_w)) / PEAK_H100_W - 1.0
    return Check(
        group=GROUP,
        quantity="dgx-h100, GPUs at their limit",
        source="arXiv 2412.08602",
        fitted_points=0,
        held_out_points=1,
        median_error=abs(error),
        worst_error=abs(error),
        limit=LIMIT,
        bias=error,
        limit_on_worst=True,
        note="a peak, of another maker's server with the same baseboard",
    )


def _production_mean(data: Path) -> Check:
    """Mean node power of a training cluster at its mean GPU power: other servers, whose processors work too."""
    means = []
    for name in ("gpu_power_seren", "server_power_seren_gpu_node"):
        with (data / ACME / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = [(float(row["cdf_pct"]), float(row["power_w"])) for row in csv.DictReader(file)]
        share, power_w = np.array(rows).T
        means.append(float(np.interp((np.arange(1000) + 0.5) / 10.0, share, power_w).mean()))
    card = load_server("dgx-a100")
    error = float(node_w(card, card.gpus * means[0])) / means[1] - 1.0
    return Check(
        group=GROUP,
        quantity="dgx-a100, mean of a month",
        source=ACME,
        fitted_points=0,
        held_out_points=1,
        median_error=abs(error),
        worst_error=abs(error),
        limit=LIMIT,
        bias=error,
        limit_on_worst=True,
        note="other makers' servers in a training cluster, whose processors have work too",
    )
