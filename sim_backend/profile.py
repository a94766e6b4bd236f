"""What one model on one kind of server draws and how fast it is, as one TOML file per pair with a source per number."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from policies.errors import ConfigError
from policies.models.clocks import dynamic_ratio
from policies.models.gpu_power import clock_factor
from policies.models.iteration import IterationModel
from policies.models.roofline import busy_w, memory_stretch
from sim_backend.cards.server_card import ServerCard

SHIPPED = Path(__file__).parent / "profiles"


@dataclass(frozen=True, slots=True)
class Profile:
    """A server model under one language model; the parameters of `policies.models` and of the plant."""

    name: str
    gpus: int
    tdp_w: float
    """Per GPU, as all GPU watts here."""
    idle_w: float
    """Model loaded, nothing to do."""
    max_mhz: float
    min_mhz: float
    min_limit_w: float
    """Lowest power limit the GPU accepts."""
    nameplate_w: float
    """Server's rated maximum."""
    other_w: float
    """Server less its GPUs, running."""
    other_max_w: float
    """The same with fans hot and CPUs busy; caps are derived with this."""
    overshoot_ratio: float
    """What a GPU may draw over its power limit, as a 1 s mean."""
    kv_tokens: int
    """Tokens of KV cache the whole server holds."""
    max_batch: int
    max_batch_tokens: int
    mixed_batch_factor: float
    """Time of an iteration that mixes prompts and decodes over that of the prompts alone."""
    prefill_base_s: float
    prefill_per_token_s: float
    prefill_per_token2_s: float
    prefill_clock_share: float
    decode_base_s: float
    decode_per_request_s: float
    decode_per_context_s: float
    decode_clock_share: float
    prefill_at_128: float
    """Ratios of TDP, as the two below and `decode_ratio`."""
    prefill_per_octave: float
    prefill_ceiling: float
    decode_ratio: float
    prefill_static_share: float
    prefill_exponent: float
    decode_static_share: float
    decode_exponent: float
    provenance: dict[str, str] = field(default_factory=dict, compare=False)
    """Source of each number, by field; fit errors under `prefill_time.fit` and alike."""
    iteration: IterationModel | None = field(default=None, compare=False)
    """What iterations take and draw, instead of the prefill and decode numbers above; for an engine over all GPUs."""
    server: ServerCard | None = field(default=None, compare=False)
    """What the plant adds to the GPUs' draw, instead of the constant `other_w`."""
    limiter_s: float = 0.0
    """Time in which the GPUs' firmware corrects most of an excess over a power limit; 0: limits bind at once."""

    @property
    def lowest_gpu_w(self) -> float:
        """What a GPU may still draw at its lowest limit and clock: no cap on it is kept below this.

        By the power law a long prompt draws more at the lowest clock than the lowest limit an A100 or H100 accepts.
        """
        clock_ratio = self.min_mhz / self.max_mhz
        if self.iteration is not None:
            model = self.iteration
            # Below the knee even a memory that always has something to do moves less.
            memory_w = model.memory_w / memory_stretch(clock_ratio, model.memory_knee)
            dynamic = dynamic_ratio(clock_ratio, model.exponent, model.voltage_floor)
            lowest_w = busy_w(model.idle_w, dynamic, model.active_w + model.compute_w, memory_w)
            return max(self.min_limit_w * self.overshoot_ratio, lowest_w)
        prefill = self.prefill_ceiling * clock_factor(clock_ratio, self.prefill_static_share, self.prefill_exponent)
        decode = self.decode_ratio * clock_factor(clock_ratio, self.decode_static_share, self.decode_exponent)
        return max(self.min_limit_w * self.overshoot_ratio, self.tdp_w * max(prefill, decode))

    def with_other_w(self, other_w: float) -> "Profile":
        """The same with other non-GPU watts; fans and busy CPUs add as much as before."""
        margin_w = self.other_max_w - self.other_w
        if not (math.isfinite(other_w) and 0.0 <= other_w <= self.nameplate_w - margin_w):
            raise ConfigError(
                f"other_w = {other_w:g} W must lie within 0 .. {self.nameplate_w - margin_w:g} W for {self.name}: "
                f"otherwise nothing of the nameplate's {self.nameplate_w:g} W would be left for GPUs"
            )
        source = dict(self.provenance, other_w="given by the operator", other_max_w="other_w given + profile's margin")
        # A given number stands instead of the card's fans and supplies.
        return replace(self, other_w=other_w, other_max_w=other_w + margin_w, server=None, provenance=source)


