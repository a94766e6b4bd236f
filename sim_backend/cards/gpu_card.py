"""What one kind of GPU can do and draws: data-sheet facts and a few fitted physical parameters."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from sim_backend.cards.reading import Sourced, read_card

FOLDER = Path(__file__).parent / "gpus"

Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class GpuCard(Sourced, frozen=True, kw_only=True):
    """One kind of GPU. Watts per GPU, bytes per second in one direction."""

    # -- facts
    tdp_w: Positive
    min_limit_w: Positive
    """Lowest power limit it accepts."""
    max_mhz: Positive
    min_mhz: Positive
    memory_bytes: Positive
    memory_bytes_per_s: Positive
    """Data-sheet bandwidth."""
    flops: dict[str, float]
    """Dense tensor FLOP/s of the data sheet by the type multiplied: bf16, fp8, fp4."""
    link_bytes_per_s: Positive
    """To the other GPUs of the server, one direction."""
    # -- watts without work
    idle_w: NotNegative
    """No process on it."""
    loaded_w: NotNegative
    """A model in memory, nothing to do."""
    # -- fitted: speed
    compute_efficiency: Share
    """Achieved over data-sheet FLOP/s of large matrix products."""
    memory_efficiency: Share
    """Achieved over data-sheet bandwidth of large reads."""
    overlap: Share
    """How much of the less used resource hides behind the other (`roofline.overlapped_s`)."""
    memory_knee: Share
    """Clock ratio below which memory-bound work slows down."""
    # -- fitted: power (`roofline.busy_w`)
    active_w: NotNegative
    compute_w: NotNegative
    memory_w: NotNegative
    exponent: Positive
    voltage_floor: Share = 0.0
    """Clock ratio at and below which the voltage no longer falls; 0: never reached."""
    # -- the firmware's power limiter
    limiter_s: NotNegative
    """Time constant with which it brings the mean draw back under a limit."""
    overshoot_ratio: Annotated[float, Meta(ge=1.0, le=2.0)]
    """Largest 1 s mean over the limit while it does."""


def load_gpu(name: str) -> GpuCard:
    """The card called `name`, or the one in the file `name` if that ends in `.toml`.

    Raises:
        ConfigError: no such card, or a file that is not a whole and plausible one.
    """
    return read_card(name, FOLDER, GpuCard)
