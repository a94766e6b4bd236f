"""What a server draws around its GPUs: a fixed part, fans that rise with the heat, and the loss of its power supplies.

    wall = dc + loss(dc),   dc = base + sum(GPUs) + fans_full * (sum(GPUs) / sum(TDP)) ** 3

Air flow goes with the heat to carry away and a fan's power with the third power of its flow. The loss is that of
supplies that just meet 80 PLUS Titanium: 10 % of the input at 10 % load, 6 % at 20 %, 4 % at 50 %.
"""

from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from sim_backend.cards.reading import Sourced, read_card

FOLDER = Path(__file__).parent / "servers"

Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Num = TypeVar("Num", float, NDArray[np.float64])

# Loss over rating at load x over rating: the parabola through Titanium's three points 0.1, 0.2, 0.5.
STANDING_LOSS, LOSS_SLOPE, LOSS_CURVE = 0.00998, 0.00883, 0.0257


class ServerCard(Sourced, frozen=True, kw_only=True):
    """One kind of server. Watts of the whole server."""

    gpu: str
    """Name of the GPU's card."""
    gpus: Annotated[int, Meta(ge=1)]
    gpus_tdp_w: Positive
    """Of all GPUs together."""
    rated_w: Positive
    """The manufacturer's maximum."""
    psu_rated_w: Positive
    """Of all power supplies together, spares included."""
    base_w: NotNegative
    """At the supplies' outputs, whatever the GPUs do: processors, memory, NICs, switches, fans at their lowest."""
    fans_full_w: NotNegative
    """What fans add while all GPUs draw their TDP; 0: cooled by a liquid."""
    fans_s: Positive
    """Time constant with which the fans follow the heat."""


def load_server(name: str) -> ServerCard:
    """The card called `name`, or the one in the file `name` if that ends in `.toml`.

    Raises:
        ConfigError: no such card, or a file that is not a whole and plausible one.
    """
    return read_card(name, FOLDER, ServerCard)


def fans_w(card: ServerCard, gpus_w: Num) -> Num:
    """What the fans add once they have settled, while the GPUs together draw `gpus_w`."""
    result: Num = card.fans_full_w * (gpus_w / card.gpus_tdp_w) ** 3
    return result


def fans_after(card: ServerCard, now_w: Num, gpus_w: Num, step_s: float) -> Num:
    """What the fans add `step_s` later, having added `now_w`, if the GPUs draw `gpus_w` from now on."""
    result: Num = now_w + (fans_w(card, gpus_w) - now_w) * (1.0 - np.exp(-step_s / card.fans_s))
    return result


def wall_w(dc_w: Num, psu_rated_w: float) -> Num:
    """Draw from the mains while the supplies deliver `dc_w`."""
    load = dc_w / psu_rated_w
    result: Num = dc_w + psu_rated_w * (STANDING_LOSS + LOSS_SLOPE * load + LOSS_CURVE * load**2)
    return result


def dc_w(wall: Num, psu_rated_w: float) -> Num:
    """What the supplies deliver while the mains deliver `wall` watts; the inverse of `wall_w`."""
    linear = 1.0 + LOSS_SLOPE
    over = wall / psu_rated_w - STANDING_LOSS
    result: Num = psu_rated_w * 2.0 * over / (linear + (linear**2 + 4.0 * LOSS_CURVE * over) ** 0.5)
    return result


def node_w(card: ServerCard, gpus_w: Num) -> Num:
    """Settled draw from the mains while the GPUs together draw `gpus_w`."""
    return node_with(card, gpus_w, fans_w(card, gpus_w))


def node_with(card: ServerCard, gpus_w: Num, fans: Num) -> Num:
    """Draw from the mains while the GPUs together draw `gpus_w` and the fans add `fans` watts."""
    return wall_w(card.base_w + gpus_w + fans, card.psu_rated_w)
