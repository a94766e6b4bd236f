"""Re-run a recorded journal through fresh cores and say where they first ask for something else."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import msgspec
import numpy as np

from policies.commands import Command
from policies.errors import DataError, WireError
from policies.events import AgentEvent, ControllerEvent
from sim_backend.closed_loop import RunSpec, build_cores
from sim_backend.fleet import build_servers
from sim_backend.versions import versions
from telemetry.journal import JournalReader, Step
from telemetry.wire import decode, encode


def verify(path: Path) -> str | None:
    """Compare every recorded command byte for byte.

    Returns:
        None when all agree, else one line on the first step that differs.
    """
    with JournalReader(path) as reader:
        try:
            spec = msgspec.convert(reader.header["run"], RunSpec)
        except (msgspec.ValidationError, KeyError) as error:
            raise DataError(f"{path}: its header does not describe a run ({error}); record the run again") from error
        cores = _Cores(path, spec)
        for number, step in enumerate(reader.steps(), start=1):
            again = tuple(encode(command) for command in cores.commands(number, step))
            if again != step.commands:
                found = f"step {number}, {step.core} at {step.now_s:g} s: {_difference(step.commands, again)}"
                return found + _other_versions(reader.header.get("versions"))
    return None


class _Cores:
    """Fresh cores of a recorded run."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self.path = path
        self.controller, self.agents, _ = build_cores(spec, build_servers(spec.site, spec.add_pct))

    def commands(self, number: int, step: Step) -> list[Command]:
        """What they ask for now."""
        try:
            event = decode(step.event)
            if step.core == "agents" and isinstance(event, AgentEvent):
                return self.agents.step(event, step.now_s)
            if step.core == "controller" and isinstance(event, ControllerEvent):
                return self.controller.step(event, step.now_s)
        except WireError as error:
            raise DataError(f"{self.path}: step {number} holds {error}") from error
        except (IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}: step {number} does not fit the run that the header describes ({error}); record it again"
            ) from error
        raise DataError(f"{self.path}: step {number} is none that {step.core!r} can take; record the run again")


def _other_versions(recorded: object) -> str:
    """Same bytes are promised for the same versions only."""
    if not isinstance(recorded, dict):
        return ""
    other = [f"{name} {recorded.get(name)}, not {now}" for name, now in versions().items() if recorded.get(name) != now]
    return f" (recorded with {'; '.join(other)})" if other else ""


def _difference(recorded: tuple[bytes, ...], again: tuple[bytes, ...]) -> str:
    if len(recorded) != len(again):
        return f"{len(recorded)} commands were recorded, {len(again)} are asked for now"
    index = next(i for i, (a, b) in enumerate(zip(recorded, again, strict=True)) if a != b)
    now = decode(again[index])
    try:
        before = decode(recorded[index])
    except WireError as error:
        return f"command {index + 1} was {error}, is {type(now).__name__}"
    if type(before) is not type(now):
        return f"command {index + 1} was {type(before).__name__}, is {type(now).__name__}"
    return f"command {index + 1}, {type(now).__name__}{_field(before, now)}"


def _field(before: object, now: object) -> str:
    """The first field in which two commands of one kind differ: `.cap_mhz[3] was 1275.0, is 1290.0`."""
    for field in fields(now):  # type: ignore[arg-type]
        old, new = getattr(before, field.name), getattr(now, field.name)
        if encode(old) == encode(new):
            continue
        if is_dataclass(new) and type(old) is type(new):
            return f".{field.name}{_field(old, new)}"
        if isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and old.shape == new.shape:
            # Bytes are compared, not numbers: not a number differs from itself, and its bits may differ too.
            row = next(i for i in range(old.size) if old[i : i + 1].tobytes() != new[i : i + 1].tobytes())
            return f".{field.name}[{row}] was {old[row]}, is {new[row]}"
        return f".{field.name} was {old}, is {new}"
    return " with other bytes"
