"""A replay result with plausible figures, made without running anything."""

import numpy as np

from sim_backend.result import LATENCY_METRICS, PRIORITIES, LatencyCurve, PowerSeries, ReplayResult, RunResult

BUDGET_W = 226_000.0
BASE_SERVERS = 40
DAY_S = 86_400.0
POLICIES = ("no-cap", "one-threshold-low", "one-threshold-all", "fair-share", "polca")
UNCAPPED_S = {
    "high": {"ttft_s": (0.42, 0.55), "tbt_s": (0.041, 0.18), "e2e_s": (48.0, 0.45)},
    "low": {"ttft_s": (0.66, 0.60), "tbt_s": (0.042, 0.20), "e2e_s": (22.0, 0.50)},
}
"""Median and log-spread of a log-normal, per priority and metric."""


def fake_result(
    ratios_pct: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0),
    policies: tuple[str, ...] = POLICIES,
    paths: tuple[tuple[str, str], ...] = (("reactive", "out-of-band"), ("hard", "in-band")),
    days: float = 42.0,
    bins: int = 1500,
) -> ReplayResult:
    """A job of every policy, ratio and path."""
    runs = [
        fake_run(policy, pct, guarantee, actuation, days, bins)
        for guarantee, actuation in paths
        for policy in policies
        for pct in ratios_pct
    ]
    return ReplayResult(fake_header(days), tuple(runs))


def fake_header(days: float = 42.0) -> dict[str, object]:
    """What was run, as a replay would say it."""
    return {
        "site": "polca-row",
        "domain": "row-1",
        "start_day": 0.0,
        "rate": 1.0,
        "compress_time": 1.0,
        "workload": "six-weeks",
        "seed": 7,
        "days": days,
        "duration_s": days * DAY_S,
        "versions": {"overwatt": "0.1.0", "python": "3.11.2", "numpy": "2.4.6", "numba": "0.68.1"},
        "budget_w": BUDGET_W,
        "budget_derivation": {
            "how": "peak of the uncapped fleet before servers are added / 0.79",
            "uncapped_peak_w": 178_540.0,
            "uncapped_peak_over_budget": 0.79,
            "uncapped_rise_40s_points": 11.3,
        },
        "servers_at_0_pct": BASE_SERVERS,
        "other_w": 1200.0,
        "failsafe_sum_over_budget": 0.552,
        "uncontrolled": {"servers": 43, "add_servers_pct": 7.5},
        "command": "overwatt replay --requests six-weeks --site docs/examples/polca-row.toml "
        "--policy no-cap,polca --add-servers 0,30 --seed 7 --json build/demo.json --html build/demo.html",
    }


def fake_run(
    policy: str,
    pct: float,
    guarantee: str = "reactive",
    actuation: str = "out-of-band",
    days: float = 42.0,
    bins: int = 1500,
) -> RunResult:
    """One run: the more servers and the blunter the policy, the worse."""
    seed = abs(hash((len(policy), int(pct), len(guarantee)))) % 2**32
    rng = np.random.default_rng(seed)
    servers = round(BASE_SERVERS * (1.0 + pct / 100.0))
    strength = {"no-cap": 0.0, "one-threshold-low": 0.2, "one-threshold-all": 0.3, "fair-share": 0.25}.get(policy, 1.0)
    pressure = max(0.0, pct - 8.0) / 42.0
    series = _series(rng, servers, days, bins, strength)
    brakes = int(series.braked.sum())
    slow = {"high": 0.02 * strength * pressure**2 + 0.0001 * brakes, "low": 0.09 * strength * pressure**1.5}
    if policy == "one-threshold-all":
        slow["high"] = slow["low"]
    uncapped, capped = _curves(rng, {"high": 0.0, "low": 0.0}), _curves(rng, slow)
    figures = _figures(series, slow, brakes, days, (strength, pressure))
    return RunResult(policy, pct, servers, actuation, guarantee, figures, series, capped, uncapped)


