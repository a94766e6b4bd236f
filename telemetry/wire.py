"""Events and commands as versioned bytes, and back: the form in which they are journalled and compared."""

import dataclasses
from typing import Any

import msgspec
import numpy as np

from policies import commands as commands_module
from policies import events as events_module
from policies.arrays import ALL
from policies.errors import WireError

VERSION = 1
_KINDS: dict[str, type[Any]] = {
    cls.__name__: cls
    for module in (events_module, commands_module)
    for cls in vars(module).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}
_DTYPES = frozenset({"<f8", "<i8", "<i4", "|b1"})


def encode(value: object) -> bytes:
    """Bytes of an event or a command; equal values give equal bytes."""
    return msgspec.msgpack.encode(_plain(value))


def decode(payload: bytes) -> Any:
    """The event or command in `payload`; raises WireError for anything else."""
    try:
        plain = msgspec.msgpack.decode(payload)
        if not (isinstance(plain, dict) and "kind" in plain):
            raise ValueError("no kind")
        return _rich(plain)
    except (msgspec.DecodeError, TypeError, ValueError, KeyError) as error:
        raise WireError(f"not an event or command of version {VERSION}: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        contiguous = np.ascontiguousarray(value)
        return {"array": contiguous.dtype.str, "bytes": contiguous.tobytes()}
    if isinstance(value, slice):
        assert value == ALL, "rows are all or named one by one"
        return {"rows": "all"}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [_plain(getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {"kind": type(value).__name__, "fields": fields}
    if isinstance(value, np.generic):
        return value.item()
    return value


def _rich(value: object) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        if value["array"] not in _DTYPES:
            raise ValueError(f"array of {value['array']}")
        return np.frombuffer(value["bytes"], dtype=value["array"]).copy()
    if "rows" in value:
        return ALL
    cls = _KINDS[value["kind"]]
    fields = [_rich(v) for v in value["fields"]]
    return cls(*fields)
