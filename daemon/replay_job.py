"""The options of `overwatt replay` become a job, and every refusal that needs no simulation is made here."""

import math
import os
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.commands.replay_options import ReplayOptions
from daemon.config import read_site
from daemon.config_checks import suggestion
from daemon.failures import UsageError
from daemon.outputs import check_writable
from policies import POLICIES
from sim_backend.profile import load_profile
from sim_backend.site import PATH_DEFAULTS, RECORDED, Guarantee, ServerGroup, Site
from sim_backend.site import Path as CommandPath

if TYPE_CHECKING:
    from sim_backend.replay import ReplayJob

SIX_WEEKS = "six-weeks"
SIX_WEEKS_DAYS = 42
"""Length of the built-in workload: POLCA's evaluation, 2023-06-21 to 08-02."""
SAID = ("requests", "power", "power_format", "site", "policy", "add_servers", "guarantee", "actuation", "other_w")
"""Options that the command to run again always says, if given."""
WHOLE_HOUR = 1e-6
"""Hours that rounding may add: a third of a day is not a whole number of hours in binary."""

MAX_ADD_PCT = 1000.0
"""Eleven times the servers: more is a typing error, and would simulate for days."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A job that can be run, and what is questionable about it."""

    job: "ReplayJob"
    warnings: tuple[str, ...]


def plan(options: ReplayOptions) -> Plan:
    """The job that `options` ask for.

    Raises:
        UsageError: options that are missing, unknown or contradict each other; outputs that cannot be written.
        ConfigError: the site.
    """
    site_path, policy = _required(options)
    requests = options.requests
    policies = _names("--policy", policy, POLICIES)
    ratios = _ratios(options.add_servers)
    _ranges(options)
    power = _paths(options.power)
    inputs = {"--requests": None if requests in (SIX_WEEKS, None) else Path(requests), "--site": site_path}
    check_writable(
        {"--json": options.json, "--html": options.html, "--record": options.record},
        inputs | {f"--power {path}": Path(path) for path in power},
    )
    document = read_site(site_path)
    site = _variant(document.site, options)
    _roles(site, requests, power)
    guarantees = _guarantees(options, site)
    warnings: list[str] = []
    for guarantee in guarantees:
        warnings += document.check(replace(site, guarantee=Guarantee(guarantee)))
    if options.record is not None and len(policies) * len(ratios) * len(guarantees) > 1:
        raise UsageError("--record keeps the journal of one run: name one policy, one --add-servers, one guarantee")
    # Imported last: it pulls in the compiler, which no refusal above should wait for.
    from sim_backend.recorded_power import RecordedPower
    from sim_backend.replay import ReplayJob

    job = ReplayJob(
        site=replace(site, guarantee=Guarantee(guarantees[0])),
        requests=requests,
        policies=policies,
        guarantees=guarantees,
        add_servers_pct=ratios,
        seed=options.seed,
        days=options.days,
        start_day=options.start_day,
        rate=options.rate,
        compress_time=options.compress_time,
        power=RecordedPower(power, options.power_format, options.power_source) if power else None,
        processes=options.processes,
        journal=options.record,
        command=command(options),
    )
    return Plan(job, tuple(dict.fromkeys(warnings)))


def command(options: ReplayOptions) -> str:
    """The command line that gives the same figures; where they are written and by how many processes is left out."""
    words = ["overwatt", "replay"]
    for name in SAID:
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value) if not isinstance(value, float) else f"{value:g}"]
    if options.power_source != "*":
        words += ["--power-source", options.power_source]
    words += ["--seed", str(options.seed)]
    if options.days is not None:
        words += ["--days", repr(options.days).removesuffix(".0")]
    for name, value, usual in (
        ("--start-day", options.start_day, 0.0),
        ("--rate", options.rate, 1.0),
        ("--compress-time", options.compress_time, 1.0),
    ):
        if value != usual:
            words += [name, repr(value).removesuffix(".0")]
    return shlex.join(words)


def _required(options: ReplayOptions) -> tuple[Path, str]:
    if options.requests is None and options.power is None:
        raise UsageError(
            f"--requests is missing: name a trace, or {SIX_WEEKS} for the built-in workload; or --power recordings"
        )
    if options.site is None:
        raise UsageError("--site is missing: name a site file; docs/examples has some to start from")
    if options.policy is None:
        raise UsageError(f"--policy is missing: name one or more of {', '.join(POLICIES)}, with commas between")
    return options.site, options.policy


def _paths(text: str | None) -> tuple[str, ...]:
    """The comma-separated files in `text`."""
    return () if text is None else tuple(path.strip() for path in text.split(","))


def _roles(site: Site, requests: str | None, power: tuple[str, ...]) -> None:
    """Every kind of server needs its kind of work, and the other way round."""
    records = any(group.role == RECORDED for group in site.servers)
    serves = any(group.role != RECORDED for group in site.servers)
    if records and not power:
        raise UsageError('--power is missing: the site has servers with role = "recorded", which do recorded work')
    if power and not records:
        raise UsageError('--power: no server of the site takes recorded work; give some of them role = "recorded"')
    if serves and requests is None:
        raise UsageError(
            '--requests is missing: the site has servers that serve; or give all of them role = "recorded"'
        )
    if requests is not None and not serves:
        raise UsageError('--requests: no server of the site serves, all have role = "recorded"; leave it out')


