"""Policies that act on a domain's power crossing fixed lines: none, one threshold, and POLCA's two.

POLCA: two thresholds, two priorities, SM-clock locks (arXiv 2308.12908, ASPLOS'24). What its public descriptions leave
open (dwell times, release order after a brake) is a parameter here.
"""

from dataclasses import dataclass, replace

import numpy as np

from policies.arrays import Vec
from policies.policy import Fleet, FleetView, Plan

LOW, HIGH = 0, 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the ladder; clocks are those of the whole step, not on top of the one before."""

    at: float
    """Entered when power over budget exceeds this."""
    low_mhz: float
    high_mhz: float
    """Clock caps per priority; inf leaves a class alone."""
    waits: bool = False
    """Only from the stage before, after `Ladder.wait_s` in it: sooner would act on power from before that command."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Stages with rising thresholds and one hysteresis."""

    stages: tuple[Stage, ...]
    hysteresis: float = 0.05
    """A stage is left below `at - hysteresis`."""
    wait_s: float = float("nan")
    """For stages that wait; NaN: until the effect of the last command is in the reading (`Fleet.effect_s`)."""


@dataclass(frozen=True, slots=True)
class DomainMemory:
    """Where one constraint stands on the ladder."""

    mode: int = 0
    """0: no stage; k: the k-th."""
    since_s: float = -np.inf
    readings: tuple[tuple[float, float], ...] = ()
    """Recent (now_s, power over budget), newest last; only kept where thresholds are computed from rises."""
    largest_rise: float = 0.0
    """Of power over budget within one actuation latency, since `began_s`."""
    began_s: float = np.inf


def moved(ladder: Ladder, at: DomainMemory, ratio: float, view: FleetView) -> DomainMemory:
    """The next place on the ladder for a reading of power over budget."""
    stages = ladder.stages
    now_s = view.now_s
    wait_s = view.fleet.effect_s if np.isnan(ladder.wait_s) else ladder.wait_s
    mode = at.mode
    for index in range(mode, len(stages)):
        stage = stages[index]
        if ratio <= stage.at:
            break
        if stage.waits and not (mode == index == at.mode and now_s - at.since_s >= wait_s):
            break
        mode = index + 1
    while mode and ratio < stages[mode - 1].at - ladder.hysteresis:
        mode -= 1
    return at if mode == at.mode else replace(at, mode=mode, since_s=now_s)


def clocks(ladders: tuple[Ladder, ...], modes: tuple[int, ...], fleet: Fleet) -> Vec:
    """Clock cap of each server [n]: the lowest that any constraint it counts in asks for."""
    cap_mhz = fleet.max_mhz.copy()
    for ladder, mode, members in zip(ladders, modes, fleet.members, strict=True):
        if mode:
            stage = ladder.stages[mode - 1]
            wanted = np.where(fleet.priority[members] == LOW, stage.low_mhz, stage.high_mhz)
            cap_mhz[members] = np.minimum(cap_mhz[members], wanted)
    return cap_mhz


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What a threshold policy asks to be remembered: the caps in force and where each constraint stands."""

    cap_w: Vec
    cap_mhz: Vec
    places: tuple[DomainMemory, ...]


class Thresholds:
    """Climb and leave a fixed ladder, each constraint by itself."""

    def __init__(self, ladder: Ladder) -> None:
        """Act by `ladder` in every constraint."""
        self.ladder = ladder

    def propose(self, view: FleetView) -> Plan:
        """Clock caps of the present stages; the same arrays while no stage changes."""
        standing = view.memory
        if not isinstance(standing, Standing):
            n = view.drawn_w.size
            places = (DomainMemory(),) * view.budget_w.size
            standing = Standing(np.full(n, np.inf), view.fleet.max_mhz, places)
        before = standing.places
        after = tuple([self._place(view, c, place) for c, place in enumerate(before)])
        modes = tuple([place.mode for place in after])
        if modes != tuple([place.mode for place in before]):
            ladders = tuple(self.ladder_of(place) for place in after)
            standing = Standing(standing.cap_w, clocks(ladders, modes, view.fleet), after)
        elif after != before:
            standing = Standing(standing.cap_w, standing.cap_mhz, after)
        return Plan(standing.cap_w, standing.cap_mhz, standing, f"stage {max(modes)}")

    def ladder_of(self, place: DomainMemory) -> Ladder:
        """The ladder that holds for a constraint with this history."""
        return self.ladder

    def observed(self, place: DomainMemory, ratio: float, view: FleetView) -> DomainMemory:
        """The history with one more reading; a fixed ladder needs none."""
        return place

    def _place(self, view: FleetView, constraint: int, place: DomainMemory) -> DomainMemory:
        ratio = float(view.constraint_w[constraint]) / float(view.budget_w[constraint])
        if ratio != ratio:
            return place
        place = self.observed(place, ratio, view)
        if view.braked[constraint]:
            # Once the brake is off the deepest stage holds, until power says otherwise.
            top = len(self.ladder.stages)
            return place if place.mode == top else replace(place, mode=top, since_s=view.now_s)
        return moved(self.ladder_of(place), place, ratio, view)


class OnlineThresholds(Thresholds):
    """POLCA with its upper threshold computed from the fleet at hand: 1 - its largest rise over the actuation latency.

    POLCA's 89 % comes from 40 servers; with 52 a correlated swing grows with the fleet.
    """

    LEARN_S = 86_400.0
    """A day: until a whole diurnal cycle has been seen the preset's reserve is believed beside the observed one."""

    def __init__(self, ladder: Ladder) -> None:
        """Start from `ladder`, whose last stages share the threshold to be replaced."""
        super().__init__(ladder)
        self.preset_at = ladder.stages[-1].at

    def observed(self, place: DomainMemory, ratio: float, view: FleetView) -> DomainMemory:
        """Keep the readings of one actuation latency (two seconds at least) and the largest rise among them."""
        horizon_s = max(view.fleet.cap_latency_s, 2.0)
        recent = tuple([r for r in place.readings if r[0] >= view.now_s - horizon_s])
        rise = ratio - min([r[1] for r in recent]) if recent else 0.0
        return replace(
            place,
            readings=(*recent, (view.now_s, ratio)),
            largest_rise=max(place.largest_rise, rise),
            began_s=min(place.began_s, view.now_s),
        )

    def ladder_of(self, place: DomainMemory) -> Ladder:
        """The preset with the upper threshold replaced, never below the lower one."""
        rise = place.largest_rise
        last_s = place.readings[-1][0] if place.readings else 0.0
        if last_s - place.began_s < self.LEARN_S:
            rise = max(rise, 1.0 - self.preset_at)
        lower = self.ladder.stages[0].at
        at = min(max(1.0 - rise, lower), 1.0)
        stages = tuple(replace(s, at=at) if s.at == self.preset_at else s for s in self.ladder.stages)
        return replace(self.ladder, stages=stages)
