"""The whole job: settle the budget, run every policy at every size of fleet, compare each with the fleet uncapped."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from policies.errors import ConfigError, DataError
from sim_backend import runs
from sim_backend.fleet import build_servers
from sim_backend.meter import largest_rise
from sim_backend.pool import Pool, Progress, Tracker
from sim_backend.recorded_power import RecordedPower
from sim_backend.result import ReplayResult, RunResult
from sim_backend.runs import LoopTask, Reference, ReferenceTask
from sim_backend.site import RECORDED, Guarantee, Site
from sim_backend.six_weeks import SixWeeksParams
from sim_backend.versions import versions
from sim_backend.workload import SIX_WEEKS, Workload, measure_load_curve

REFERENCE_COST = 0.4
"""Time of an uncapped reference run over that of a closed loop, for the progress bar alone."""


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """What the operator asks."""

    site: Site
    requests: str | None
    """Path of a trace, or 'six-weeks'; None: recorded power alone."""
    policies: tuple[str, ...]
    guarantees: tuple[str, ...]
    add_servers_pct: tuple[float, ...]
    seed: int = 0
    days: float | None = None
    start_day: float = 0.0
    rate: float = 1.0
    compress_time: float = 1.0
    power: RecordedPower | None = None
    """The work of servers whose role is 'recorded'."""
    processes: int = 1
    journal: Path | None = None
    check_every: int = 0
    """Invariants are checked every so many steps; 0: never."""
    command: str = ""
    """How to run this again, for the report."""


def run_replay(job: ReplayJob, progress: Progress) -> ReplayResult:
    """Simulate everything asked for; the same job gives the same result, in one process or several."""
    if job.journal is not None and len(job.policies) * len(job.guarantees) * len(job.add_servers_pct) != 1:
        raise ConfigError("--record keeps one run: give one policy, one guarantee and one number of added servers")
    progress(0.0, "load curve")
    workload, site = prepared(job)
    study = _studied(site)
    _check_failsafe(job, _any_budget(site, study))
    _check_length(workload, site)
    base = build_servers(_any_budget(site, study), 0.0).count
    pcts = tuple(dict.fromkeys((0.0, *job.add_servers_pct)))
    loops = len(job.policies) * len(job.guarantees) * len(job.add_servers_pct)
    tracker = Tracker(progress, len(pcts) * REFERENCE_COST + loops)
    with Pool(job.processes if loops > 1 else 1) as pool:
        # The largest fleets first: what is done last decides how long one process waits for another.
        ordered = sorted(pcts, reverse=True)
        tasks = [ReferenceTask(_any_budget(site, study), workload, pct) for pct in ordered]
        found = pool.map(runs.run_reference, tasks, tracker, REFERENCE_COST, "uncapped")
        references = dict(zip(ordered, found, strict=True))
        site, derivation = _settled(site, study, references[0.0])
        _check_failsafe(job, site)
        # Only what users got is compared: the power series of six weeks need not travel to every process.
        compared = {pct: replace(reference, power_w=np.empty(0)) for pct, reference in references.items()}
        loop_tasks = [
            LoopTask(site, workload, policy, Guarantee(guarantee), pct, job.seed, job.check_every, compared[pct],
                     job.journal)
            for guarantee in job.guarantees
            for policy in job.policies
            for pct in job.add_servers_pct
        ]  # fmt: skip
        largest_first = sorted(range(loops), key=lambda index: -loop_tasks[index].add_pct)
        done = pool.map(runs.run_loop, [loop_tasks[index] for index in largest_first], tracker, 1.0, "closed loop")
    results: list[RunResult] = [done[largest_first.index(index)] for index in range(loops)]
    header = _header(job, site, study, references, base)
    header |= {"workload": workload.name, "budget_derivation": derivation}
    if recorded := sum(group.count for group in site.servers if group.role == RECORDED):
        header["recorded_servers"] = recorded
    return ReplayResult(header, tuple(results))


def prepared(job: ReplayJob) -> tuple[Workload, Site]:
    """The workload, its load curve measured if it needs one, and the site as the job has it."""
    site = job.site
    workload = Workload(
        requests=job.requests,
        seed=job.seed,
        days=job.days,
        start_day=job.start_day,
        rate=job.rate,
        compress_time=job.compress_time,
        low_share=site.low_share,
        overrides=dict(site.workload),
        base_servers=sum(g.count for g in site.servers if g.role != RECORDED),
        power=job.power,
    )
    if job.requests == SIX_WEEKS:
        params = SixWeeksParams().with_overrides(dict(site.workload))
        serving = replace(site, servers=tuple(g for g in site.servers if g.role != RECORDED))
        servers = build_servers(_any_budget(serving, _studied(site)), 0.0)
        workload = replace(workload, curve=measure_load_curve(serving, servers, params, job.seed))
    return workload, site


def uncapped_at(workload: Workload, site: Site, add_pct: float) -> Reference:
    """The fleet without any cap."""
    return runs.run_reference(ReferenceTask(_any_budget(site, _studied(site)), workload, add_pct))


def _studied(site: Site) -> str:
    """The domain whose budget the question is about: the first that has one, or is to be given one."""
    study = next((d.name for d in site.domains if d.budget_w is not None or d.peak_ratio is not None), None)
    if study is None:
        raise ConfigError(f"site '{site.name}' has no domain with a budget: nothing limits the number of servers")
    for domain in site.domains:
        if domain.name != study and domain.budget_w is None and domain.peak_ratio is not None:
            raise ConfigError(
                f"site '{site.name}': only the budget of its first domain, '{study}', can be derived; "
                f"give domain '{domain.name}' a budget_w instead of peak_ratio"
            )
    return study


def _check_length(workload: Workload, site: Site) -> None:
    """Refuse what ends before the meter has spoken: no figure could be told."""
    least_s = site.actuation.meter_window_s + site.actuation.meter_delay_s
    lasts_s = workload.source(workload.base_servers).duration_s
    if lasts_s < least_s:
        raise DataError(
            f"{workload.name}: {lasts_s:.3g} s are simulated, but the first reading of the meter comes after "
            f"{least_s} s: give a longer trace, or more --days"
        )


def _check_failsafe(job: ReplayJob, site: Site) -> None:
    """Refuse a promise that could not be kept once nobody leads: caps lowered to fit all servers, but too low to keep.

    Under the reactive guarantee, which promises nothing, it is only a figure of the header.
    """
    if Guarantee.HARD not in job.guarantees:
        return
    for pct in sorted(job.add_servers_pct):
        servers = build_servers(site, pct)
        floor_w = servers.failsafe_floor_w()
        short = np.flatnonzero(servers.failsafe_w < floor_w - 1e-6)
        if short.size:
            row = int(short[0])
            raise ConfigError(
                f"site '{site.name}', {servers.count} servers ({pct:+g} %): their failsafe caps must be lowered to "
                f"{servers.failsafe_w[row]:.0f} W each to fit the budget of {servers.budget_w[0]:.0f} W, but one may "
                f"draw {floor_w[row]:.0f} W with all GPUs at their lowest limit and clock: add fewer servers, or "
                "compare with --guarantee reactive"
            )


def _kept_over_budget(job: ReplayJob, site: Site) -> float:
    """What the servers of the largest fleet may draw with nobody leading, over the budget that is worst off."""
    servers = build_servers(site, max(job.add_servers_pct))
    kept_w = np.maximum(servers.failsafe_w, servers.failsafe_floor_w())
    return float((servers.constraints.total(kept_w) / servers.budget_w).max())


def _any_budget(site: Site, study: str) -> Site:
    """The site with a stand-in where the budget is still to be derived; uncapped runs do not look at it."""
    return site if site.domain(study).budget_w is not None else site.with_budget(study, math.inf)


def _settled(site: Site, study: str, reference: Reference) -> tuple[Site, dict[str, object]]:
    """The site with its budget in watts: as given, or the uncapped peak of the fleet at hand over `peak_ratio`."""
    domain = site.domain(study)
    window_s = site.actuation.meter_window_s
    readings = reference.readings_w(window_s)
    peak_w = float(readings.max())
    if domain.budget_w is not None:
        budget_w = domain.budget_w
        how = "given in the site file"
    else:
        assert domain.peak_ratio is not None
        budget_w = peak_w / domain.peak_ratio
        how = f"peak of the uncapped fleet before servers are added / {domain.peak_ratio:g}"
    derivation: dict[str, object] = {
        "how": how,
        "uncapped_peak_w": peak_w,
        "uncapped_mean_over_budget": float(readings.mean()) / budget_w,
        "uncapped_peak_over_budget": peak_w / budget_w,
        "uncapped_rise_2s_points": 100.0 * largest_rise(readings, max(1, 2 // window_s)) / budget_w,
        "uncapped_rise_40s_points": 100.0 * largest_rise(readings, 40 // window_s) / budget_w,
    }
    return site.with_budget(study, budget_w), derivation


def _uncontrolled(references: dict[float, Reference], budget_w: float, base: int, window_s: int) -> dict[str, float]:
    """Servers that fit with no control: uncapped peak plus the largest 40 s rise under the budget.

    Between the sizes that were run it is interpolated; from a single one it is scaled.
    """
    pcts = sorted(references)
    needed_w = [_peak_and_rise_w(references[p], window_s) for p in pcts]
    # A larger fleet that happens to need less than a smaller one does not count in its favour.
    needed_w = np.maximum.accumulate(needed_w).tolist()
    servers = [float(references[p].servers) for p in pcts]
    if budget_w <= needed_w[0] or len(pcts) == 1:
        fit = servers[0] * budget_w / needed_w[0]
    elif budget_w >= needed_w[-1]:
        fit = servers[-1] * budget_w / needed_w[-1]
    else:
        fit = float(np.interp(budget_w, needed_w, servers))
    whole = math.floor(fit + 1e-9)
    return {"servers": float(whole), "add_servers_pct": 100.0 * (whole / base - 1.0)}


def _peak_and_rise_w(reference: Reference, window_s: int) -> float:
    readings = reference.readings_w(window_s)
    return float(readings.max()) + largest_rise(readings, 40 // window_s)


def _header(job: ReplayJob, site: Site, study: str, references: dict[float, Reference], base: int) -> dict[str, object]:
    budget_w = site.domain(study).budget_w
    assert budget_w is not None
    reference = references[0.0]
    window_s = site.actuation.meter_window_s
    return {
        "site": site.name,
        "domain": study,
        "seed": job.seed,
        "days": job.days,
        "start_day": job.start_day,
        "rate": job.rate,
        "compress_time": job.compress_time,
        "duration_s": float(reference.power_w.size),
        "budget_w": budget_w,
        "servers_at_0_pct": base,
        "other_w": reference.other_w,
        "failsafe_sum_over_budget": _kept_over_budget(job, site),
        "uncontrolled": _uncontrolled(references, budget_w, base, window_s),
        "command": job.command,
        "versions": versions(),
    }
