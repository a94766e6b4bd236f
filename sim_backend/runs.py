"""The two kinds of runs a replay is made of, as tasks that can be sent to another process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from policies.arrays import Vec
from sim_backend.closed_loop import ClosedLoop, RunSpec
from sim_backend.fleet import build_servers
from sim_backend.meter import window_means
from sim_backend.mixed_plant import MixedPlant, build_plant
from sim_backend.outcome import Observed, Outcome, curves, outcome_of, user_figures
from sim_backend.pool import silent
from sim_backend.recorder import HOUR_S, Recorder
from sim_backend.result import PRIORITIES, RunResult
from sim_backend.site import Guarantee, Site
from sim_backend.versions import versions
from sim_backend.workload import Workload
from telemetry.journal import JournalWriter

Done = Callable[[float], None]
"""Told the fraction of the run that is done."""


@dataclass(frozen=True, slots=True)
class ReferenceTask:
    """A fleet without any cap."""

    site: Site
    workload: Workload
    add_pct: float


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the same fleet does uncapped."""

    servers: int
    other_w: float
    """Mean non-GPU watts of a server."""
    power_w: Vec
    """Of the domain under study, 1 s means [duration]."""
    warm_up_s: int
    outcome: Outcome

    def readings_w(self, window_s: int) -> Vec:
        """What the meter would have read after the warm-up, mean over `window_s` each."""
        return window_means(self.power_w[min(self.warm_up_s, self.power_w.size // 2) :], window_s)


@dataclass(frozen=True, slots=True)
class LoopTask:
    """One closed loop and what it is compared with."""

    site: Site
    workload: Workload
    policy: str
    guarantee: Guarantee
    add_pct: float
    seed: int
    check_every: int
    reference: Reference
    journal: Path | None


def run_reference(task: ReferenceTask, done: Done = silent) -> Reference:
    """Run uncapped, an hour at a time in compiled code."""
    servers = build_servers(task.site, task.add_pct)
    source = task.workload.source(servers.serving)
    plant = build_plant(servers, source, task.site, task.workload.demand(task.site))
    steps = int(source.duration_s)
    recorder = Recorder(steps, servers.priority)
    members = servers.constraints.servers(0)
    power_w = np.empty(steps)
    for start in range(0, steps, HOUR_S):
        stop = min(start + HOUR_S, steps)
        server_w = plant.run_schedule(np.ones((stop - start, servers.count)))
        power_w[start:stop] = server_w[:, members].sum(axis=1)
        if stop % HOUR_S == 0:
            recorder.hour(plant)
        done(stop / steps)
    outcome = outcome_of(plant, recorder.hours)
    return Reference(servers.count, float(servers.field("other_w").mean()), power_w, task.workload.warm_up_s, outcome)


def run_loop(task: LoopTask, done: Done = silent) -> RunResult:
    """Run the cores over the plant and put the figures together."""
    spec = RunSpec(task.site, task.policy, task.guarantee, task.add_pct, task.seed, task.check_every)
    servers = build_servers(task.site, task.add_pct)
    source = task.workload.source(servers.serving)
    about = {"run": msgspec.to_builtins(spec), "versions": versions()}
    journal = None if task.journal is None else JournalWriter(task.journal, about)
    try:
        loop = ClosedLoop(spec, servers, source, journal, task.workload.demand(task.site))
        loop.run(done)
    except BaseException:
        if journal is not None:
            journal.abandon()
        raise
    if journal is not None:
        journal.close()
    return _result(task, loop)


def _result(task: LoopTask, loop: ClosedLoop) -> RunResult:
    actuation, recorder = task.site.actuation, loop.recorder
    outcome = outcome_of(loop.plant, recorder.hours)
    actuators = loop.actuators
    devices = [device for _, device in loop.protections]
    left = [p.left_min_s for p in devices if p.left_min_s is not None]
    capped_s = recorder.mean_capped_s()
    figures: dict[str, object] = {
        "brakes": loop.brakes,
        "breaker_trips": sum(p.trips for p in devices),
        "breaker_heat_max_ratio": max(p.highest for p in devices),
        "overload_left_min_s": min(left) if left else None,
        **recorder.power_figures(float(loop.servers.budget_w[0]), actuation.meter_window_s, task.workload.warm_up_s),
        "capped_s": {name: float(capped_s[code]) for code, name in enumerate(PRIORITIES)},
        "commands": {"sent": actuators.sent, "failed": actuators.failed, "reissued": actuators.reissued},
        **user_figures(outcome, task.reference.outcome),
        "energy_j": recorder.energy_j,
        **_recorded_work(loop.plant),
        "seed": task.seed,
    }
    return RunResult(
        policy=task.policy,
        add_servers_pct=task.add_pct,
        servers=loop.servers.count,
        actuation=actuation.path.value,
        guarantee=task.guarantee.value,
        figures=figures,
        series=recorder.series(actuation.meter_window_s, actuation.meter_delay_s),
        latency=curves(outcome),
        latency_uncapped=curves(task.reference.outcome),
    )


def _recorded_work(plant: Observed) -> dict[str, object]:
    """What caps cost the servers that do not serve; nothing without such servers."""
    if not isinstance(plant, MixedPlant):
        return {}
    shares = plant.work_shares()
    lost_pct = 100.0 * (1.0 - shares)
    work = {"servers": shares.size, "lost_pct": float(lost_pct.mean()), "most_lost_pct": float(lost_pct.max())}
    return {"recorded_work": work}
