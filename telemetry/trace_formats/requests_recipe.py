"""Requests drawn as a small TOML file says: which share of ServeGen's load, which days, by which seed."""

import tomllib
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec

from policies.errors import ConfigError
from telemetry.request_reading import MAX_FACTOR, Reading
from telemetry.request_spool import Intake
from telemetry.request_text import Source, open_source
from telemetry.trace_file import fail, printable, shown
from telemetry.trace_formats import requests_aggregate, requests_servegen

DAY_S = 86_400.0
_KEY = b"servegen"


class _Recipe(msgspec.Struct, forbid_unknown_fields=True):
    """What the file may say; days that it leaves out are all there are."""

    servegen: str
    """Archive, folder or summed rates, relative to the recipe."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    factor: Annotated[float, msgspec.Meta(gt=0.0, le=MAX_FACTOR)] = 1.0
    start_day: Annotated[float, msgspec.Meta(ge=0.0, le=3653.0)] = 0.0
    days: Annotated[float, msgspec.Meta(gt=0.0, le=3653.0)] = 3653.0


def sniff(head: bytes, _path: Path) -> bool:
    """Whether a line assigns the one key that every recipe has."""
    return any(line.partition(b"=")[0].strip() == _KEY for line in head.split(b"\n") if b"=" in line)


def fill(source: Source, intake: Intake, _reading: Reading) -> None:
    """Draw the requests; the recipe's own words count, nobody else's.

    Raises:
        DataError: the recipe or what it names is wrong; names file, place and remedy.
    """
    recipe = _read(source)
    path = source.path.parent / recipe.servegen
    wanted = _reading_of(recipe, source.name)
    if requests_servegen.sniff(b"", path):
        requests_servegen.fill_folder(path, intake, wanted)
        return
    with open_source(path, printable(path)) as load:
        if requests_servegen.sniff(load.head, path):
            requests_servegen.fill(load, intake, wanted)
        elif requests_aggregate.sniff(load.head, path):
            requests_aggregate.fill(load, intake, wanted)
        else:
            fail(source.name, None, f"servegen = {shown(recipe.servegen)} is none of ServeGen's files; name one")


def _read(source: Source) -> _Recipe:
    def damaged(text: str) -> NoReturn:
        fail(source.name, None, text)

    text = b""
    for chunk in source.chunks(damaged):
        text += chunk
        if len(text) > len(source.head):
            fail(source.name, None, f"longer than {len(source.head)} bytes, so this is no recipe; give another file")
    try:
        return msgspec.convert(tomllib.loads(text.decode()), _Recipe)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        said = str(error) if str(error).isprintable() else shown(str(error))
        fail(source.name, None, f"no recipe ({said}); correct it, keys are {', '.join(_Recipe.__struct_fields__)}")


def _reading_of(recipe: _Recipe, name: str) -> Reading:
    start_s = recipe.start_day * DAY_S
    try:
        return Reading(recipe.seed, recipe.factor, start_s, start_s + recipe.days * DAY_S)
    except ConfigError as error:
        fail(name, None, f"{error}; correct it")
