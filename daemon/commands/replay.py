"""`overwatt replay`: drive simulated servers with a request trace, under the real controller, and report."""

import sys
from dataclasses import fields

from daemon.commands.replay_options import ReplayOptions
from daemon.failures import UsageError
from policies.errors import DataError


def replay(options: ReplayOptions) -> None:
    """Replay a request trace on a simulated site.

    Every policy is run with every number of added servers, the controller in the loop: what was capped, what the users
    paid, whether a breaker would have tripped. A table goes to standard output, all figures to --json, a report with
    pictures to --html.

    Example: overwatt replay --requests six-weeks --days 1 --site docs/examples/polca-row.toml --policy no-cap,polca
    --add-servers 0,30 --html report.html
    """
    if options.journal is not None:
        _verify(options)
        return
    # Imported here, as below: help and refusals need not wait for what only a run needs, and whoever watches sees at
    # once that something happens. The compiler comes last: loading it takes as long as all the rest.
    from daemon.progress import progress_bar

    with progress_bar() as progress:
        progress(0.0, "reading")
        from daemon.replay_job import plan

        planned = plan(options)
        for line in planned.warnings:
            print(f"overwatt: warning: {line}", file=sys.stderr)
        from sim_backend.replay import run_replay

        result = run_replay(planned.job, progress)
    if options.json is not None:
        from sim_backend.report import json_out

        json_out.write(result, options.json)
    if options.html is not None:
        from sim_backend.report import html_out

        html_out.write(result, options.html)
    from sim_backend.report import table

    # Standard output holds the JSON alone where it was asked to.
    table.show(result, sys.stderr if str(options.json) == "-" else sys.stdout)


def _verify(options: ReplayOptions) -> None:
    defaults = ReplayOptions()
    for option in fields(options):
        if option.name != "journal" and getattr(options, option.name) != getattr(defaults, option.name):
            name = f"--{option.name.replace('_', '-')}"
            raise UsageError(f"{name} does not go with --journal: a journal holds all it was recorded with")
    assert options.journal is not None
    from sim_backend import journal_replay

    if (difference := journal_replay.verify(options.journal)) is not None:
        raise DataError(f"{options.journal}: {difference}")
    print(f"{options.journal}: the same commands, byte for byte")
