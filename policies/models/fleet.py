"""The controller's own instance of the power equations, one parameter set per server; never the plant's."""

from dataclasses import dataclass

import numpy as np

from policies.arrays import Vec
from policies.models.gpu_power import clock_factor


@dataclass(frozen=True, slots=True, eq=False)
class FleetModel:
    """What the controller believes of its servers; all arrays [n]."""

    other_w: Vec
    static_share: Vec
    exponent: Vec
    max_mhz: Vec

    def disturbed(self, ratio: float, rng: np.random.Generator) -> "FleetModel":
        """The same beliefs, each off by its own factor within 1 +- `ratio`, as a controller starts out in truth."""

        def off(values: Vec) -> Vec:
            return values * (1.0 + ratio * (2.0 * rng.random(values.size) - 1.0))

        return FleetModel(off(self.other_w), off(self.static_share), off(self.exponent), self.max_mhz)

    def demand_w(self, drawn_w: Vec, cap_mhz: Vec) -> Vec:
        """What each server would draw without its clock cap: an estimate, from the draw and the power law."""
        gpu_w = np.maximum(drawn_w - self.other_w, 0.0)
        clock_ratio = np.minimum(cap_mhz / self.max_mhz, 1.0)
        return drawn_w - gpu_w + gpu_w / clock_factor(clock_ratio, self.static_share, self.exponent)
