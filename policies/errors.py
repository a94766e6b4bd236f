"""Errors, split by whose fault they are.

OverwattError
|-- ConfigError        the operator's file: exit status 78, one line
|-- DataError          the operator's trace: exit status 65, one line
|-- WireError          a journal or peer that does not parse: exit status 65 in replay, counted and dropped live
`-- InvariantViolated  our bug: crash
"""


class OverwattError(Exception):
    """Anything this program raises on purpose; its text is one line that says what, where and what to do."""

    exit_status = 70


class ConfigError(OverwattError):
    """The configuration is wrong, or contradicts itself."""

    exit_status = 78


class DataError(OverwattError):
    """An input recording is wrong; names file, line and remedy."""

    exit_status = 65


class WireError(OverwattError):
    """Bytes that should be an event or a command are not."""

    exit_status = 65


class InvariantViolated(OverwattError):
    """A rule that must always hold does not; the text carries the story that led here."""
