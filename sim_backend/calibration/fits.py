"""Small deterministic fits: non-negative linear and ramp to a ceiling, both by relative least squares."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters, and how far the model with them is from the points it was fitted to (fractions of one)."""

    values: tuple[float, ...]
    points: int
    median_error: float
    worst_error: float


def rounded(value: float, digits: int = 4) -> float:
    """`value` to significant digits: more would suggest knowledge, and would differ between linear-algebra builds."""
    return float(f"{value:.{digits}g}")


def relative_errors(model: Floats, measured: Floats) -> tuple[float, float]:
    """Median and largest of |model / measured - 1|, rounded to 0.1 %."""
    error = np.abs(model / measured - 1.0)
    return round(float(np.median(error)), 3), round(float(error.max()), 3)


def nonnegative_fit(columns: Floats, target: Floats) -> tuple[float, ...]:
    """Coefficients >= 0 that minimise the relative squared error of `columns @ coefficients` against `target` [k].

    Tries every subset of the columns: exact for the few that physical models have, and free of iteration limits.
    """
    weighted = columns / target[:, None]
    scale = np.abs(weighted).max(axis=0)
    best, best_error = np.zeros(columns.shape[1]), np.inf
    for size in range(1, columns.shape[1] + 1):
        for subset in combinations(range(columns.shape[1]), size):
            chosen = list(subset)
            solution = np.linalg.lstsq(weighted[:, chosen] / scale[chosen], np.ones(len(target)), rcond=None)[0]
            candidate = np.zeros(columns.shape[1])
            candidate[chosen] = solution / scale[chosen]
            error = float(((weighted @ candidate - 1.0) ** 2).sum())
            if (solution >= 0.0).all() and error < best_error - 1e-12:
                best, best_error = candidate, error
    return tuple(float(c) for c in best)


def ramp_fit(octaves: Floats, ratio: Floats) -> tuple[float, float, float]:
    """(start, slope, ceiling) of `min(start + slope * octaves, ceiling)`, start <= ceiling, by relative least squares.

    The points, sorted by octaves, are split in every way into ramp and plateau; the best split wins.
    """
    order = np.argsort(octaves, kind="stable")
    x, y = octaves[order], ratio[order]
    best, best_error = (float(y.mean()), 0.0, float(y.mean())), np.inf
    for split in range(2, len(x)):
        columns = np.column_stack([np.ones(split), x[:split]])
        start, slope = nonnegative_fit(columns, y[:split])
        # The relative least-squares constant of the plateau.
        ceiling = float((1.0 / y[split:]).sum() / (1.0 / y[split:] ** 2).sum())
        error = float(((np.minimum(start + slope * x, ceiling) / y - 1.0) ** 2).sum())
        if start <= ceiling and error < best_error - 1e-12:
            best, best_error = (start, slope, ceiling), error
    return best
