"""Options of `overwatt replay`, each written once: name, default and help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What differs from one replay to the next; everything about the place is in the site file."""

    requests: Annotated[
        str | None,
        Option(
            metavar="FILE|six-weeks",
            help="Request trace (Azure CSV, Mooncake, ServeGen, Parquet; docs/requests.md), or the built-in workload. "
            "A file of that name: ./six-weeks.",
        ),
    ] = None
    power: Annotated[
        str | None,
        Option(
            metavar="FILE[,FILE]",
            help="Recorded power (any format of overwatt import) as the work of the site's servers with "
            'role = "recorded": co-located work that can only be power-capped. With or without --requests.',
            show_default=False,
        ),
    ] = None
    power_source: Annotated[
        str,
        Option(metavar="GLOB", help="Only sources of --power with such names; overwatt import shows them."),
    ] = "*"
    power_format: Annotated[
        str | None,
        Option(metavar="NAME", help="Format of --power, instead of finding out.", show_default=False),
    ] = None
    site: Annotated[Path | None, Option(metavar="SITE.toml", help="Site file; see overwatt check-config.")] = None
    policy: Annotated[
        str | None,
        Option(
            metavar="NAME[,NAME]",
            help="Policies to compare: no-cap, one-threshold-low, one-threshold-all, fair-share, polca, polca-online.",
        ),
    ] = None
    add_servers: Annotated[
        str, Option(metavar="PCT[,PCT]", help="Servers added to the site's, in per cent; each is run with each policy.")
    ] = "0"
    json: Annotated[
        Path | None,
        Option(metavar="OUT", help="Write all figures here; - is standard output. See docs/replay-json.md."),
    ] = None
    html: Annotated[Path | None, Option(metavar="OUT", help="Write the report here: one file, opens anywhere.")] = None
    seed: Annotated[int, Option(metavar="N", help="Same seed, same bytes.")] = 1
    days: Annotated[
        float | None, Option(metavar="N", help="Replay only the first N days (fractions allowed).", show_default="all")
    ] = None
    start_day: Annotated[
        float,
        Option(metavar="N", help="Begin N days into six-weeks (whole hours: 20.5 is noon of the 21st day)."),
    ] = 0.0
    guarantee: Annotated[
        str | None,
        Option(metavar="hard,reactive", help="Guarantees to run under, instead of the site's.", show_default=False),
    ] = None
    actuation: Annotated[
        str | None,
        Option(
            metavar="out-of-band|in-band",
            help="Path of the commands. Where it is not the site's own, that path's default delays are used.",
            show_default=False,
        ),
    ] = None
    rate: Annotated[
        float, Option(metavar="X", help="Send X times the requests of the trace; its time is unchanged.")
    ] = 1.0
    compress_time: Annotated[
        float, Option(metavar="K", help="Play the trace K times as fast. Only for traces meant to be compressed.")
    ] = 1.0
    processes: Annotated[int, Option(metavar="N", help="Runs to simulate at a time. Results do not depend on it.")] = 1
    record: Annotated[
        Path | None, Option(metavar="JOURNAL", help="Keep every event and command of the run; one run only.")
    ] = None
    journal: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Instead of all else: run a recorded journal through the controller again, and name the first "
            "command that differs.",
        ),
    ] = None
    other_w: Annotated[
        float | None,
        Option(
            metavar="W",
            help="Watts of a server beside its GPUs, instead of the site's. failsafe_w moves by as much, so that "
            "GPUs keep their failsafe limits.",
            show_default=False,
        ),
    ] = None
