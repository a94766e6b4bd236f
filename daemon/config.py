"""A site file (TOML) becomes `sim_backend.site` dataclasses, or one line per error."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.config_checks import Problem, problems, suggestion
from daemon.toml_lines import KeyPath, line_of, spelled
from policies.errors import ConfigError
from sim_backend.site import (
    PATH_DEFAULTS,
    Breaker,
    Domain,
    Guarantee,
    Path,
    RecordedWork,
    ServerGroup,
    Serving,
    Site,
    Slo,
)

MAX_BYTES = 1 << 20
"""A site file is a few kilobytes; what is larger is some other file, and would be read whole."""

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
    """A shipped profile (`server__model`), or a path ending in `.toml`, relative to this file."""
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


@dataclass(frozen=True, slots=True)
class SiteDocument:
    """A site with the text it was read from, so that what is found wrong later still names its line."""

    path: FilePath
    text: str
    site: Site

    def check(self, site: Site) -> list[str]:
        """What is questionable about `site`, which is the file's or a variant of it; one line each.

        Raises:
            ConfigError: what cannot stand, one line each.
        """
        found = list(problems(site))
        refused = [self.located(p) for p in found if p.refuses(site.guarantee)]
        if refused:
            raise ConfigError("\n".join(refused))
        return [self.located(p) for p in found]

    def located(self, problem: Problem) -> str:
        """A problem as `file, line N: key: text`."""
        return _located(self.path, self.text, problem.key, problem.text)


def load_site(path: FilePath) -> Site:
    """The site in the file at `path`, checked; questionable things are passed over in silence."""
    document = read_site(path)
    document.check(document.site)
    return document.site


def read_site(path: FilePath) -> SiteDocument:
    """Read a site file, not yet checking how its values relate.

    Raises:
        ConfigError: unreadable, not TOML, unknown or missing keys, values of the wrong kind; one line each.
    """
    return parse_site(_text(path), path)


def parse_site(text: str, path: FilePath) -> SiteDocument:
    """The site that `text` describes; `path` is named in errors, and profiles are looked for beside it."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        number = place.removeprefix("line ").partition(",")[0]
        where = f"{path}, line {number}" if number.isdigit() else f"{path}"
        raise ConfigError(f"{where}: not valid TOML: {message}") from error
    try:
        return SiteDocument(path, text, _site(SiteFile.model_validate(tree), path.parent))
    except ValidationError as error:
        lines = (_located(path, text, key, said) for key, said in _schema_errors(error))
        raise ConfigError("\n".join(lines)) from error


def _text(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than 1 MiB, so not a site file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {number}: not UTF-8 text, so not a site file") from error


def _located(path: FilePath, text: str, key: KeyPath, said: str) -> str:
    number = line_of(text, key)
    where = f"{path}, line {number}" if number is not None else f"{path}"
    return f"{where}: {spelled(key)}: {said}" if key else f"{where}: {said}"


def _schema_errors(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    for item in error.errors(include_url=False):
        key: KeyPath = tuple(part for part in item["loc"] if part != "[key]")
        value: Any = item["input"]
        match item["type"]:
            case "extra_forbidden":
                yield key, "unknown key" + _where_it_belongs(key)
            case "too_short" | "too_long" if key[-2:-1] == ("points",):
                yield key, "must be [load over rating, seconds carried]"
            case "missing":
                yield key, "is missing"
            case "string_pattern_mismatch":
                yield key, "a name is made of letters, digits, '-' and '_'"
            case _:
                said = item["msg"].removeprefix("Input should ").removeprefix("be ")
                shown = f", not {value!r}" if isinstance(value, str | int | float | bool) else ""
                yield key, f"must be {said}{shown}"


def _where_it_belongs(key: KeyPath) -> str:
    """Advice for an unknown key: a name that is close here, or the table that has it."""
    name = str(key[-1])
    here = _pattern(key[:-1])
    allowed = [f.alias or n for n, f in TABLES[here].model_fields.items()] if here in TABLES else []
    if said := suggestion(name, allowed):
        return said
    for pattern, table in TABLES.items():
        if pattern and name in table.model_fields:
            return f"; {name} belongs in [{pattern.replace('*', 'NAME').replace('servers.NAME', '[servers]')}]"
    return f"; known here: {', '.join(allowed)}"


def _pattern(path: KeyPath) -> str:
    for pattern in TABLES:
        parts = pattern.split(".") if pattern else []
        if len(parts) == len(path) and all(p in ("*", at) for p, at in zip(parts, path, strict=True)):
            return pattern
    return "?"


def _site(file: SiteFile, folder: FilePath) -> Site:
    """The dataclasses; what the file leaves out is left out here too, so that defaults stand in one place."""
    domains = tuple(_domain(name, table) for name, table in file.domains.items())
    servers = tuple(
        ServerGroup(**{**table.model_dump(exclude_unset=True), "profile": _profile(table.profile, folder)})
        for table in file.servers
    )
    path = Path(file.actuation.path)
    given = file.actuation.model_dump(exclude_unset=True, exclude={"path"})
    slo = {name: Slo(**values) for name, values in file.slo.model_dump(exclude_unset=True).items()}
    return Site(
        **{
            **file.site.model_dump(exclude_unset=True),
            **file.timing.model_dump(exclude_unset=True),
            "guarantee": Guarantee(file.site.guarantee),
        },
        domains=domains,
        servers=servers,
        actuation=replace(PATH_DEFAULTS[path], **given),
        slo=slo,
        policy=file.policy,
        workload=file.workload.six_weeks,
        serving=Serving(**file.serving.model_dump(exclude_unset=True)),
        recorded=RecordedWork(**file.workload.recorded.model_dump(exclude_unset=True)),
    )


def _domain(name: str, table: DomainTable) -> Domain:
    given = {"parent": None, "budget_w": None, **table.model_dump(exclude_unset=True, exclude={"breaker", "ups"})}
    ups = None if table.ups is None else _breaker(table.ups)
    return Domain(name=name, **given, breaker=_breaker(table.breaker), ups=ups)


def _breaker(table: BreakerTable) -> Breaker:
    breaker = Breaker(**table.model_dump(exclude_unset=True))
    return replace(breaker, points=tuple((float(load), float(time_s)) for load, time_s in breaker.points))


def _profile(name: str, folder: FilePath) -> str:
    return str(folder / name) if name.endswith(".toml") else name
