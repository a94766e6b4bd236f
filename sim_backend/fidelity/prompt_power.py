"""Peak power of prompts on A100s against their size."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim_backend.calibration.prompt_power import FILE, TDP_W, Prompts, fit, log_law_w, read_prompts
from sim_backend.fidelity.check import Check, errors_of

Floats = NDArray[np.float64]

LIMIT = 0.05
BELOW = 0.98
"""Of TDP: where the limiter does not yet decide the draw."""


def checks(data: Path) -> list[Check]:
    """The roofline's law, one for two models and four layouts, and the log law, one for each layout."""
    prompts = read_prompts(data)
    found = fit(prompts)
    roofline = (
        f"4 numbers for all layouts: {found.compute_w:g} W compute, {found.memory_w:g} W memory, "
        f"{1e3 * found.other_s:g} ms of neither, at most {found.ceiling_w:g} W"
    )
    log = "3 numbers for each of four layouts"
    lines = []
    for name, model_w, note in (("roofline", found.peak_w(prompts), roofline), ("log", log_law_w(prompts), log)):
        held = ~prompts.fitted()
        lines.append(_check(prompts, f"A100, {name} law", model_w, held, note))
        below = held & (prompts.peak_w < BELOW * TDP_W)
        lines.append(_check(prompts, f"A100, {name} law, below the limit", model_w, below, note))
    return lines


def _check(prompts: Prompts, quantity: str, model_w: Floats, held: NDArray[np.bool_], note: str) -> Check:
    median, worst, bias = errors_of(model_w[held], prompts.peak_w[held])
    return Check(
        group="Power of prompts",
        quantity=quantity,
        source=FILE.parent.name,
        fitted_points=int(prompts.fitted().sum()),
        held_out_points=int(held.sum()),
        median_error=median,
        worst_error=worst,
        limit=LIMIT,
        bias=bias,
        note=note,
    )
