"""Which assumptions decide the published statistics of the six weeks: one row of a table per changed assumption.

The row is POLCA's 40 servers without caps. Published: a peak of 79 % of what is provisioned (met by definition here,
as provisioned power is derived from it), largest rises of 9 points within 2 s and 11.8 within 40 s.
"""

from dataclasses import replace
from pathlib import Path

from daemon.config import load_site
from sim_backend.meter import largest_rise
from sim_backend.replay import ReplayJob, prepared, uncapped_at
from sim_backend.runs import Reference

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
SEED = 1
PEAK_RATIO = 0.79
CASES: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("1.2 kW, as shipped", "polca-row.toml", {}),
    ("requests shared out evenly", "polca-row.toml", {"pack_to": 1.0}),
    ("servers filled to 2", "polca-row.toml", {"pack_to": 2.0}),
    ("servers filled to 8", "polca-row.toml", {"pack_to": 8.0}),
    ("deeper nights (trough 0.4)", "polca-row.toml", {"trough_ratio": 0.4}),
    ("shallow nights (trough 0.8)", "polca-row.toml", {"trough_ratio": 0.8}),
    ("fewer requests at the peak (0.06 / s)", "polca-row.toml", {"peak_rate_rps": 0.06}),
    ("more requests at the peak (0.13 / s)", "polca-row.toml", {"peak_rate_rps": 0.13}),
    ("no flashes", "polca-row.toml", {"flash_per_day": 0.0}),
    ("no bursts at all", "polca-row.toml", {"flash_per_day": 0.0, "burst_cv": 0.0, "jump_cv": 0.0}),
    ("strong bursts (cv 0.15 each)", "polca-row.toml", {"burst_cv": 0.15, "jump_cv": 0.15}),
    ("2.8 kW, as shipped", "polca-row-2800.toml", {}),
    ("2.8 kW, bursts of 1.2 kW", "polca-row-2800.toml", {"burst_cv": 0.05, "jump_cv": 0.05, "flash_requests": 0.45}),
)  # fmt: skip


def measured(site_file: str, changes: dict[str, float], seed: int = SEED) -> Reference:
    """The 40 servers uncapped for six weeks, some assumptions changed."""
    site = load_site(EXAMPLES / site_file)
    workload = {key: value for key, value in changes.items() if key != "pack_to"}
    site = replace(site, workload={**site.workload, **workload}, pack_to=int(changes.get("pack_to", site.pack_to)))
    job = ReplayJob(site, "six-weeks", ("polca",), ("reactive",), (0.0,), seed)
    return uncapped_at(*prepared(job), 0.0)


def row(words: str, reference: Reference) -> str:
    """One line of the table."""
    readings = reference.readings_w(2)
    provisioned_w = float(readings.max()) / PEAK_RATIO
    rise_2s, rise_40s = (100.0 * largest_rise(readings, steps) / provisioned_w for steps in (1, 20))
    per_server_kw = provisioned_w / reference.servers / 1e3
    mean = float(readings.mean()) / provisioned_w
    return f"| {words} | {per_server_kw:.2f} | {100 * mean:.1f} | {rise_2s:.1f} | {rise_40s:.1f} |"


def main() -> None:
    """Print the table as Markdown."""
    print("| changed | provisioned kW per server | mean / provisioned % | rise 2 s | rise 40 s |")
    print("|---|---:|---:|---:|---:|")
    for words, site_file, changes in CASES:
        print(row(words, measured(site_file, changes)), flush=True)
    for seed in (2, 3):
        print(row(f"1.2 kW, seed {seed}", measured("polca-row.toml", {}, seed)), flush=True)
        print(row(f"2.8 kW, seed {seed}", measured("polca-row-2800.toml", {}, seed)), flush=True)


if __name__ == "__main__":
    main()
