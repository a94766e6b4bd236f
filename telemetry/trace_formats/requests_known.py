"""The formats of recorded requests, in the order in which they are tried."""

from telemetry.trace_file import Format

REQUEST_FORMATS: tuple[Format, ...] = ()
