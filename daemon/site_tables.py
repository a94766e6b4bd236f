"""The tables of a site file and their keys: kinds, ranges, defaults, and what each means."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Curve = Literal[
    "points",
    "ul-489",
    "iec-60898-1",
    "iec-60947-2",
    "iec-si",
    "iec-vi",
    "iec-ei",
    "ieee-mi",
    "ieee-vi",
    "ieee-ei",
    "ups-least",
    "ups-liebert-610",
    "ups-huawei-2000-g",
]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Point = Annotated[list[Positive], Field(min_length=2, max_length=2)]
DomainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Table(BaseModel):
    """A table of the file: unknown keys, texts for numbers, infinities and NaN are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SiteTable(Table):
    """What the place is called, and what is promised there."""

    name: Annotated[str, Field(min_length=1)]
    """Stands in reports."""
    guarantee: Literal["hard", "reactive"] = "hard"
    """`hard`: the sum of what all servers may draw never exceeds a budget. `reactive`: caps after the fact and a brake
    above 100 %, as published systems do; for comparison, and the only choice for an out-of-band path."""
    model_error: Annotated[float, Field(ge=0, lt=1)] = 0.10
    """The controller starts with power and latency parameters off by a seeded factor in 1 +- this, per server.
    0 is perfect knowledge; results with it must say so."""
    pack_to: Annotated[int, Field(ge=1, le=512)] = 1
    """Outstanding requests up to which the router fills one server after the other; 1: evenly from the start, to the
    server with the fewest."""
    low_share: Share = 0.5
    """Share of the requests of a trace that are low priority, where the trace does not say."""


class BreakerTable(Table):
    """What protects the domain, as its minimum-trip edge: how long it surely carries an overload."""

    rating_ratio: Positive = 1.0
    """Rated power over the domain's budget."""
    curve: Curve = "points"
    """`points` of the device itself, or what is known of its kind: a standard's guaranteed hold (no overload beyond),
    a relay's inverse-time curve, a UPS's overload table. Sources: policies/models/trip_curves.py."""
    points: Annotated[list[Point], Field(min_length=1)] = [[1.0, 10.0]]
    """`[load over rating, seconds carried]`, loads rising; log-log between points, the last one held beyond."""
    cooling_s: Positive = 60.0
    """Time constant with which heat leaves below the rating."""
    pickup_ratio: Positive = 1.0
    """Of a relay curve: pickup current over the rating."""
    time_multiplier: Positive = 1.0
    """Of a relay curve: its time multiplier setting."""
    ambient_c: Annotated[float, Field(ge=-40, le=90)] = 30.0
    """Temperature around the device, degrees Celsius."""
    reference_c: Annotated[float, Field(ge=-40, le=90)] = 30.0
    """Temperature for which the curve is stated: 30 for IEC 60898, 40 for most IEC 60947-2 and UL 489."""
    derating_per_k: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    """Share of the rating lost for each kelvin above that; the data sheet says."""
    source: str = ""
    """Where the figures come from: the data sheet, with its date."""


class DomainTable(Table):
    """A node of the electrical tree with a budget: give `budget_w`, or `peak_ratio` to derive it."""

    level: Literal["site", "row", "rack"]
    """Its level in the tree."""
    parent: str | None = None
    """The domain that feeds it; none for the top."""
    budget_w: Positive | None = None
    """What the domain may draw."""
    peak_ratio: Annotated[float, Field(gt=0, le=2)] | None = None
    """Derives the budget instead: peak of an uncapped reference run of the servers listed here, over this."""
    breaker: BreakerTable = BreakerTable()
    """Its protection, as a table of its own."""
    ups: BreakerTable | None = None
    """Its UPS, if one feeds it, as a table like `breaker`: the tighter of the two counts at every load."""


class ServersTable(Table):
    """Servers alike in all that matters; repeat the table for each kind."""

    domain: str
    """The domain that feeds them."""
    profile: str
    """A shipped profile (`server__model`); or cards put together, `server__model__engine`, tensor parallel over all
    GPUs, or `server__model__engine__tp4dp2` for two copies on four each; or a path ending in `.toml`, relative to this
    file, to a profile, or in a composed name to a card (`my-server.toml__llama-3.1-70b__vllm-0.10`)."""
    count: Annotated[int, Field(ge=1, le=1_000_000)]
    """Servers before any are added."""
    priority: Literal["high", "low"]
    """Low is capped first."""
    failsafe_w: Positive
    """Most a server may draw once its lease has ended. Choose it low: the watts that can move are the budget less the
    sum of these. With servers added it becomes min(this, budget / servers)."""
    other_w: NotNegative | None = None
    """Watts of the server less its GPUs, instead of the profile's. Fans and CPUs differ by site: measure."""
    role: Literal["mixed", "prompt", "token", "recorded"] = "mixed"
    """`mixed`: serves, prefill and decode in the same batches. `prompt` and `token`: serves one phase only; KV caches
    move over the link of `[serving]`, and requests of both priorities share these servers. `recorded`: does not serve;
    its work is a recording (`replay --power`), and it can only be power-capped."""


