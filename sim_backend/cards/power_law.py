"""The power law of a GPU's card, as `policies.models.clocks` takes it."""

from policies.models.clocks import PowerLaw
from sim_backend.cards.gpu_card import GpuCard


def power_law(card: GpuCard) -> PowerLaw:
    """What a GPU with a model in memory draws at a clock, and which clocks it has."""
    return PowerLaw(
        idle_w=card.loaded_w,
        active_w=card.active_w,
        compute_w=card.compute_w,
        memory_w=card.memory_w,
        exponent=card.exponent,
        voltage_floor=card.voltage_floor,
        memory_knee=card.memory_knee,
        overlap=card.overlap,
        min_ratio=card.min_mhz / card.max_mhz,
    )
