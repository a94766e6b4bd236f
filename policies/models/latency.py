"""How long an iteration of a serving engine takes, against tokens, batch, context and SM clock.

The functions take scalars or arrays and use only arithmetic, so that the plant compiles the very same
functions and the controller evaluates them over a fleet.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Num = TypeVar("Num", float, NDArray[np.float64])


def slowdown(clock_ratio: Num, clock_share: Num | float) -> Num:
    """Time at a lowered SM clock over time at full clock.

    The share of the work that is bound by the SM clock stretches by 1/phi, the rest (memory, links, host) does not:
    the two-resource frequency model below its knee.

    Args:
        clock_ratio: phi = f / f_max, in (0, 1].
        clock_share: share of the iteration bound by the SM clock; 1 for pure prefill, small for decode.
    """
    result: Num = (1.0 - clock_share) + clock_share / clock_ratio
    return result


def prefill_s(tokens: Num, base_s: float, per_token_s: float, per_token2_s: float) -> Num:
    """Seconds of one prefill iteration over `tokens` batched prompt tokens at full clock.

    The quadratic term stands for attention and for the loss of efficiency that Splitwise reports beyond
    2,048 batched tokens.
    """
    return base_s + tokens * (per_token_s + tokens * per_token2_s)


def decode_s(batch: Num, context_tokens: Num, base_s: float, per_request_s: float, per_context_s: float) -> Num:
    """Seconds of one decode iteration at full clock: weights, plus requests, plus KV cache read.

    Keyed on (batch, total context), not on the number of requests alone, which under-estimates a batch of 64 by half.

    Args:
        batch: sequences that each gain one token.
        context_tokens: KV tokens resident for these sequences, summed.
    """
    return base_s + per_request_s * batch + per_context_s * context_tokens
