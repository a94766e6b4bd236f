"""Everything that can happen to a core, as past participles. Arrays are per row (server); NaN is 'not known'."""

from dataclasses import dataclass

from policies.arrays import Flags, Ints, Rows, Vec


@dataclass(frozen=True, slots=True, eq=False)
class LeaseVector:
    """Caps for many servers in one message, each answering the last sample of its server.

    A lease is valid for `lease_s` from the moment the server sent the sample it names, on the server's own clock:
    no delay or replay can keep it alive longer than the controller believes.
    """

    rows: Rows
    epoch: int
    seq: int
    """Rises with every grant of an epoch; the agent refuses what is not above the last."""
    lease_s: float
    incarnation: Ints
    """Of the agent process that sent the sample [k]."""
    sample_seq: Ints
    """The sample that is answered [k]."""
    cap_w: Vec
    """Most the server may draw [k]."""
    cap_mhz: Vec
    """Highest SM clock [k]."""
    braking: Flags
    """Whether the row is under the brake, the one case where a cap may lie below failsafe [k]."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """An agent has read its own devices."""

    rows: Rows
    drawn_w: Vec
    """Server power, mean over the sensor window [k]."""
    clock_mhz: Vec
    """Highest SM clock achieved under load; NaN when idle [k]."""
    enforced_w: Vec
    """The server cap that the power limits read back amount to [k]."""


@dataclass(frozen=True, slots=True, eq=False)
class Leased:
    """A lease has arrived at its agents."""

    lease: LeaseVector


@dataclass(frozen=True, slots=True, eq=False)
class Restarted:
    """Agent processes have begun anew and remember nothing but what their disks hold."""

    rows: Rows
    incarnation: Ints
    """64 random bits each [k]."""
    kept_w: Vec
    """Cap found on disk; NaN where it is lost [k]."""
    kept_epoch: Ints
    """Highest epoch obeyed, found on disk; 0 where it is lost [k]. Without it a deposed controller could lead again."""


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Readings of servers have arrived at the controller. A sample is also the acknowledgement of a lease."""

    rows: Rows
    incarnation: Ints
    seq: Ints
    age_s: float
    """Since the sensor window ended, added up from ages, never from two clocks."""
    drawn_w: Vec
    clock_mhz: Vec
    enforced_w: Vec
    epoch: Ints
    """Of the last lease accepted [k]."""
    lease_seq: Ints
    """Of the last lease accepted; 0 before the first [k]."""


@dataclass(frozen=True, slots=True, eq=False)
class Metered:
    """A meter of a whole domain has spoken."""

    constraint: int
    drawn_w: float
    """Mean over the meter's window."""
    age_s: float
    """Since that window ended."""


@dataclass(frozen=True, slots=True, eq=False)
class BudgetSet:
    """The operator (or the grid) has given a domain another budget."""

    constraint: int
    budget_w: float


ControllerEvent = Ticked | Sampled | Metered | BudgetSet
AgentEvent = Ticked | Measured | Leased | Restarted
Event = ControllerEvent | AgentEvent
