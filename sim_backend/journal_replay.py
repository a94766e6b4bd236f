"""Re-run a recorded journal through fresh cores and say where they first ask for something else."""

from pathlib import Path

import msgspec

from policies.errors import DataError, WireError
from sim_backend.closed_loop import RunSpec, build_cores
from sim_backend.fleet import build_servers
from telemetry.journal import JournalReader
from telemetry.wire import decode, encode


def verify(path: Path) -> str | None:
    """Compare every recorded command byte for byte.

    Returns:
        None when all agree, else one line on the first step that differs.
    """
    reader = JournalReader(path)
    try:
        spec = msgspec.convert(reader.header["run"], RunSpec)
    except (msgspec.ValidationError, KeyError) as error:
        raise DataError(f"{path}: its header does not describe a run ({error}); record the run again") from error
    controller, agents, _ = build_cores(spec, build_servers(spec.site, spec.add_pct))
    try:
        for number, step in enumerate(reader.steps(), start=1):
            core = agents if step.core == "agents" else controller
            commands = core.step(_event(path, number, step.event), step.now_s)
            again = tuple(encode(command) for command in commands)
            if again != step.commands:
                return f"step {number} of {step.core} at {step.now_s:g} s: {_difference(step.commands, again)}"
    finally:
        reader.close()
    return None


def _event(path: Path, number: int, payload: bytes) -> object:
    try:
        return decode(payload)
    except WireError as error:
        raise DataError(f"{path}: step {number} holds {error}") from error


def _difference(recorded: tuple[bytes, ...], again: tuple[bytes, ...]) -> str:
    if len(recorded) != len(again):
        return f"{len(recorded)} commands were recorded, {len(again)} are asked for now"
    index = next(i for i, (a, b) in enumerate(zip(recorded, again, strict=True)) if a != b)
    before, now = decode(recorded[index]), decode(again[index])
    return f"command {index + 1} was {type(before).__name__}, is {type(now).__name__} with other contents"
