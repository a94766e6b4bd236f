"""Bounded nonlinear least squares for the few parameters of a physical model: Levenberg and Marquardt's steps."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_REL_STEP = 1e-6
_TRIES = 12


def least_squares(residuals: Callable[[Floats], Floats], start: Floats, low: Floats, high: Floats) -> Floats:
    """Parameters within [low, high] with the least sum of squares, reached from `start`.

    Damped Gauss-Newton; derivatives by differences; a parameter at its bound stays while the step leads outside.
    Deterministic. Ends when a step gains less than 1e-9 of the sum, or after 60 steps.

    Args:
        residuals: of all points, at given parameters.
        start: inside the bounds.
        low: bound.
        high: bound.
    """
    x = start.astype(np.float64)
    r = residuals(x)
    damping = 1e-2
    for _ in range(60):
        slopes = _slopes(residuals, x, r, high)
        squares, gradient = slopes.T @ slopes, slopes.T @ r
        free = ~(((x <= low) & (gradient > 0.0)) | ((x >= high) & (gradient < 0.0)))
        y, r_y = x, r
        for _ in range(_TRIES):
            y = np.clip(x + _step(squares, gradient, free, damping), low, high)
            r_y = residuals(y)
            if r_y @ r_y < r @ r:
                break
            damping *= 4.0
        else:
            return x
        gained = 1.0 - (r_y @ r_y) / (r @ r)
        x, r, damping = y, r_y, damping / 6.0
        if gained < 1e-9:
            return x
    return x


def _slopes(residuals: Callable[[Floats], Floats], x: Floats, r: Floats, high: Floats) -> Floats:
    slopes = np.empty((r.size, x.size))
    for i in range(x.size):
        moved = x.copy()
        step = _REL_STEP * max(abs(x[i]), 1e-3)
        moved[i] += step if x[i] + step <= high[i] else -step
        slopes[:, i] = (residuals(moved) - r) / (moved[i] - x[i])
    return slopes


def _step(squares: Floats, gradient: Floats, free: NDArray[np.bool_], damping: float) -> Floats:
    step = np.zeros_like(gradient)
    inside = np.ix_(free, free)
    damped = squares[inside] + damping * np.diag(np.diag(squares[inside]) + 1e-12)
    step[free] = np.linalg.solve(damped, -gradient[free])
    return step
