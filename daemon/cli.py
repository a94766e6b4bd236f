"""The command `overwatt`: parses, calls one verb, and turns what went wrong into one line and an exit status."""

import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from daemon.commands.calibrate import CalibrateOptions, calibrate
from daemon.commands.check_config import CheckConfigOptions, check_config
from daemon.commands.import_ import ImportOptions, import_
from daemon.commands.predict import PredictOptions, predict
from daemon.commands.replay import replay
from daemon.commands.replay_options import ReplayOptions
from daemon.failures import UsageError
from daemon.options import as_command
from policies.errors import InvariantViolated, OverwattError

INTERRUPTED = 130
"""128 + SIGINT, as shells do."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("replay")(as_command(ReplayOptions, replay))
app.command("check-config")(as_command(CheckConfigOptions, check_config))
app.command("calibrate")(as_command(CalibrateOptions, calibrate))
app.command("predict")(as_command(PredictOptions, predict))
app.command("import")(as_command(ImportOptions, import_))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"overwatt {version('overwatt')}")
        raise typer.Exit


@app.callback()
def overwatt(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run more GPU servers on a power feed than it was provisioned for, and see what that costs the users.

    Exit status: 0 done, 64 called wrongly, 65 a recording or journal is wrong, 78 a site file, card or name
    of one is wrong, 130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Do what the command line asks.

    Returns:
        The exit status; what went wrong has been said on standard error.
    """
    if sys.flags.optimize:
        return _failed(
            "python -O (PYTHONOPTIMIZE) removes the checks on the caps: start without it", UsageError.exit_status
        )
    try:
        status = app(arguments, prog_name="overwatt", standalone_mode=False)
    except TyperException as error:
        return _failed(f"{error.format_message()} (--help shows the options)", UsageError.exit_status)
    except InvariantViolated as error:
        traceback.print_exc()
        return error.exit_status
    except OverwattError as error:
        return _failed(str(error), error.exit_status)
    if status == INTERRUPTED:
        return _failed("interrupted; no output was written", INTERRUPTED)
    return status if isinstance(status, int) else 0


def _failed(text: str, status: int) -> int:
    for line in text.splitlines():
        print(f"overwatt: {line}", file=sys.stderr)
    return status


def main() -> None:
    """Entry point of the console script."""
    # Starting makes some hundred thousand objects that live to the end, and a run makes little garbage in cycles:
    # looking for it at numpy's and numba's import would cost a tenth of the shortest replay.
    gc.set_threshold(100_000, 50, 50)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
