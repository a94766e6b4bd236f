"""Everything a core may ask for, as imperatives."""

from dataclasses import dataclass

from policies.arrays import Rows, Vec
from policies.events import LeaseVector, Sampled


@dataclass(frozen=True, slots=True, eq=False)
class GrantLeases:
    """Send a lease vector to the agents of a leaf domain (in-band path)."""

    lease: LeaseVector


@dataclass(frozen=True, slots=True, eq=False)
class SetCaps:
    """Send caps over a path that carries no leases (out-of-band), or write them to the devices (agent)."""

    rows: Rows
    cap_w: Vec
    """Of the server [k]."""
    gpu_limit_w: Vec
    """The same as a power limit for each of its GPUs [k]."""
    cap_mhz: Vec
    reissued: bool
    """Whether behaviour showed that an earlier command had been lost or undone."""
    because: str


@dataclass(frozen=True, slots=True, eq=False)
class EngageBrake:
    """Lowest clocks for every server of a constraint, on the path that never queues behind caps."""

    constraint: int
    cap_mhz: float
    because: str


@dataclass(frozen=True, slots=True, eq=False)
class ReleaseBrake:
    """Take the brake off again."""

    constraint: int
    because: str


@dataclass(frozen=True, slots=True, eq=False)
class Publish:
    """Send a sample to the controller."""

    sample: Sampled


@dataclass(frozen=True, slots=True, eq=False)
class Refuse:
    """Tell whoever asked that it will not be done."""

    because: str


Command = GrantLeases | SetCaps | EngageBrake | ReleaseBrake | Publish | Refuse
