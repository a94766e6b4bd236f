"""`overwatt calibrate`: fit the numbers of a card or profile to recordings, and write it with its sources."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from daemon.failures import UsageError
from daemon.outputs import check_writable


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What differs from one calibration to the next."""

    out: Annotated[Path, Option(metavar="PROFILE.toml", help="The card or profile to write.")]
    data: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Folder of published recordings, as docs/data.md says: makes a shipped card or profile again.",
            show_default=False,
        ),
    ] = None
    card: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="GPU, engine or server whose card is made, or a profile such as dgx-a100__bloom-176b; "
            "default: the name of --out.",
            show_default=False,
        ),
    ] = None
    wall: Annotated[
        str | None,
        Option(
            metavar="FILE[,FILE]",
            help="Own recording of one server's wall power, with --gpus: fits a server's card.",
            show_default=False,
        ),
    ] = None
    gpus: Annotated[
        str | None,
        Option(
            metavar="FILE[,FILE]",
            help="Own recording of the server's GPUs at the same time; alone: fits the idle watts of a GPU's card. "
            "Formats as in overwatt import.",
            show_default=False,
        ),
    ] = None
    utc_offset_h: Annotated[
        float | None,
        Option(
            metavar="H",
            help="Hours that local times (nvidia-smi) are ahead of UTC, if the other recording has Unix times.",
            show_default=False,
        ),
    ] = None
    recorded: Annotated[str, Option(metavar="DATE", help="When own recordings were made; stands in the card.")] = ""


def calibrate(options: CalibrateOptions) -> None:
    """Fit a GPU's, engine's or server's card, or a server profile, to recordings.

    What is written is a TOML file of numbers, each with its source, and with the error on points that nothing was
    fitted to. The same input gives the same bytes. Every file that overwatt ships and that holds fitted numbers can be
    made again from the published recordings (--data); with recordings of one's own machines (--wall, --gpus) it says
    what these draw instead.

    Example: overwatt calibrate --data recordings --out h100-sxm.toml
    """
    name = options.card or options.out.name.removesuffix(".toml")
    own = options.wall is not None or options.gpus is not None
    if own == (options.data is not None):
        raise UsageError(
            "give either --data with published recordings, or --gpus (and --wall) with recordings of your own"
        )
    if own:
        _own(options, name)
        return
    assert options.data is not None
    check_writable({"--out": options.out}, {})
    if "__" in name:
        _profile(options.data, name, options.out)
        return
    from sim_backend.calibration.shipped import refitted
    from sim_backend.cards.writing import write_card

    card = refitted(name, options.data)
    write_card(card, options.out)
    assert card.fit is not None
    print(f"wrote {options.out}: {card.name}, off by {card.fit.median_error:.1%} (median)")


def _own(options: CalibrateOptions, name: str) -> None:
    if options.gpus is None:
        raise UsageError(
            "--wall alone does not tell the GPUs' watts from the rest: give --gpus recorded at the same time"
        )
    inputs = {"--wall": options.wall, "--gpus": options.gpus}
    files = {option: tuple(text.split(",")) if text else () for option, text in inputs.items()}
    check_writable({"--out": options.out}, {f"{o} {p}": Path(p) for o, paths in files.items() for p in paths})
    from sim_backend.calibration.own import Own, refitted_own
    from sim_backend.calibration.shipped import load_card
    from sim_backend.cards.engine_card import EngineCard
    from sim_backend.cards.server_card import ServerCard
    from sim_backend.cards.writing import write_card

    card = load_card(name)
    if isinstance(card, EngineCard):
        raise UsageError(f"--card {name}: watts say nothing of an engine; name a server or a GPU")
    if isinstance(card, ServerCard) != bool(files["--wall"]):
        wanted = "a server needs --wall beside --gpus" if isinstance(card, ServerCard) else "a GPU takes --gpus alone"
        raise UsageError(f"--card {name}: {wanted}")
    made = refitted_own(
        card, Own(files["--wall"], files["--gpus"], options.recorded or "not said", options.utc_offset_h)
    )
    write_card(made, options.out)
    assert made.fit is not None
    fit = made.fit
    print(f"wrote {options.out}: {made.name}, off by {fit.median_error:.1%} (median of {fit.checked_points} points)")


def _profile(data: Path, name: str, out: Path) -> None:
    """One of the affine profiles fitted to Splitwise's measurements."""
    from sim_backend.calibration import affine

    hardware, model = name.split("__", 1)
    found = affine.calibrate(data / "splitwise-perf-model", model, hardware, out)
    print(f"wrote {out}: {found.name}")
    for section, fit in sorted(found.fits.items()):
        print(
            f"  {section}: off by {fit.median_error:.1%} (median), {fit.worst_error:.1%} (worst of {fit.points} points)"
        )
    for section, words in sorted(found.checks.items()):
        print(f"  {section}: {words}")