DEFAULT = "default"
"""Key of a fitted section's `source` that stands for all numbers without a source of their own."""
FITTED = frozenset({"prefill_time", "decode_time", "prefill_power", "decode_power"})
"""Sections whose numbers come together, and so may share a source; the others are a collection of single facts."""
FIT_KEYS = {"points", "median_error", "worst_error"}
WHOLE = frozenset({"gpus", "kv_tokens", "max_batch", "max_batch_tokens"})

# section -> {key in the file: field of Profile}
SECTIONS: dict[str, dict[str, str]] = {
    "gpu": {k: k for k in ("tdp_w", "idle_w", "max_mhz", "min_mhz", "min_limit_w", "overshoot_ratio")},
    "server": {k: k for k in ("gpus", "nameplate_w", "other_w", "other_max_w")},
    "engine": {k: k for k in ("kv_tokens", "max_batch", "max_batch_tokens", "mixed_batch_factor")},
    "prefill_time": {k: f"prefill_{k}" for k in ("base_s", "per_token_s", "per_token2_s", "clock_share")},
    "decode_time": {k: f"decode_{k}" for k in ("base_s", "per_request_s", "per_context_s", "clock_share")},
    "prefill_power": {k: f"prefill_{k}" for k in ("at_128", "per_octave", "ceiling", "static_share", "exponent")},
    "decode_power": {k: f"decode_{k}" for k in ("ratio", "static_share", "exponent")},
}

# Allowed closed range of a field; the rest must be finite and >= 0.
RANGES: dict[str, tuple[float, float]] = {
    "gpus": (1, 1024),
    "tdp_w": (1.0, math.inf),
    "max_mhz": (1.0, math.inf),
    "min_mhz": (1.0, math.inf),
    "min_limit_w": (1.0, math.inf),
    "nameplate_w": (1.0, math.inf),
    "overshoot_ratio": (1.0, 2.0),
    "kv_tokens": (1, math.inf),
    "max_batch": (1, math.inf),
    "max_batch_tokens": (1, math.inf),
    "mixed_batch_factor": (1.0, 10.0),
    "prefill_clock_share": (0.0, 1.0),
    "decode_clock_share": (0.0, 1.0),
    "prefill_ceiling": (0.0, 2.0),
    "decode_ratio": (0.0, 2.0),
    "prefill_static_share": (0.0, 0.99),
    "decode_static_share": (0.0, 0.99),
    "prefill_exponent": (0.1, 10.0),
    "decode_exponent": (0.1, 10.0),
}

# (smaller, larger, what goes wrong otherwise)
ORDER: tuple[tuple[str, str, str], ...] = (
    ("idle_w", "tdp_w", "an idle GPU would draw more than a full one"),
    ("min_limit_w", "tdp_w", "no power limit could be set"),
    ("min_mhz", "max_mhz", "no clock could be set"),
    ("prefill_at_128", "prefill_ceiling", "prefill power would fall with the batch"),
    ("other_w", "other_max_w", "a cap derived from other_max_w would not hold the server"),
    ("other_max_w", "nameplate_w", "nothing would be left for GPUs"),
)


