"""Which calibration makes the fitted numbers of which card, so that each shipped file can be made again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from policies.errors import ConfigError
from sim_backend.calibration import caps, h200, operations, servers, serving, two_limits
from sim_backend.calibration.fits import rounded
from sim_backend.cards import engine_card, gpu_card, server_card
from sim_backend.cards.reading import FitNote, Sourced, card_names
from sim_backend.fidelity import caps as caps_fidelity
from sim_backend.fidelity import operations as operations_fidelity
from sim_backend.fidelity import servers as servers_fidelity
from sim_backend.fidelity import serving as serving_fidelity
from sim_backend.fidelity.check import Check

Fields = dict[str, float]
FOLDERS = (gpu_card.FOLDER, engine_card.FOLDER, server_card.FOLDER)
"""Of cards that have fitted numbers; language models are facts alone."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the fitted numbers of a card come from."""

    fields: Callable[[Path, str], Fields]
    """Of the card of this name, from the folder of recordings."""
    checks: Callable[[Path], list[Check]]
    """Of the whole area."""
    about: tuple[str, ...]
    """The checks about this card have one of these in their group or quantity."""
    recordings: tuple[str, ...]
    """Folders."""
    recorded: str


# One fit gives several cards, and takes its time.
_serving_fit = lru_cache(maxsize=1)(serving.fit)
_caps_fit = lru_cache(maxsize=1)(caps.fit)


def _serving(data: Path, name: str) -> Fields:
    return _serving_fit(data)[name]


def _h200(data: Path, _name: str) -> Fields:
    """Speeds from its own kernels; watts of the same die under serving, its memory's by bandwidth."""
    kernels, served, h100 = h200.fit_card(operations.fit(data)), _serving_fit(data)[serving.H100], serving.H100
    wider = gpu_card.load_gpu("h200-sxm").memory_bytes_per_s / gpu_card.load_gpu(h100).memory_bytes_per_s
    return {
        **{key: kernels[key] for key in ("compute_efficiency", "memory_efficiency", "overlap")},
        "active_w": served["active_w"],
        "compute_w": served["compute_w"],
        "memory_w": rounded(wider * served["memory_w"], 3),
        "exponent": two_limits.fit(data),
    }


def _caps(data: Path, name: str) -> Fields:
    law = _caps_fit(data)[name.upper().replace("-", " ")].law
    return {
        "loaded_w": law.idle_w,
        "active_w": law.active_w,
        "compute_w": law.compute_w,
        "memory_w": law.memory_w,
        "memory_knee": law.memory_knee,
        "exponent": law.exponent,
        "voltage_floor": law.voltage_floor,
    }


def _server(data: Path, name: str) -> Fields:
    values = dict(zip(("base_w", "fans_full_w", "fans_s"), servers.fit(data)[name], strict=True))
    return {key: value for key, value in values.items() if value == value}


_V3, _V2 = "mlenergy-v3-h100", "mlenergy-v2-a100-h100"
_MLPERF = ("mlperf-inference-v4.1-h200", "mlperf-inference-a100-h100pcie-bert", "mlperf-training-v4.0-smc-h100")
_SWEEPS = ("power-cap-sweeps",)


def _of_serving(*about: str) -> Origin:
    return Origin(_serving, serving_fidelity.checks, about, (_V3, _V2), "2024 and 2025")


def _of_server(name: str) -> Origin:
    steady = tuple(f"{name}, {state}" for state in ("load", "idle", "full"))
    return Origin(_server, servers_fidelity.checks, steady, _MLPERF, "2022 to 2024")


ORIGINS: dict[str, Origin] = {
    serving.H100: _of_serving("H100"),
    serving.A100: _of_serving("A100"),
    serving.NEW: _of_serving("ML.ENERGY v3"),
    serving.OLD: _of_serving("ML.ENERGY v2"),
    "h200-sxm": Origin(
        _h200,
        operations_fidelity.checks,
        ("Llama-3-70B",),
        ("aiconfigurator-h200-op-power", "mlperf-inference-v4.1-h200"),
        "2024 and 2026",
    ),
    **{
        name: Origin(_caps, caps_fidelity.checks, (name.upper().replace("-", " "),), _SWEEPS, "2026")
        for name in ("rtx-3090", "rtx-4090")
    },
    **{name: _of_server(name) for name in ("hgx-h200", "dgx-a100", "g482-h100-pcie", "smc-h100")},
}
"""By the card's name; the other cards hold facts, or numbers taken over from these, as their sources say."""


def load_card(name: str) -> Sourced:
    """The shipped card called `name`, of whichever kind.

    Raises:
        ConfigError: there is none.
    """
    loaders: tuple[Callable[[str], Sourced], ...] = (
        gpu_card.load_gpu,
        engine_card.load_engine,
        server_card.load_server,
    )
    for folder, load in zip(FOLDERS, loaders, strict=True):
        if name in card_names(folder):
            return load(name)
    raise ConfigError(f"there is no card '{name}' with fitted numbers; there are {', '.join(sorted(ORIGINS))}")


def refitted(name: str, data: Path) -> Sourced:
    """The card called `name` with its fitted numbers made again from the recordings in `data`.

    Raises:
        ConfigError: no such card, or one without fitted numbers.
        DataError: recordings are missing or damaged.
    """
    card = load_card(name)
    if name not in ORIGINS:
        raise ConfigError(
            f"card '{name}' has no numbers of its own that were fitted, its [source] says where they are from; "
            f"fitted are {', '.join(sorted(ORIGINS))}"
        )
    origin = ORIGINS[name]
    return msgspec.structs.replace(card, **origin.fields(data, name), fit=_note(origin, origin.checks(data)))


def _note(origin: Origin, checks: list[Check]) -> FitNote:
    """How far the card is from what it was not fitted to: the check that is worst off."""
    own = [check for check in checks if any(word in f"{check.group} {check.quantity}" for word in origin.about)]
    worst = max(own, key=lambda check: check.median_error)
    return FitNote(
        recordings=list(origin.recordings),
        recorded=origin.recorded,
        checked_points=sum(check.held_out_points for check in own),
        median_error=round(worst.median_error, 3),
    )
