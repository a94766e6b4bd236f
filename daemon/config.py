"""A site file (TOML) becomes `sim_backend.site` dataclasses, or one line per error."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from daemon.config_checks import Problem, problems, suggestion
from daemon.site_tables import TABLES, BreakerTable, DomainTable, SiteFile
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
    """A profile's name, with paths relative to the site file: of the profile, or of a card in a composed name."""
    parts = name.split("__")
    return "__".join(str(folder / part) if part.endswith(".toml") else part for part in parts)
