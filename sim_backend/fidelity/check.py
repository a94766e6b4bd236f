"""One comparison of a model with recordings: what was compared, with how many points, and how far off it is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spread:
    """For which predictions a comparison speaks, and how far nine in ten of its points are off at most."""

    gpu: str
    engine: str
    quantities: tuple[str, ...]
    """Of `bands.QUANTITIES`."""
    p90_error: float


@dataclass(frozen=True, slots=True)
class Check:
    """A line of `docs/fidelity.md`; errors are of points that no parameter was fitted to."""

    group: str
    """Heading it stands under, such as "Serving, H100 (ML.ENERGY v3)"."""
    quantity: str
    source: str
    """Data set, by the name of its folder."""
    fitted_points: int
    held_out_points: int
    median_error: float
    """Median of |model / measured - 1|, or of |model - measured| where `unit` is "points"."""
    worst_error: float
    limit: float
    """What `median_error` (or, if `limit_on_worst`, `worst_error`) is to stay within."""
    bias: float = 0.0
    """Median of model / measured - 1, signed: what an operator would correct for."""
    unit: str = "%"
    """"%": errors are fractions of the measured value; "points": differences of two fractions; "s": of two times."""
    limit_on_worst: bool = False
    note: str = ""
    spread: Spread | None = None
    """What a prediction may take from it as its error band."""

    @property
    def within(self) -> bool:
        """Whether the limit is kept."""
        return (self.worst_error if self.limit_on_worst else self.median_error) <= self.limit


def errors_of(model: NDArray[np.float64], measured: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median and largest of |model / measured - 1|, and the median signed error."""
    error = model / measured - 1.0
    return float(np.median(np.abs(error))), float(np.abs(error).max()), float(np.median(error))


def halves(keys: list[str]) -> NDArray[np.bool_]:
    """Which points to fit on: every other one of the sorted distinct keys, so that the halves do not depend on order.

    Points that share a key (repeats, one model at one batch limit) fall into the same half.
    """
    fitted = set(sorted(set(keys))[::2])
    return np.array([key in fitted for key in keys])
