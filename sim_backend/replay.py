"""The whole job: settle the budget, run every policy at every size of fleet, compare each with the fleet uncapped."""

import math
import platform
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from policies.errors import ConfigError
from sim_backend import runs
from sim_backend.fleet import build_servers
from sim_backend.meter import largest_rise
from sim_backend.result import ReplayResult, RunResult
from sim_backend.runs import LoopTask, Reference, ReferenceTask
from sim_backend.site import Guarantee, Site
from sim_backend.six_weeks import SixWeeksParams
from sim_backend.workload import SIX_WEEKS, Workload, measure_load_curve

Progress = Callable[[float, str], None]
"""Told the fraction of the whole job that is done, and what is being done."""
T = TypeVar("T", ReferenceTask, LoopTask)
R = TypeVar("R")
REFERENCE_COST = 0.4
"""Time of an uncapped reference run over that of a closed loop, for the progress bar alone."""


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """What the operator asks."""

    site: Site
    requests: str
    """Path of a trace, or 'six-weeks'."""
    policies: tuple[str, ...]
    guarantees: tuple[str, ...]
    add_servers_pct: tuple[float, ...]
    seed: int = 0
    days: float | None = None
    start_day: float = 0.0
    rate: float = 1.0
    compress_time: float = 1.0
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
    base = build_servers(_any_budget(site, study), 0.0).count
    pcts = tuple(dict.fromkeys((0.0, *job.add_servers_pct)))
    loops = len(job.policies) * len(job.guarantees) * len(job.add_servers_pct)
    tracker = _Tracker(progress, len(pcts) * REFERENCE_COST + loops)
    with _Pool(job.processes if loops > 1 else 1) as pool:
        tasks = [ReferenceTask(_any_budget(site, study), workload, pct) for pct in pcts]
        found = pool.map(runs.run_reference, tasks, tracker, REFERENCE_COST, "uncapped")
        references = dict(zip(pcts, found, strict=True))
        site, derivation = _settled(site, study, references[0.0])
        loop_tasks = [
            LoopTask(site, workload, policy, Guarantee(guarantee), pct, job.seed, job.check_every, references[pct],
                     job.journal)
            for guarantee in job.guarantees
            for policy in job.policies
            for pct in job.add_servers_pct
        ]  # fmt: skip
        results: list[RunResult] = pool.map(runs.run_loop, loop_tasks, tracker, 1.0, "closed loop")
    header = _header(job, site, study, references, base) | {"budget_derivation": derivation}
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
        base_servers=sum(g.count for g in site.servers),
    )
    if job.requests == SIX_WEEKS:
        params = SixWeeksParams().with_overrides(dict(site.workload))
        servers = build_servers(_any_budget(site, _studied(site)), 0.0)
        workload = replace(workload, curve=measure_load_curve(site, servers, params, job.seed))
    return workload, site


def uncapped_at(workload: Workload, site: Site, add_pct: float) -> Reference:
    """The fleet without any cap."""
    return runs.run_reference(ReferenceTask(_any_budget(site, _studied(site)), workload, add_pct), runs.silent)


def _studied(site: Site) -> str:
    """The domain whose budget the question is about: the first that has one, or is to be given one."""
    for domain in site.domains:
        if domain.budget_w is not None or domain.peak_ratio is not None:
            return domain.name
    raise ConfigError(f"site '{site.name}' has no domain with a budget: nothing limits the number of servers")


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
        "workload": job.requests,
        "seed": job.seed,
        "days": job.days,
        "start_day": job.start_day,
        "rate": job.rate,
        "compress_time": job.compress_time,
        "duration_s": float(reference.power_w.size),
        "budget_w": budget_w,
        "servers_at_0_pct": base,
        "other_w": reference.other_w,
        "uncontrolled": _uncontrolled(references, budget_w, base, window_s),
        "command": job.command,
        "versions": {
            "overwatt": version("overwatt"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": version("numba"),
        },
    }


class _Tracker:
    """Turns finished tasks, and the progress of the one that runs in this process, into a fraction."""

    def __init__(self, progress: Progress, total: float) -> None:
        self._progress, self._total, self._done = progress, total, 0.0

    def part(self, share: float, cost: float, what: str) -> None:
        self._progress(min(1.0, (self._done + share * cost) / self._total), what)

    def finished(self, cost: float, what: str) -> None:
        self._done += cost
        self._progress(min(1.0, self._done / self._total), what)


class _Pool:
    """Runs tasks here, or in processes of their own; results come back in the order of the tasks."""

    def __init__(self, processes: int) -> None:
        # Compiled code and open traces do not survive a fork safely; a spawned process loads them from the cache.
        context = get_context("spawn")
        self._executor = ProcessPoolExecutor(processes, mp_context=context) if processes > 1 else None

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def map(
        self, run: Callable[[T, Callable[[float], None]], R], tasks: list[T], tracker: _Tracker, cost: float, what: str
    ) -> list[R]:
        if self._executor is None:
            found: list[R] = []
            for task in tasks:
                found.append(run(task, lambda share: tracker.part(share, cost, what)))
                tracker.finished(cost, what)
            return found
        futures: list[Any] = [self._executor.submit(run, task, runs.silent) for task in tasks]
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                tracker.finished(cost, what)
        return [future.result() for future in futures]
