"""What a GPU draws by phase, tokens and SM clock, and which clock a power limit leaves.

`P(phi) = P(1) * (a + (1 - a) * phi ** n)`: a static share `a` that no clock removes and a dynamic share that falls
with the clock. The pair (a, n) differs by phase. Scalars or arrays; only arithmetic, so that the plant compiles the
same functions.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Num = TypeVar("Num", float, NDArray[np.float64])


def clock_factor(clock_ratio: Num, static_share: Num | float, exponent: Num | float) -> Num:
    """Power at `clock_ratio` over power at full clock, of one phase at constant load."""
    result: Num = static_share + (1.0 - static_share) * clock_ratio**exponent
    return result


def clock_ratio_at(power_ratio: Num, static_share: Num | float, exponent: Num | float) -> Num:
    """Clock ratio at which power falls to `power_ratio` of that at full clock; the inverse of `clock_factor`.

    Clipped to [0, 1]: a power below the static share cannot be reached by clocks and gives 0.
    """
    dynamic = np.maximum((power_ratio - static_share) / (1.0 - static_share), 0.0)
    result: Num = np.minimum(dynamic, 1.0) ** (1.0 / exponent)
    return result


def prefill_ratio(tokens: Num, at_128: float, per_octave: float, ceiling: float) -> Num:
    """Prefill power over TDP at full clock, against batched prompt tokens.

    Rises with the logarithm of the tokens until the GPU is full, then stays: the shape of the measured A100 peaks.

    Args:
        tokens: batched prompt tokens, >= 1.
        at_128: ratio at 128 tokens.
        per_octave: rise for each doubling.
        ceiling: ratio of a full GPU; slightly above 1, prompts exceed TDP for a moment.
    """
    result: Num = np.minimum(at_128 + per_octave * np.log2(tokens / 128.0), ceiling)
    return result