def _series(rng: np.random.Generator, servers: int, days: float, bins: int, strength: float) -> PowerSeries:
    bin_s = days * DAY_S / bins
    time_s = (np.arange(bins) + 0.5) * bin_s
    day = np.sin(2 * np.pi * (time_s / DAY_S - 0.35))
    week = 1.0 - 0.06 * ((time_s // DAY_S) % 7 >= 5)
    per_server_w = (3550.0 + 420.0 * day + 60.0 * rng.standard_normal(bins)) * week
    mean_w = per_server_w * servers
    soft_w = BUDGET_W * 0.89
    mean_w = np.where(mean_w > soft_w, soft_w + (mean_w - soft_w) * (1.0 - 0.8 * strength), mean_w)
    high_w = mean_w * (1.06 + 0.02 * rng.random(bins))
    low_w = mean_w * (0.93 - 0.02 * rng.random(bins))
    capped = np.clip((high_w / BUDGET_W - 0.85) * 6.0, 0.0, 1.0) * (strength > 0.0)
    braked = high_w > BUDGET_W
    worst = _worst(rng, float(high_w.max()), strength, bool(braked.any()))
    start_s = float(time_s[int(np.argmax(high_w))])
    return PowerSeries(bin_s, low_w, mean_w, high_w, capped, braked, start_s, *worst)


def _worst(rng: np.random.Generator, peak_w: float, strength: float, braked: bool) -> tuple[np.ndarray, ...]:
    second = np.arange(120)
    rise = 1.0 / (1.0 + np.exp(-(second - 55) / 6.0))
    fall = 1.0 / (1.0 + np.exp(-(second - 95) / 3.0)) * (0.09 if strength else 0.0)
    watts = peak_w * (0.86 + 0.13 * rise - fall + 0.006 * rng.standard_normal(120))
    meter = np.concatenate([np.full(3, watts[0]), (watts[:-3] + watts[1:-2]) / 2.0])
    capped = np.clip((second - 90) / 5.0, 0.0, 1.0) * (1.0 if strength else 0.0) * 0.5 + (0.25 if strength else 0.0)
    brake = np.zeros(120, dtype=bool)
    if braked:
        brake[66:96] = True
        watts[70:99] *= 0.62
    return watts, meter, capped, brake


def _curves(rng: np.random.Generator, slow: dict[str, float]) -> dict[str, dict[str, LatencyCurve]]:
    share = np.concatenate([np.linspace(0.0, 0.99, 200), 1.0 - np.logspace(-2, -4, 60)[1:]])
    normal = np.sort(rng.standard_normal(200_000))
    quantile = np.quantile(normal, share)
    curves: dict[str, dict[str, LatencyCurve]] = {}
    for priority in PRIORITIES:
        curves[priority] = {}
        for metric in LATENCY_METRICS:
            median, spread = UNCAPPED_S[priority][metric]
            stretch = 1.0 + slow[priority] * (1.0 + 4.0 * np.clip(share - 0.5, 0.0, 1.0))
            curves[priority][metric] = LatencyCurve(median * np.exp(spread * quantile) * stretch, share)
    return curves


def _figures(
    series: PowerSeries, slow: dict[str, float], brakes: int, days: float, shape: tuple[float, float]
) -> dict[str, object]:
    strength, pressure = shape
    change = {p: {"p50": 100.0 * slow[p], "p90": 260.0 * slow[p], "p99": 300.0 * slow[p]} for p in PRIORITIES}
    peak = float(series.high_w.max()) / BUDGET_W
    heat = max(0.0, peak - 1.0) * 8.0
    latency = {
        p: {
            m: {"p50": v[0], "p90": v[0] * np.exp(1.2816 * v[1]), "p99": v[0] * np.exp(2.3263 * v[1])}
            for m, v in UNCAPPED_S[p].items()
        }
        for p in PRIORITIES
    }
    return {
        "brakes": brakes,
        "breaker_trips": int(heat > 1.0),
        "breaker_heat_max_ratio": heat,
        "overload_left_min_s": 10.0 - 8.0 * heat if heat > 0.0 else None,
        "peak_over_budget": peak * 0.99,
        "p99_over_budget": float(np.quantile(series.mean_w, 0.99)) / BUDGET_W,
        "peak_1s_over_budget": peak,
        "rise_2s_points": 8.4,
        "rise_40s_points": 11.3,
        "above_t1_s": float((series.mean_w > 0.80 * BUDGET_W).sum() * series.bin_s),
        "above_t2_s": float((series.mean_w > 0.89 * BUDGET_W).sum() * series.bin_s),
        "capped_s": {"low": 3.1e5 * strength * pressure, "high": 2.2e4 * strength * pressure**2},
        "commands": {"sent": int(41_000 * pressure * strength), "failed": 0, "reissued": 0},
        "latency": latency,
        "latency_change_pct": {p: {q: change[p][q] for q in ("p50", "p99")} for p in PRIORITIES},
        "latency_change_detail_pct": {p: dict.fromkeys(LATENCY_METRICS, change[p]) for p in PRIORITIES},
        "worst_hour_change_pct": {
            p: {"p50": 2.0 * change[p]["p50"], "p99": 2.0 * change[p]["p99"]} for p in PRIORITIES
        },
        "throughput_tokens_per_s": {"low": 812.4, "high": 1290.7},
        "throughput_change_pct": {p: -8.0 * slow[p] for p in PRIORITIES},
        "goodput_rps": {"low": 0.22 - 0.1 * pressure, "high": 0.49},
        "slo_attainment_ratio": {"low": 0.997 - 0.01 * pressure, "high": 0.999},
        "requests": {
            "arrived": {"low": 1_054_630, "high": 1_757_715},
            "completed": {"low": 1_054_603, "high": 1_757_698},
            "in_flight": {"low": 27, "high": 17},
            "rejected": {"low": 0, "high": 0},
        },
        "energy_j": float(series.mean_w.mean()) * days * DAY_S,
        "seed": 7,
    }
