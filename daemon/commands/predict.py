"""`overwatt predict`: power, latencies and largest load of one engine instance, each with how far it may be off."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from daemon.failures import UsageError
from daemon.outputs import check_writable

if TYPE_CHECKING:
    from sim_backend.predict import Sizes

MOST_TOKENS = 10_000_000
Figure = dict[str, float]


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What is asked."""

    gpu: Annotated[str, Option(metavar="NAME", help="Kind of GPU, such as h100, a100 or h200.")]
    model: Annotated[str, Option(metavar="NAME", help="Language model, such as llama-3.1-70b.")]
    rps: Annotated[float, Option(metavar="X", help="Requests per second that the instance is sent.")]
    gpus: Annotated[int, Option(metavar="N", help="GPUs of the instance, which share each layer.")] = 1
    engine: Annotated[str, Option(metavar="NAME", help="Serving engine with its version.")] = "vllm-0.10"
    input_tokens: Annotated[int, Option(metavar="N", help="Prompt tokens of a request.")] = 1_024
    output_tokens: Annotated[int, Option(metavar="N", help="Tokens that a request is answered with.")] = 256
    trace: Annotated[
        Path | None,
        Option(metavar="FILE", help="Draw lengths from the requests of this trace instead.", show_default=False),
    ] = None
    clock: Annotated[
        float | None, Option(metavar="MHZ", help="Clock cap of the GPUs.", show_default="their highest")
    ] = None
    power_limit: Annotated[
        float | None, Option(metavar="W", help="Power limit of each GPU.", show_default="as delivered")
    ] = None
    server: Annotated[
        str, Option(metavar="NAME", help="Kind of server around the GPUs.", show_default="one with such GPUs")
    ] = ""
    weights: Annotated[
        str, Option(metavar="FORMAT", help="Number format of the weights.", show_default="as published")
    ] = ""
    seed: Annotated[int, Option(metavar="N", help="Same seed, same figures.")] = 1
    json: Annotated[
        Path | None,
        Option(metavar="OUT", help="Write all figures here; - is standard output, and no table. See docs/predict.md."),
    ] = None


def predict(options: PredictOptions) -> None:
    """Say what one engine instance will draw and how fast it will answer under steady load.

    Requests arrive at random (Poisson) at the given rate and are simulated one by one. Each figure comes with a band:
    how far models were off where recordings allow to check, wider where this GPU was never measured under this engine.

    Example: overwatt predict --gpu h100 --gpus 4 --model llama-3.1-70b --engine vllm-0.10 --rps 10
    """
    _check(options)
    from sim_backend import predict as prediction
    from sim_backend.compiled import not_compiled
    from sim_backend.predict_figures import figures

    parts = prediction.assembled(
        prediction.Parts(
            options.gpu,
            options.gpus,
            options.model,
            options.engine,
            options.server,
            options.weights,
            options.clock,
            options.power_limit,
        )
    )
    sizes = _sizes(options)
    if not_compiled():
        print("overwatt: compiling, once for this version of the simulator (about 20 s)", file=sys.stderr)
    steady = prediction.simulate(parts, options.rps, sizes, options.seed)
    found = figures(prediction.Question(_command(options), options.rps, sizes), parts, steady)
    if options.json is not None:
        from telemetry.whole_file import write_whole

        write_whole(options.json, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    if str(options.json) != "-":
        _show(found)


def _check(options: PredictOptions) -> None:
    if not 0.0 < options.rps <= 1e6:
        raise UsageError(f"--rps {options.rps:g}: must be above 0 and at most a million")
    for name, value in (("--input-tokens", options.input_tokens), ("--output-tokens", options.output_tokens)):
        if not 1 <= value <= MOST_TOKENS:
            raise UsageError(f"{name} {value}: must be from 1 to {MOST_TOKENS}")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: must not be negative")
    check_writable({"--json": options.json}, {"--trace": options.trace})


def _sizes(options: PredictOptions) -> "Sizes":
    import numpy as np

    from sim_backend.predict import Sizes, sizes_of_trace

    if options.trace is not None:
        return sizes_of_trace(options.trace)
    return Sizes(np.array([options.input_tokens], np.int32), np.array([options.output_tokens], np.int32))


def _command(options: PredictOptions) -> str:
    words = ["overwatt", "predict", "--gpu", options.gpu, "--gpus", str(options.gpus), "--model", options.model]
    words += ["--engine", options.engine, "--rps", f"{options.rps:g}"]
    if options.trace is None:
        words += ["--input-tokens", str(options.input_tokens), "--output-tokens", str(options.output_tokens)]
    else:
        words += ["--trace", str(options.trace)]
    for name, value in (("--clock", options.clock), ("--power-limit", options.power_limit)):
        words += [] if value is None else [name, f"{value:g}"]
    for name, text in (("--server", options.server), ("--weights", options.weights)):
        words += [name, text] if text else []
    return shlex.join([*words, "--seed", str(options.seed)])


def _show(found: dict[str, Any]) -> None:
    """The table for people."""
    print(
        f"{found['model']} under {found['engine']} on {found['gpus']} x {found['gpu']}, {found['rps']:g} requests/s of "
        f"{found['prompt_tokens']:.0f} + {found['output_tokens']:.0f} tokens\n"
    )
    largest = found["largest_stable_rps"]
    stable = "stable" if found["stable"] else "NOT STABLE: the queue grows without end"
    print(f"  {'queue':26} {stable}; load {found['load_ratio']:.0%} of what it bears")
    print(f"  {'largest stable load':26} {_text(largest, 1.0, 'requests/s')}")
    for label, key in (("whole server", "server_w"), ("GPUs together", "gpus_w")):
        for name, figure in (found[key] or {}).items():
            print(f"  {f'{label}, {name}':26} {_text(figure, 1.0, 'W')}")
    for name, figure in found["gpu_w"].items():
        print(f"  {f'one GPU, {name}':26} {_text(figure, 1.0, 'W')}")
    for label, key in (("first token", "ttft_s"), ("each further token", "tpot_s"), ("whole answer", "e2e_s")):
        for name, figure in (found[key] or {}).items():
            print(f"  {f'{label}, {name}':26} {_text(figure, 1e3, 'ms')}")
    print(f"  {'served':26} {_text(found['served_rps'], 1.0, 'requests/s')}")
    print(f"  {'tokens generated':26} {_text(found['output_tokens_per_s'], 1.0, 'tokens/s')}")
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _text(figure: Figure, scale: float, unit: str) -> str:
    value, low, high = (_rounded(scale * figure[key]) for key in ("value", "low", "high"))
    return f"{value:>9} {unit}" + (f"  ({low} to {high})" if low != high else "")


def _rounded(value: float) -> str:
    """Four digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 1_000.0 else f"{value:.4g}"
