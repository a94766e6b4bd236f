"""Writes cards as TOML: the same card, the same bytes."""

from pathlib import Path

import msgspec

from sim_backend.cards.reading import ABOUT, Sourced
from telemetry.whole_file import write_whole

HEAD = "# Facts are changed here; fitted numbers come from `overwatt calibrate` and are changed by new recordings.\n"


def card_text(card: Sourced) -> str:
    """The file of a card: its numbers, then where each is from, then how well what was fitted fits."""
    lines = [HEAD + f"name = {_value(card.name)}"]
    for field in msgspec.structs.fields(card):
        value = getattr(card, field.name)
        # What a reader takes anyway is left out.
        if field.name not in ABOUT and value != field.default:
            lines.append(f"{field.name} = {_value(value)}")
    lines += ["", "[source]"]
    order = ["default", *(field.name for field in msgspec.structs.fields(card))]
    lines += [f"{key} = {_value(card.source[key])}" for key in order if key in card.source]
    if card.fit is not None:
        lines += ["", "[fit]"]
        lines += [f"{each.name} = {_value(getattr(card.fit, each.name))}" for each in msgspec.structs.fields(card.fit)]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case int():
            return str(value)
        case float():
            return "inf" if value == float("inf") else f"{value:.6g}"
        case list():
            return "[" + ", ".join(_value(one) for one in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    raise TypeError(f"{value!r} cannot stand in a card")


def write_card(card: Sourced, path: Path) -> None:
    """Write the card's file, whole or not at all."""
    write_whole(path, card_text(card).encode())
