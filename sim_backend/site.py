"""What a site is: domains with budgets and protection, groups of servers, and the path on which caps travel."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from policies.controller_core import Promise
from policies.errors import ConfigError
from policies.models.protection import Edge, TripEdge, derated_rating
from policies.models.trip_curves import NAMED

Guarantee = Promise
"""What the controller promises a domain, by the word that operators use for it."""


class Path(StrEnum):
    """How commands reach the GPUs."""

    OUT_OF_BAND = "out-of-band"
    IN_BAND = "in-band"


@dataclass(frozen=True, slots=True)
class Actuation:
    """Delays and losses of one command path. POLCA table 1 for out-of-band, NVML measurements for in-band."""

    path: Path
    latency_s: float
    """From a cap command on the wire to the GPU obeying it."""
    brake_latency_s: float
    """From the brake command to all GPUs at the brake clock."""
    failure_probability: float = 0.0
    """Chance that a cap command is lost without an error, per server and command."""
    meter_window_s: int = 2
    """The row meter averages over this."""
    meter_delay_s: int = 2
    """The row meter's reading arrives this long after its window has ended."""
    sample_delay_s: int = 0
    """A server's sample (mean over 1 s) arrives this long after its window has ended."""
    sample_period_s: int = 1
    """Between samples of a server."""


OUT_OF_BAND = Actuation(Path.OUT_OF_BAND, latency_s=40.0, brake_latency_s=5.0, sample_delay_s=2, sample_period_s=10)
"""POLCA table 1: caps through the BMC take up to 40 s, the power brake 5 s, telemetry is 2 s late.

How often a management controller is asked for each server's power and clock is not published: every 10 s here.
"""

IN_BAND = Actuation(Path.IN_BAND, latency_s=0.05, brake_latency_s=0.05)
"""NVML clock locks are serialised in the driver: 8 GPUs x 6 ms, and about 1 ms to settle. The row meter is the same."""

PATH_DEFAULTS = {Path.OUT_OF_BAND: OUT_OF_BAND, Path.IN_BAND: IN_BAND}


RECORDED = "recorded"
"""Role of servers that do not serve: their work is a recording of power, and they can only be power-capped."""
POINTS = "points"
"""The curve of a device whose points the site file gives."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Minimum-trip edge of what protects a domain, a breaker or a UPS: how long it surely carries an overload."""

    rating_ratio: float = 1.0
    """Rated power over the domain's provisioned power."""
    curve: str = POINTS
    """`points`, or a name in `policies.models.trip_curves`."""
    points: tuple[tuple[float, float], ...] = ((1.0, 10.0),)
    """(load over rating, seconds it is carried), rising in load; log-log between, the last held beyond."""
    cooling_s: float = 60.0
    """Time constant with which the thermal state falls below the rating."""
    pickup_ratio: float = 1.0
    """Of a relay: pickup current over the rating."""
    time_multiplier: float = 1.0
    """Of a relay: its time multiplier setting."""
    ambient_c: float = 30.0
    reference_c: float = 30.0
    """Ambient temperature for which the curve is stated."""
    derating_per_k: float = 0.0
    """Share of the rating lost for each kelvin above it."""
    source: str = ""

    @property
    def edge(self) -> Edge:
        """The curve as the protection model takes it."""
        if self.curve == POINTS:
            return TripEdge(self.points, self.cooling_s)
        return NAMED[self.curve].edge(self.cooling_s, self.pickup_ratio, self.time_multiplier)

    @property
    def derated_ratio(self) -> float:
        """Rated power at the ambient temperature over the domain's provisioned power."""
        return self.rating_ratio * derated_rating(self.ambient_c, self.reference_c, self.derating_per_k)


@dataclass(frozen=True, slots=True)
class Domain:
    """A node of the electrical tree with a budget."""

    name: str
    level: str
    parent: str | None
    budget_w: float | None
    """None: derived as peak of the uncapped reference run / `peak_ratio`."""
    peak_ratio: float | None = None
    breaker: Breaker = field(default_factory=Breaker)
    ups: Breaker | None = None
    """Its UPS, if one feeds it: the tighter of the two counts at every load."""

    @property
    def protections(self) -> tuple[Breaker, ...]:
        """All devices that may open."""
        return (self.breaker,) if self.ups is None else (self.breaker, self.ups)


