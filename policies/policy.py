"""What a policy sees, what it may answer, and the protocol between: it proposes, the guard disposes."""

from dataclasses import dataclass
from typing import Protocol

from policies.arrays import Flags, Ints, Vec
from policies.models.fleet import FleetModel


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """What does not change while servers stay: everything [n] unless said otherwise."""

    priority: Ints
    """0 low, 1 high; low is shed first."""
    nameplate_w: Vec
    failsafe_w: Vec
    max_mhz: Vec
    min_mhz: Vec
    members: tuple[Ints, ...]
    """Servers of each constraint."""
    cap_latency_s: float
    """From a command on the wire to the GPU obeying it, on this fleet's path."""
    effect_s: float
    """From a command to its effect standing whole in the reading that policies act on."""


@dataclass(frozen=True, slots=True, eq=False)
class FleetView:
    """One instant as a policy sees it. Immutable; `memory` is what its own last plan asked to be remembered."""

    now_s: float
    fleet: Fleet
    model: FleetModel
    drawn_w: Vec
    """Latest reading of each server, or its bound where that is stale [n]."""
    cap_mhz: Vec
    """Clock caps now asked for [n]."""
    budget_w: Vec
    """Of each constraint [m]."""
    constraint_w: Vec
    """What each constraint draws, from meter and samples [m]; NaN before the first reading."""
    braked: Flags
    """Constraints under the brake [m]."""
    memory: object | None

    def demand_w(self) -> Vec:
        """What each server would draw uncapped [n]: an estimate."""
        return self.model.demand_w(self.drawn_w, self.cap_mhz)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a policy would like; it may be wrong, the guard makes it safe.

    The same object returned twice means 'unchanged' and costs nothing.
    """

    cap_w: Vec
    """inf: no cap beyond the guarantee's [n]."""
    cap_mhz: Vec
    memory: object | None
    because: str


class Policy(Protocol):
    """A pure function from a view to a plan."""

    def propose(self, view: FleetView) -> Plan:
        """The caps wanted now. Deterministic, finite or inf, equivariant under a permutation of the servers."""
        ...
