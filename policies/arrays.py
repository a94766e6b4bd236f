"""Names for the arrays that the cores pass around."""

import numpy as np
from numpy.typing import NDArray

Vec = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp] | slice
"""Which servers an array speaks of; `ALL` for every one, in order."""

ALL = slice(None)


def frozen(values: NDArray[np.generic]) -> None:
    """Forbid writing to `values`: a view that a policy gets is not a way to change the fleet."""
    values.flags.writeable = False
