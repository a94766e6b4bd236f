"""Which assumption decides what the users of POLCA's row pay: six weeks, +30 % servers, one assumption changed a row.

Prints the table of docs/sensitivity.md; about ten minutes on two cores.
"""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.config import load_site
from sim_backend.profile import SHIPPED
from sim_backend.replay import ReplayJob, run_replay
from sim_backend.report import json_out
from sim_backend.site import Site

SITE = Path(__file__).parent.parent / "docs" / "examples" / "polca-row.toml"
SEED = 1
ADD_PCT = 30.0
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One changed assumption."""

    words: str
    policy: str = "polca"
    workload: dict[str, float] = field(default_factory=dict)
    params: dict[str, float] = field(default_factory=dict)
    actuation: dict[str, float] = field(default_factory=dict)
    profile: dict[str, str] = field(default_factory=dict)
    """Text of the shipped profile -> what stands there instead."""
    seed: int = SEED
    pack_to: int | None = None


POWER_LAW = "static_share = 0.35\nexponent = 1.48"
CASES = (
    Case("as shipped"),
    Case("seed 2", seed=2),
    Case("deeper nights (power trough 0.4 of peak)", workload={"trough_ratio": 0.4}),
    Case("shallow nights (trough 0.8)", workload={"trough_ratio": 0.8}),
    Case("requests shared out evenly", pack_to=1),
    Case("decode bound less by the clock (share 0.10)", profile={"clock_share = 0.23": "clock_share = 0.10"}),
    Case("clock law a = 0.5, n = 2.06", profile={POWER_LAW: "static_share = 0.5\nexponent = 2.06"}),
    Case("1 % of commands lost", actuation={"failure_probability": 0.01}),
    Case("5 % of commands lost", actuation={"failure_probability": 0.05}),
    Case("one-threshold-low at 1275 MHz", "one-threshold-low", params={"low_mhz": 1275.0}),
    Case("one-threshold-low at 95 %", "one-threshold-low", params={"cap_at": 0.95}),
    Case("one-threshold-all at 1305 MHz", "one-threshold-all", params={"low_mhz": 1305.0, "high_mhz": 1305.0}),
)


def changed(case: Case, folder: Path) -> Site:
    """The shipped site with the assumption of `case` in place."""
    site = load_site(SITE)
    groups = site.servers
    if case.profile:
        text = (SHIPPED / f"{groups[0].profile}.toml").read_text(encoding="utf-8")
        for old, new in case.profile.items():
            if old not in text:
                sys.exit(f"sensitivity: '{old}' is not in the shipped profile any more")
            text = text.replace(old, new)
        path = folder / "changed.toml"
        path.write_text(text, encoding="utf-8")
        groups = tuple(replace(g, profile=str(path)) for g in groups)
    actuation: Callable[..., Any] = replace
    return replace(
        site,
        servers=groups,
        workload={**site.workload, **case.workload},
        policy={**site.policy, case.policy: {**site.policy.get(case.policy, {}), **case.params}},
        actuation=actuation(site.actuation, **case.actuation),
        pack_to=site.pack_to if case.pack_to is None else case.pack_to,
    )


def row(case: Case) -> str:
    """Run one case and give its line."""
    with tempfile.TemporaryDirectory() as folder:
        job = ReplayJob(changed(case, Path(folder)), "six-weeks", (case.policy,), ("reactive",), (ADD_PCT,), case.seed)
        entry: dict[str, Any] = json_out.as_object(run_replay(job, lambda share, what: None))
    run, how = entry["runs"][0], entry["header"]["budget_derivation"]
    change = run["latency_change_pct"]
    cells = [
        case.words,
        f"{how['uncapped_rise_2s_points']:.1f} / {how['uncapped_rise_40s_points']:.1f}",
        str(run["brakes"]),
        f"{100 * run['peak_over_budget']:.1f}",
        *(f"{change[p][q]:+.2f}" for p in ("high", "low") for q in ("p50", "p99")),
        f"{run['capped_s']['high'] / 3600:.0f} / {run['capped_s']['low'] / 3600:.0f}",
        f"{run['commands']['failed']} / {run['commands']['reissued']}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    print("| assumption | rise 2 s / 40 s | brakes | peak % | HP P50 | HP P99 | LP P50 | LP P99 | capped h HP / LP |"
          " commands lost / re-issued |")  # fmt: skip
    print("|---|" + "---:|" * 9)
    with ProcessPoolExecutor(PROCESSES) as pool:
        for line in pool.map(row, CASES):
            print(line, flush=True)


if __name__ == "__main__":
    main()
