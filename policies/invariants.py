"""What must hold after every step, in words and checks; run in tests and simulation, and after every tick live."""

import numpy as np

from policies.agent_core import TOLERANCE_W, AgentCore
from policies.controller_core import ControllerCore, Promise
from policies.errors import InvariantViolated
from policies.guard import EPSILON_W
from policies.modes import Mode


def check_agents(core: AgentCore, now_s: float) -> None:
    """Every agent's cap is one that somebody alive, or nobody, could answer for."""
    config = core.config
    _require(bool(np.isfinite(core.cap_w).all()), "a cap is not a number")
    _require(bool((core.cap_w <= config.nameplate_w + EPSILON_W).all()), "a cap lies above the nameplate")
    failsafe = core.mode == Mode.FAILSAFE
    alone = np.isinf(core.lease_end_s)
    _require(bool(alone[failsafe].all()), "a row without a lease has the end of one")
    above = alone & (core.cap_w > config.failsafe_w + EPSILON_W)
    _require(not above.any(), f"I3: rows {np.flatnonzero(above)} hold more than failsafe without a lease")
    overdue = ~failsafe & (core.lease_end_s < now_s)
    _require(not overdue.any(), f"I3: rows {np.flatnonzero(overdue)} hold a lease that has ended")
    shadowed = ~failsafe & (core.prior_end_s > now_s) & (core.cap_w > core.prior_w + TOLERANCE_W)
    _require(not shadowed.any(), f"I7: rows {np.flatnonzero(shadowed)} exceed an unexpired cap of an older epoch")
    in_range = (core.cap_mhz >= config.min_mhz) & (core.cap_mhz <= config.max_mhz)
    _require(bool(in_range.all()), "a clock cap lies outside the device range")


class ControllerWatch:
    """Checks a controller after every step; remembers the sums of the step before."""

    def __init__(self, core: ControllerCore) -> None:
        """Watch `core` from now on."""
        self.core = core
        self.charged_w = core.constraints.total(core.charge_w())

    def check(self) -> None:
        """The books add up, and no grant has taken watts that were not free."""
        core, ledger = self.core, self.core.ledger
        fleet = core.fleet
        _require(bool(np.isfinite(core.cap_mhz).all()), "a clock cap is not a number")
        if core.config.promise is Promise.REACTIVE:
            return
        in_range = (ledger.granted_w >= fleet.failsafe_w - EPSILON_W) & (
            ledger.granted_w <= fleet.nameplate_w + EPSILON_W
        )
        _require(bool(in_range.all()), "a grant lies outside [failsafe, nameplate]")
        heard = ledger.heard
        _require(bool((ledger.possible_w >= ledger.granted_w - EPSILON_W)[heard].all()), "a grant is not in the books")
        charged_w = core.constraints.total(core.charge_w())
        room_w = np.maximum(core.budget_w, self.charged_w)
        over = charged_w > room_w + 1e-3
        _require(not over.any(), f"I1: charges {charged_w} W exceed {room_w} W: a raise took what was not free")
        self.charged_w = charged_w


def _require(holds: bool, story: str) -> None:
    if not holds:
        raise InvariantViolated(story)
