"""What servers draw around their GPUs: fans that lag behind the heat, and supplies that lose some of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Vec
from sim_backend.cards.server_card import ServerCard, fans_after, fans_w, node_with
from sim_backend.profile import Profile


class Casings:
    """The casings of a plant's servers; those of kinds without a server card change nothing."""

    def __init__(self, profiles: Sequence[Profile], sku: NDArray[np.integer]) -> None:
        """At rest: fans as idle GPUs need them; `sku` is the kind of each server [n]."""
        self._kinds: list[tuple[ServerCard, NDArray[np.intp] | slice]] = []
        self._fans_w = np.zeros(len(sku))
        for kind, profile in enumerate(profiles):
            rows = np.flatnonzero(sku == kind)
            if profile.server is None or not rows.size:
                continue
            idle_w = profile.idle_w if profile.iteration is None else profile.iteration.idle_w
            # Picking rows costs more than the physics, and mostly there is nothing to pick.
            self._kinds.append((profile.server, slice(None) if rows.size == len(sku) else rows))
            self._fans_w[rows] = fans_w(profile.server, profile.gpus * idle_w)

    def around(self, mean_w: Vec, step_s: float) -> Vec:
        """Add to `mean_w` [n], which is that of the GPUs alone where there is a card, what a step of `step_s` adds.

        Air flow follows the mean of the step, so that prompts and decodes of one second do not move the fans.
        """
        for card, rows in self._kinds:
            gpus_w = mean_w[rows]
            fans = fans_after(card, self._fans_w[rows], gpus_w, step_s)
            self._fans_w[rows] = fans
            mean_w[rows] = node_with(card, gpus_w, fans)
        return mean_w
