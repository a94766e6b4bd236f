"""When the emergency action of a domain is engaged and when it is let go."""

from dataclasses import dataclass

import numpy as np

from policies.arrays import Flags, Vec
from policies.policy import Fleet


@dataclass(frozen=True, slots=True)
class BrakeConfig:
    """Clock and times of the brake."""

    cap_mhz: float = 288.0
    """POLCA's preprint: SM clock under the power brake of an A100."""
    release_at: float = 0.84
    """Let go below this share of the budget: POLCA's upper threshold minus hysteresis; its release is unpublished."""
    after_s: float = 0.0
    """An excess must last this long: 0 where the brake is the only reserve, a settling time where caps may clear it."""
    hold_s: float = 5.0
    """Not let go sooner than the brake needs to take effect and show in the reading."""


class Brake:
    """State of the emergency action, one for each constraint [m]."""

    def __init__(self, constraints: int, config: BrakeConfig) -> None:
        """Start released."""
        self.config = config
        self.engaged: Flags = np.zeros(constraints, dtype=np.bool_)
        self.any_engaged = False
        self.over_since_s = [float("inf")] * constraints
        self.engaged_at_s = [float("-inf")] * constraints

    def judge(self, measured_w: Vec, bound_w: Vec, budget_w: Vec, now_s: float) -> list[tuple[int, bool]]:
        """Constraints whose brake changes now: (constraint, engaged). A reading that is missing changes nothing.

        Args:
            measured_w: what readings show; only they engage the brake, uncertainty does not [m].
            bound_w: what could be drawn where readings are missing too; only it releases the brake [m].
            budget_w: of each constraint [m].
            now_s: time of the judgement.
        """
        if not self.any_engaged and (measured_w <= budget_w).all():
            if self.over_since_s:
                self.over_since_s = [float("inf")] * len(self.over_since_s)
            return []
        changes: list[tuple[int, bool]] = []
        for c in range(len(self.over_since_s)):
            drawn_w, limit_w = float(measured_w[c]), float(budget_w[c])
            over = drawn_w > limit_w
            if over:
                self.over_since_s[c] = min(self.over_since_s[c], now_s)
            elif drawn_w <= limit_w:
                self.over_since_s[c] = float("inf")
            if not self.engaged[c] and over and now_s - self.over_since_s[c] >= self.config.after_s:
                changes.append((c, True))
                self.engaged_at_s[c] = now_s
            elif (
                self.engaged[c]
                and float(bound_w[c]) < self.config.release_at * limit_w
                and now_s - self.engaged_at_s[c] >= self.config.hold_s
            ):
                changes.append((c, False))
        if changes:
            engaged = self.engaged.copy()
            for c, engage in changes:
                engaged[c] = engage
            self.engaged = engaged
            self.any_engaged = bool(engaged.any())
        return changes

    def rows(self, fleet: Fleet) -> Flags:
        """Servers under an engaged brake [n]."""
        braked = np.zeros(fleet.nameplate_w.size, dtype=np.bool_)
        if self.any_engaged:
            for c in np.flatnonzero(self.engaged):
                braked[fleet.members[int(c)]] = True
        return braked
