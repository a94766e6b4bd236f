"""The JSON of a replay: sorted keys, the same bytes for the same result; keys in docs/replay-json.md."""

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import numpy as np

from sim_backend.result import ReplayResult, RunResult
from telemetry.whole_file import write_whole


def write(result: ReplayResult, path: str | Path) -> None:
    """Write the JSON to `path` whole or not at all; `-` is standard output."""
    write_whole(path, encode(result))


def encode(result: ReplayResult) -> bytes:
    """The bytes of the JSON file; a pure function of `result`."""
    text = json.dumps(as_object(result), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def as_object(result: ReplayResult) -> dict[str, object]:
    """The JSON object as plain Python values."""
    return {"header": plain(result.header), "runs": [run_object(run) for run in result.runs]}


def run_object(run: RunResult) -> dict[str, object]:
    """One entry of `runs`: what was run, beside what it found."""
    identity: dict[str, object] = {
        "policy": run.policy,
        "add_servers_pct": run.add_servers_pct,
        "servers": run.servers,
        "actuation": run.actuation,
        "guarantee": run.guarantee,
    }
    clash = identity.keys() & run.figures.keys()
    assert not clash, f"figures may not repeat {sorted(clash)}"
    whole = plain({**identity, **run.figures})
    assert isinstance(whole, dict)
    return whole


def plain(value: object) -> object:
    """Numpy, enum and tuple to what JSON knows; a number that is none (NaN, infinity) to null.

    Raises:
        TypeError: for anything else, since a guess would end in the file.
    """
    match value:
        case None | bool():
            return value
        case Enum():
            return plain(value.value)
        case np.generic() | np.ndarray():
            return plain(value.tolist())
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            # Adding zero turns -0.0 into 0.0: two results that are equal are written equal.
            return float(value) + 0.0 if math.isfinite(value) else None
        case Mapping():
            return {_key(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _key(key: object) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise TypeError(f"a JSON key must be text, not {key!r}")
    return key
