"""Text of a profile's TOML file."""

import json
from collections import Counter
from collections.abc import Mapping

from sim_backend.calibration.fits import Fit
from sim_backend.calibration.hardware import Fact
from sim_backend.profile import DEFAULT, FITTED, SECTIONS, WHOLE


def profile_text(name: str, command: str, facts: Mapping[str, Mapping[str, Fact]], fits: Mapping[str, Fit]) -> str:
    """The TOML file: sections of numbers, each followed by its sources and, where fitted, its errors."""
    lines = [
        "# Written by the command below; change numbers in sim_backend/calibration/hardware.py, or measure anew.",
        "# Fit errors are fractions of one. Abbreviations of sources: docs/data.md.",
        f"name = {_quoted(name)}",
        f"command = {_quoted(command)}",
    ]
    for section, keys in SECTIONS.items():
        lines += ["", f"[{section}]"]
        lines += [f"{key} = {_number(facts[section][key].value, target)}" for key, target in keys.items()]
        lines += ["", f"[{section}.source]"]
        lines += _sources({key: facts[section][key].source for key in keys}, shared=section in FITTED)
        if section in fits:
            fit = fits[section]
            lines += ["", f"[{section}.fit]", f"points = {fit.points}"]
            lines += [f"median_error = {fit.median_error!r}", f"worst_error = {fit.worst_error!r}"]
    return "\n".join(lines) + "\n"


def _sources(by_key: Mapping[str, str], shared: bool) -> list[str]:
    """One line per number; where sources may be shared, what most numbers have in common is the default."""
    (common, times), *_ = Counter(by_key.values()).most_common(1)
    lines = [f"{DEFAULT} = {_quoted(common)}"] if shared and times > 1 else []
    return lines + [f"{key} = {_quoted(text)}" for key, text in by_key.items() if not lines or text != common]


def _number(value: float, target: str) -> str:
    return str(int(value)) if target in WHOLE else repr(float(value))


def _quoted(text: str) -> str:
    # Within ASCII a JSON string is a TOML basic string.
    return json.dumps(text)