def shipped_names() -> tuple[str, ...]:
    """Names that `load_profile` knows without a path, sorted."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def load_profile(name: str) -> Profile:
    """A profile by its name.

    Args:
        name: a shipped file of `profiles/`; a path ending in `.toml`; or cards to put together, as
            `SERVER__MODEL__ENGINE` (`sim_backend.cards.composed`).

    Raises:
        ConfigError: no such profile or card, or a file that is not a whole and plausible one.
    """
    # Imported here: it makes profiles, so it imports this module.
    from sim_backend.cards.composed import composed_profile, parse_key

    if not name.endswith(".toml") and (key := parse_key(name)) is not None:
        return composed_profile(key)
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if "/" in name and not name.endswith(".toml"):
        raise ConfigError(f"profile '{name}': a path to a profile must end in .toml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(shipped_names())
        raise ConfigError(
            f"profile '{name}' cannot be read; use a .toml file that exists, SERVER__MODEL__ENGINE by cards, or one "
            f"of: {known}"
        ) from error
    return parse_profile(text, where=str(path))


def parse_profile(text: str, where: str) -> Profile:
    """A profile from the text of its TOML file; `where` names the file in errors."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML, {error}") from error
    name = tree.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f'{where}: name is missing; give the pair as name = "server__model"')
    _same_keys(tree, {"name", "command", *SECTIONS}, {"name", *SECTIONS}, where)
    numbers: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    if "command" in tree:
        provenance["command"] = str(tree["command"])
    for section, fields in SECTIONS.items():
        table = _table(tree, section, where)
        optional = {"fit"} if section in FITTED else set()
        _same_keys(table, {*fields, "source", *optional}, {*fields, "source"}, f"{where} [{section}]")
        source = _table(table, "source", f"{where} [{section}]")
        if DEFAULT in source and section in FITTED:
            source = dict.fromkeys(fields, source[DEFAULT]) | {k: v for k, v in source.items() if k != DEFAULT}
        _same_keys(source, set(fields), set(fields), f"{where} [{section}.source]")
        for key, target in fields.items():
            numbers[target] = _number(table[key], target, f"{where} [{section}] {key}")
            provenance[target] = _text(source[key], f"{where} [{section}.source] {key}")
        if "fit" in table:
            fit = _table(table, "fit", f"{where} [{section}]")
            _same_keys(fit, FIT_KEYS, FIT_KEYS, f"{where} [{section}.fit]")
            provenance[f"{section}.fit"] = ", ".join(f"{key} {value}" for key, value in sorted(fit.items()))
    _check_order(numbers, where)
    return Profile(name=name, **numbers, provenance=provenance)


def _table(tree: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = tree[key]
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key} must be a table, not {value!r}")
    return value


def _same_keys(table: Mapping[str, Any], allowed: set[str], required: set[str], where: str) -> None:
    unknown = sorted(set(table) - allowed)
    if unknown:
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'; allowed are {', '.join(sorted(allowed))}")
    missing = sorted(required - set(table))
    if missing:
        raise ConfigError(f"{where}: '{missing[0]}' is missing; every number must be given, with its source")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: the source of a number must be a text, not {value!r}")
    return value


def _number(value: object, target: str, where: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} = {value!r} must be a number")
    if target in WHOLE and not isinstance(value, int):
        raise ConfigError(f"{where} = {value!r} must be a whole number")
    low, high = RANGES.get(target, (0.0, math.inf))
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{where} = {value!r} is outside {low:g} .. {high:g}")
    return value if target in WHOLE else float(value)


def _check_order(numbers: Mapping[str, float], where: str) -> None:
    for smaller, larger, otherwise in ORDER:
        if numbers[smaller] > numbers[larger]:
            raise ConfigError(
                f"{where}: {smaller} = {numbers[smaller]:g} must not exceed {larger} = {numbers[larger]:g}: "
                f"otherwise {otherwise}"
            )
    if numbers["prefill_base_s"] + numbers["prefill_per_token_s"] + numbers["prefill_per_token2_s"] <= 0.0:
        raise ConfigError(f"{where}: a prefill of one token must take time")
    if numbers["decode_base_s"] + numbers["decode_per_request_s"] <= 0.0:
        raise ConfigError(f"{where}: a decode of one sequence must take time")