class ActuationTable(Table):
    """The path on which commands travel. Delays left out take the defaults of the path."""

    path: Literal["out-of-band", "in-band"]
    """`out-of-band`: through the BMC. `in-band`: through an agent on the host."""
    latency_s: NotNegative | None = None
    """From a cap command on the wire to the GPUs obeying it."""
    brake_latency_s: NotNegative | None = None
    """From the brake command to all GPUs at the brake clock."""
    failure_probability: Share | None = None
    """Chance that a cap command is lost without an error, per server and command. Published only as "may fail
    without an error": try 0.01 and 0.05."""
    meter_window_s: Annotated[int, Field(ge=1)] | None = None
    """The row meter averages over this."""
    meter_delay_s: Annotated[int, Field(ge=0)] | None = None
    """A reading of the row meter arrives this long after its window has ended."""
    sample_delay_s: Annotated[int, Field(ge=0)] | None = None
    """A server's own sample (mean over 1 s) arrives this long after its window has ended."""
    sample_period_s: Annotated[int, Field(ge=1)] | None = None
    """Between samples of a server. In-band agents send one a second; how often a BMC is asked is not published."""


class SloTable(Table):
    """Targets of one priority class; a request is good if it meets both."""

    ttft_s: Positive
    """Time to first token."""
    tpot_s: Positive
    """Mean time between tokens after the first."""


class SlosTable(Table):
    """Targets by priority; a class left out has none, and all its completed requests count as good."""

    high: SloTable | None = None
    """Of high-priority requests."""
    low: SloTable | None = None
    """Of low-priority requests."""


class TimingTable(Table):
    """The controller's times. Their relations are checked when the file is read."""

    lease_s: Positive = 10.0
    """How long a cap stands unrenewed."""
    tick_s: Positive = 1.0
    """Period of the controller: it reads, decides and renews leases once in this time. A replay advances by the second,
    so 1 is the one value it takes."""
    settle_s: NotNegative = 2.0
    """No lowering counts as done earlier than this."""
    enforce_s: Positive = 1.0
    """Within this after its end, an expired lease has become the failsafe cap."""
    stale_s: Positive = 5.0
    """A server silent for longer is counted at its charge, not at what it last drew."""
    raise_share_per_s: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of a budget that un-capping may hand out per second, and share of the servers that may be un-clocked."""


class ServingTable(Table):
    """How the engines batch, and what KV caches move over between prompt and token servers."""

    batching: Literal["whole", "chunked"] = "whole"
    """`whole`: a prompt is prefilled in one iteration. `chunked`: every decode first, then prompts cut to the engine's
    budget of tokens; requests of both priorities share the servers. Always chunked with prompt and token servers."""
    cached_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each prompt that a prefix cache holds already; only with chunks."""
    kv_bytes_per_token: Positive | None = None
    """Of the model's KV cache, all layers; needed with prompt and token servers. Llama-3.1-70B in bf16: 327680."""
    link_bytes_per_s: Positive = 50e9
    """Out of one server, or into one; 50e9 is one network card of 400 Gb/s."""
    link_latency_s: NotNegative = 0.0
    """Before the first byte of a transfer."""


class RecordedTable(Table):
    """How recordings of power (`replay --power`) are read as work of the servers with role `recorded`."""

    of: Literal["server", "row"] = "server"
    """What one recorded source is: a server, or a row whose power these servers share evenly."""
    together: bool = True
    """All servers of a recording are one job, as training is: as fast as its slowest server."""
    clock_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Clock cap over full clock under which it was recorded. What was drawn under a power limit says nothing about what
    was wanted: record without one."""


class WorkloadTable(Table):
    """Parameters of built-in workloads."""

    recorded: RecordedTable = RecordedTable()
    """How recorded power is read."""

    six_weeks: dict[str, float] = Field(default={}, alias="six-weeks")
    """Overrides for `--requests six-weeks`."""


class SiteFile(Table):
    """A whole file."""

    site: SiteTable
    domains: dict[DomainName, DomainTable]
    servers: list[ServersTable]
    actuation: ActuationTable
    slo: SlosTable = SlosTable()
    timing: TimingTable = TimingTable()
    serving: ServingTable = ServingTable()
    policy: dict[str, dict[str, float]] = {}
    workload: WorkloadTable = WorkloadTable()


TABLES: dict[str, type[Table]] = {
    "": SiteFile,
    "site": SiteTable,
    "domains.*": DomainTable,
    "domains.*.breaker": BreakerTable,
    "domains.*.ups": BreakerTable,
    "servers.*": ServersTable,
    "actuation": ActuationTable,
    "slo": SlosTable,
    "slo.*": SloTable,
    "timing": TimingTable,
    "serving": ServingTable,
    "workload": WorkloadTable,
    "workload.recorded": RecordedTable,
}
"""Tables whose keys are fixed, by path; `*` is a name or an index."""
