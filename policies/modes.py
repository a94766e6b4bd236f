"""What can decide a server's cap. Every move between the three is legal; the invariants say what each implies."""

from enum import IntEnum


class Mode(IntEnum):
    """What decides a server's cap at present."""

    FAILSAFE = 0
    """No lease: min(cap in force, failsafe)."""
    LEASED = 1
    """The controller's lease."""
    REFLEX = 2
    """The agent itself, because the server draws more than its cap allows."""
