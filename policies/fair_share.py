"""A power cap for everybody once a domain is nearly full: the same share of the budget per nameplate watt."""

from dataclasses import dataclass

import numpy as np

from policies.arrays import Vec
from policies.policy import FleetView, Plan


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Caps in force and which constraints are capped."""

    cap_w: Vec
    cap_mhz: Vec
    capped: tuple[bool, ...]
    budget_w: Vec
    """For which the shares were computed."""


@dataclass(frozen=True, slots=True)
class FairShareParams:
    """Fractions of the budget."""

    cap_at: float = 0.89
    """Every server is capped above this; POLCA's upper threshold, so that the two compare."""
    cap_to: float = 0.97
    """What the caps add up to."""
    uncap_at: float = 0.84
    """Released when the estimated *demand* is below this: the draw alone says little while capped."""


class FairShare:
    """Cap by power, not by clock; reactive at the firmware, blind to priority and phase."""

    def __init__(self, params: FairShareParams) -> None:
        """Act by `params` in every constraint."""
        self.params = params

    def propose(self, view: FleetView) -> Plan:
        """Each server's share of the budget in capped constraints, no cap elsewhere."""
        before = view.memory
        if not isinstance(before, Shares):
            n = view.drawn_w.size
            before = Shares(np.full(n, np.inf), view.fleet.max_mhz, (False,) * view.budget_w.size, view.budget_w)
        capped = tuple([self._capped(view, c, was) for c, was in enumerate(before.capped)])
        same_budget = before.budget_w is view.budget_w or np.array_equal(before.budget_w, view.budget_w)
        after = before
        if capped != before.capped or not same_budget:
            after = Shares(self._shares(view, capped), before.cap_mhz, capped, view.budget_w)
        return Plan(after.cap_w, after.cap_mhz, after, "fair share" if any(capped) else "open")

    def _capped(self, view: FleetView, constraint: int, was: bool) -> bool:
        budget_w = float(view.budget_w[constraint])
        drawn_w = float(view.constraint_w[constraint])
        if view.braked[constraint] or drawn_w > self.params.cap_at * budget_w:
            return True
        uncap_w = self.params.uncap_at * budget_w
        if not was or not drawn_w < uncap_w:
            return was
        members = view.fleet.members[constraint]
        held_back_w = (view.demand_w()[members] - view.drawn_w[members]).sum()
        # A demand that is not known is no reason to release.
        return not drawn_w + held_back_w < uncap_w

    def _shares(self, view: FleetView, capped: tuple[bool, ...]) -> Vec:
        cap_w = np.full(view.drawn_w.size, np.inf)
        for constraint, members in enumerate(view.fleet.members):
            if capped[constraint]:
                nameplate_w = view.fleet.nameplate_w[members]
                share_w = self.params.cap_to * view.budget_w[constraint] * nameplate_w / nameplate_w.sum()
                cap_w[members] = np.minimum(cap_w[members], share_w)
        return cap_w