def _names(option: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """The comma-separated names in `text`, each of them known and given once."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise UsageError(f"{option}: '{name}' is not known{suggestion(name, known)}; there are {', '.join(known)}")
    _once(option, names)
    return names


def _once(option: str, values: Collection[object]) -> None:
    if len(set(values)) < len(values):
        raise UsageError(f"{option}: a value is given twice; the second run would repeat the first")


def _ratios(text: str) -> tuple[float, ...]:
    ratios = []
    for part in text.split(","):
        try:
            ratio = float(part.strip().removesuffix("%"))
        except ValueError:
            ratio = math.nan
        if not 0.0 <= ratio <= MAX_ADD_PCT:
            raise UsageError(
                f"--add-servers: '{part.strip()}' is not a percentage from 0 to {MAX_ADD_PCT:g}; write 0,10,30"
            )
        ratios.append(ratio)
    _once("--add-servers", ratios)
    return tuple(ratios)


def _ranges(options: ReplayOptions) -> None:
    """Numbers that typer has read, but that make no run."""
    numbers = (
        ("--days", options.days),
        ("--rate", options.rate),
        ("--compress-time", options.compress_time),
    )
    for name, value in numbers:
        if value is not None and not (math.isfinite(value) and value > 0.0):
            raise UsageError(f"{name}: {value:g} must be above 0")
    if options.other_w is not None and not (math.isfinite(options.other_w) and options.other_w >= 0.0):
        raise UsageError(f"--other-w: {options.other_w:g} must be at least 0")
    if options.processes < 1:
        raise UsageError(f"--processes: {options.processes} must be at least 1; this machine has {os.cpu_count()} CPUs")
    if options.seed < 0:
        raise UsageError(f"--seed: {options.seed} must not be negative")
    if options.html is not None and str(options.html) == "-":
        raise UsageError("--html: name a file; only --json can be written to standard output")
    if options.requests == SIX_WEEKS:
        _span(options)
        for name, value in numbers[1:]:
            if value != 1.0:
                raise UsageError(
                    f"{name} changes recorded traces only; for {SIX_WEEKS} set [workload.six-weeks] in the site file"
                )
    elif options.requests is None and (options.rate, options.compress_time) != (1.0, 1.0):
        raise UsageError("--rate and --compress-time change requests; recorded power is replayed as it is")
    elif options.start_day != 0.0:
        raise UsageError(f"--start-day is for {SIX_WEEKS}; a recorded trace is replayed from its first request")


def _span(options: ReplayOptions) -> None:
    """Which part of the six weeks is run."""
    start, days = options.start_day, options.days
    if days is not None and days > SIX_WEEKS_DAYS:
        raise UsageError(f"--days: {days:g} is more than the {SIX_WEEKS_DAYS} days of {SIX_WEEKS}")
    if not 0.0 <= start < SIX_WEEKS_DAYS:
        raise UsageError(f"--start-day: {start:g} must lie from 0 to below {SIX_WEEKS_DAYS}, the days of {SIX_WEEKS}")
    if abs(24.0 * start - round(24.0 * start)) > WHOLE_HOUR:
        raise UsageError(f"--start-day: {start!r} must fall on a whole hour; {round(24.0 * start) / 24.0!r} does")
    if days is not None and start + days > SIX_WEEKS_DAYS:
        raise UsageError(
            f"--start-day: {days:g} days from day {start:g} end after day {SIX_WEEKS_DAYS}, the last of {SIX_WEEKS}"
        )


def _variant(site: Site, options: ReplayOptions) -> Site:
    """The site with what the options change about it."""
    if options.actuation is not None:
        (name,) = _names("--actuation", options.actuation, [str(path) for path in PATH_DEFAULTS])
        if name != site.actuation.path:
            site = replace(site, actuation=PATH_DEFAULTS[CommandPath(name)])
    if options.other_w is not None:
        site = replace(site, servers=tuple(with_other_w(site.servers, options.other_w)))
    return site


def with_other_w(groups: Iterable[ServerGroup], other_w: float) -> Iterable[ServerGroup]:
    """The same servers with other non-GPU watts; failsafe caps move along, so that the GPUs keep their limits."""
    for group in groups:
        before_w = load_profile(group.profile).other_w if group.other_w is None else group.other_w
        yield replace(group, other_w=other_w, failsafe_w=group.failsafe_w + other_w - before_w)


def _guarantees(options: ReplayOptions, site: Site) -> tuple[str, ...]:
    if options.guarantee is None and options.actuation is None:
        return (str(site.guarantee),)
    asked = str(site.guarantee) if options.guarantee is None else options.guarantee
    guarantees = _names("--guarantee", asked, [str(guarantee) for guarantee in Guarantee])
    if Guarantee.HARD in guarantees and site.actuation.path is CommandPath.OUT_OF_BAND:
        raise UsageError(
            f"the hard guarantee cannot be kept out-of-band: {site.actuation.latency_s:g} s commands cannot carry "
            "leases; use --guarantee reactive or --actuation in-band"
        )
    return guarantees
