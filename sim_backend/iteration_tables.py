"""Iteration models as tables for the screening tier: evaluated once at the points of a grid, whatever their form is."""

from collections.abc import Sequence

import numpy as np

from policies.arrays import Vec
from policies.models.iteration import IterationModel, iteration
from sim_backend.profile import Profile

POINTS = 16
"""Of each axis; between them times and powers are taken as linear, which costs less than one in a thousand."""


def tables_of(profiles: Sequence[Profile], types: Vec, weight: Vec) -> tuple[Vec, Vec, Vec]:
    """Axes and tables of each profile, zeros for one without a model.

    Args:
        profiles: of the classes of servers.
        types: prompt tokens, their mean square, and output tokens of each type of request [types, 3 or more].
        weight: share of each type.

    Returns:
        As `fluid_kernel.Fluid`: axes, decode, prompt.
    """
    n = len(profiles)
    if all(profile.iteration is None for profile in profiles):
        return np.zeros((n, 3, 2)), np.zeros((n, 2, 2, 2, 2)), np.zeros((n, len(types), 2, 2, 2, 2))
    axes = np.zeros((n, 3, POINTS))
    decode = np.zeros((n, POINTS, POINTS, POINTS, 2))
    prompt = np.zeros((n, len(types), 2, POINTS, POINTS, 2))
    # While it decodes, a request has half its output behind it in the mean, and long ones are met more often.
    seen = weight * types[:, 2]
    resident = float(seen @ (types[:, 0] + 0.5 * types[:, 2]) / seen.sum())
    longest = float((types[:, 0] + types[:, 2]).max())
    for c, profile in enumerate(profiles):
        model = profile.iteration
        if model is None:
            continue
        alike = next(other for other in range(c + 1) if profiles[other] is profile)
        if alike < c:
            axes[c], decode[c], prompt[c] = axes[alike], decode[alike], prompt[alike]
            continue
        axes[c] = _axes(profile, longest, resident)
        decode[c] = _decode(model, axes[c])
        for j, (prompt_tokens, square) in enumerate(types[:, :2]):
            prompt[c, j] = _prompt(model, axes[c], prompt_tokens, square, resident)
    return axes, decode, prompt


def _axes(profile: Profile, longest: float, resident: float) -> Vec:
    """Clock ratios, batches, context tokens of each request; the latter two finer where they are small."""
    most = max(min(float(profile.max_batch), 1.5 * profile.kv_tokens / resident), 4.0)
    batches = np.concatenate(([0.0], np.geomspace(1.0, most, POINTS - 1)))
    contexts = longest * np.linspace(0.0, 1.0, POINTS) ** 2
    return np.array([np.linspace(profile.min_mhz / profile.max_mhz, 1.0, POINTS), batches, contexts])


def _decode(model: IterationModel, axes: Vec) -> Vec:
    table = np.empty((POINTS, POINTS, POINTS, 2))
    for i, clock_ratio in enumerate(axes[0]):
        for b, batch in enumerate(axes[1]):
            for x, context in enumerate(axes[2]):
                # An empty batch decodes nothing; as a point of the axis it stands for the smallest there is.
                requests = max(batch, 1.0)
                found = iteration(model, requests, requests, 0.0, requests * context, clock_ratio)
                table[i, b, x] = found.lasts_s, found.gpu_w
    return table


def _prompt(model: IterationModel, axes: Vec, prompt_tokens: float, square: float, resident: float) -> Vec:
    pairs = 0.5 * (square + prompt_tokens)
    table = np.empty((2, POINTS, POINTS, 2))
    for together in (1, 2):
        for i, clock_ratio in enumerate(axes[0]):
            for b, batch in enumerate(axes[1]):
                found = iteration(
                    model,
                    together + batch,
                    together * prompt_tokens + batch,
                    together * pairs,
                    batch * resident,
                    clock_ratio,
                )
                table[together - 1, i, b] = found.lasts_s, found.gpu_w
    return table
