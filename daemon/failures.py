"""What can go wrong on a command line, as `OverwattError`s: the shell shows the text and exits with the status."""

from policies.errors import OverwattError


class UsageError(OverwattError):
    """The command was called wrongly; the text says how to call it."""

    exit_status = 64