@dataclass(frozen=True, slots=True)
class ServerGroup:
    """Servers alike in all that matters; `count` is the number before any are added."""

    domain: str
    profile: str
    count: int
    priority: str
    """'high' or 'low'."""
    failsafe_w: float
    other_w: float | None = None
    """Overrides the profile's non-GPU watts."""
    role: str = "mixed"
    """What they do: 'mixed' serves, prefill and decode in the same batches; 'prompt' and 'token' serve one phase each;
    `RECORDED` is recorded work."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How the engines batch, and how caches get from prompt servers to token servers."""

    batching: str = "whole"
    """'whole': a prompt is prefilled in one iteration; 'chunked': cut to the engine's budget of tokens."""
    cached_share: float = 0.0
    """Share of each prompt that a prefix cache holds already; only with chunks."""
    kv_bytes_per_token: float | None = None
    """Of the model's KV cache; needed with prompt and token servers."""
    link_bytes_per_s: float = 50e9
    """Out of one server, or into one: 400 Gb/s, one network card."""
    link_latency_s: float = 0.0

    @property
    def chunked(self) -> bool:
        """Whether prompts are cut."""
        return self.batching == "chunked"


@dataclass(frozen=True, slots=True)
class RecordedWork:
    """How recordings of power are read as work."""

    of: str = "server"
    """What one recorded source is: a 'server', or a 'row' whose power the recorded servers share evenly."""
    together: bool = True
    """All servers of a recording are one job, which is as fast as its slowest server."""
    clock_ratio: float = 1.0
    """Clock cap over full clock under which it was recorded: what was drawn was that much less than wanted."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Targets of one priority class; a request is good if it meets both."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Site:
    """Everything about the place; what is asked of it (trace, policies, ratios) comes beside it."""

    name: str
    guarantee: Guarantee
    domains: tuple[Domain, ...]
    servers: tuple[ServerGroup, ...]
    actuation: Actuation
    slo: dict[str, Slo]
    """Keyed by priority."""
    lease_s: float = 10.0
    tick_s: float = 1.0
    settle_s: float = 2.0
    enforce_s: float = 1.0
    stale_s: float = 5.0
    raise_share_per_s: float = 0.05
    """I5: how much of a budget un-capping may hand out, and what share of servers may be un-clocked, per second."""
    model_error: float = 0.10
    """The controller's model parameters are off by a seeded factor in 1 +- this, per server."""
    pack_to: int = 1
    """Outstanding requests up to which the router fills one server after the other; 1: evenly from the start."""
    low_share: float = 0.5
    """Share of requests without a priority of their own that are low priority."""
    policy: dict[str, dict[str, float]] = field(default_factory=dict)
    """Overrides of policy parameters, by policy name."""
    workload: dict[str, float] = field(default_factory=dict)
    """Overrides of the parameters of the built-in workload."""
    recorded: RecordedWork = field(default_factory=RecordedWork)
    serving: Serving = field(default_factory=Serving)

    @property
    def pooled(self) -> bool:
        """Whether some servers do one phase only."""
        return any(group.role in ("prompt", "token") for group in self.servers)

    def domain(self, name: str) -> Domain:
        """The domain called `name`."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise ConfigError(f"domain '{name}' is not declared in site '{self.name}'")

    def below(self, name: str) -> Iterator[ServerGroup]:
        """Server groups fed by the domain called `name`, directly or through domains below it."""
        parents = {domain.name: domain.parent for domain in self.domains}
        for group in self.servers:
            at: str | None = group.domain
            while at is not None and at != name:
                at = parents[at]
            if at == name:
                yield group

    def failsafe_sum_w(self, name: str) -> float:
        """What the servers of a domain may draw at most once all leases have ended; its lowest admissible budget."""
        return sum(group.count * group.failsafe_w for group in self.below(name))

    def with_budget(self, name: str, budget_w: float) -> "Site":
        """The same site, one budget settled."""
        domains = tuple(replace(d, budget_w=budget_w) if d.name == name else d for d in self.domains)
        return replace(self, domains=domains)
