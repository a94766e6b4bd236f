"""Legal modes of a server's agent and the moves between them; `docs/agent-modes.md` is drawn from this table."""

from enum import IntEnum

from policies.errors import InvariantViolated


class Mode(IntEnum):
    """What decides a server's cap at present."""

    FAILSAFE = 0
    """No lease: min(cap in force, failsafe)."""
    LEASED = 1
    """The controller's lease."""
    REFLEX = 2
    """The agent itself, because the server draws more than its cap allows."""


MOVES: dict[Mode, frozenset[Mode]] = {
    Mode.FAILSAFE: frozenset({Mode.LEASED, Mode.REFLEX}),
    Mode.LEASED: frozenset({Mode.FAILSAFE, Mode.REFLEX}),
    Mode.REFLEX: frozenset({Mode.FAILSAFE, Mode.LEASED}),
}


def check_move(before: Mode, after: Mode) -> None:
    """Refuse a move that the table does not hold."""
    if before != after and after not in MOVES[before]:
        raise InvariantViolated(f"illegal mode change {before.name} -> {after.name}")
