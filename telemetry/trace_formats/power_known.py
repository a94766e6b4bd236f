"""The formats of recorded power, in the order in which they are tried."""

from telemetry.trace_file import Format

POWER_FORMATS: tuple[Format, ...] = ()
