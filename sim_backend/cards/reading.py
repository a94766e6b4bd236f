"""Reads cards: TOML, checked against a struct, every number with a source."""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from policies.errors import ConfigError

ABOUT = frozenset({"name", "source", "fit"})
"""Fields that every card has; the others are its numbers."""


class FitNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the fitted numbers of a card came about, and how far they are from what they were not fitted to."""

    recordings: list[str]
    """Folders of the data sets, or files."""
    recorded: str
    """When the measurements were made or published: a year, a month or a date."""
    checked_points: int
    """Points that nothing was fitted to."""
    median_error: float
    """Of these, a fraction."""


class Sourced(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all cards have: a name, and a source for each of their numbers."""

    name: str
    source: dict[str, str]
    """Where each number is from, by field; `default` stands for all without an entry."""
    fit: FitNote | None = None
    """None: facts only, or numbers that were taken over from another card."""


Card = TypeVar("Card", bound=Sourced)


def card_names(folder: Path) -> tuple[str, ...]:
    """Names that can be read from `folder` without a path, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def read_card(name: str, folder: Path, kind: type[Card]) -> Card:
    """The card `name` of `folder`, or the one in the file `name` if that ends in `.toml`.

    Raises:
        ConfigError: no such card, or a file that is not a whole and plausible one.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(card_names(folder))
        raise ConfigError(f"'{name}' cannot be read; use a .toml file that exists or one of: {known}") from error
    try:
        card = msgspec.convert(tomllib.loads(text), kind)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    fields = {field.name for field in msgspec.structs.fields(kind)} - ABOUT
    unknown = sorted(set(card.source) - fields - {"default"})
    if unknown:
        raise ConfigError(f"{path} [source]: '{unknown[0]}' is no number of this card")
    unsourced = sorted(fields - set(card.source))
    if unsourced and "default" not in card.source:
        raise ConfigError(f"{path} [source]: '{unsourced[0]}' is missing; every number needs one")
    return card
