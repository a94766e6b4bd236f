"""How far predictions may be off: held-out errors of the fidelity checks, by GPU, engine and quantity."""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from policies.errors import ConfigError
from sim_backend.fidelity.check import Check

TABLE = Path(__file__).parent / "bands.toml"
QUANTITIES = ("power", "tpot", "ttft", "throughput")
UNMEASURED = 2.0
"""Where nothing was measured for a pair, its band is the widest of all, times this: chosen, not measured."""
NEARBY = 1.5
"""The same where the engine was measured on another GPU, or the GPU under another engine."""
ASSUMED = {"power": 0.10, "tpot": 0.15, "ttft": 0.25, "throughput": 0.15}
"""Limits that the checks are to keep; they stand in for quantities that no table has an error of."""


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the table: an error of points that nothing was fitted to."""

    gpu: str
    engine: str
    quantity: str
    error: Annotated[float, Meta(gt=0.0, lt=10.0)]
    """Of the measured value, a fraction that nine in ten held-out points stay within."""
    source: str
    """Data set and number of points."""


class Bands(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: `[[band]]` tables."""

    band: list[Band]


class Given(msgspec.Struct, frozen=True):
    """A band as it is applied."""

    error: float
    measured: bool
    """Whether it is of this very GPU and engine."""
    source: str

    def around(self, value: float) -> dict[str, float]:
        """A value with its band."""
        return {"value": value, "low": value / (1.0 + self.error), "high": value * (1.0 + self.error)}


def read_bands(path: Path = TABLE) -> list[Band]:
    """The table; empty if there is none yet.

    Raises:
        ConfigError: a table that cannot be read.
    """
    if not path.exists():
        return []
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Bands).band
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}; restore the file that came with overwatt") from error
    for each in found:
        if each.quantity not in QUANTITIES:
            raise ConfigError(f"{path}: quantity '{each.quantity}' is not one of {', '.join(QUANTITIES)}")
    return found


def band_of(bands: list[Band], gpu: str, engine: str, quantity: str) -> Given:
    """The band for a pair: its own, or a widened one of what comes nearest."""
    of_quantity = [each for each in bands if each.quantity == quantity]
    own = [each for each in of_quantity if (each.gpu, each.engine) == (gpu, engine)]
    if own:
        widest = max(own, key=lambda each: each.error)
        return Given(widest.error, True, widest.source)
    nearby = [each for each in of_quantity if gpu == each.gpu or engine == each.engine]
    for known, factor in ((nearby, NEARBY), (of_quantity, UNMEASURED)):
        if known:
            widest = max(known, key=lambda each: each.error)
            return Given(
                factor * widest.error, False, f"{factor:g} x that of {widest.engine} on {widest.gpu} ({widest.source})"
            )
    return Given(UNMEASURED * ASSUMED[quantity], False, f"{UNMEASURED:g} x the limit of the checks, nothing measured")


def bands_text(checks: list[Check]) -> str:
    """The table that the fidelity checks make, as the file that `read_bands` reads."""
    lines = ["# Written by `make fidelity`: what nine in ten held-out points of docs/fidelity.md stay within."]
    for check in checks:
        if check.spread is None:
            continue
        for quantity in check.spread.quantities:
            lines += [
                "",
                "[[band]]",
                f'gpu = "{check.spread.gpu}"',
                f'engine = "{check.spread.engine}"',
                f'quantity = "{quantity}"',
                f"error = {check.spread.p90_error:.3g}",
                f'source = "{check.source}, {check.held_out_points} points"',
            ]
    return "\n".join(lines) + "\n"
