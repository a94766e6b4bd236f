"""Where each number lies in the packed arrays that the compiled plant works on."""

import numpy as np
from numpy.typing import NDArray

from sim_backend.profile import Profile

# A call into compiled code costs time per argument, and the plant is called every simulated second: so parameters,
# servers and requests are rows of few wide arrays. Floats and ints of a server (or request) share its row: the same
# memory is viewed as float64 and as int64, and each word is used through one of the two views only.

# Parameters of a profile.
PARAM_FIELDS = (
    "gpus",
    "tdp_w",
    "idle_w",
    "other_w",
    "min_clock_ratio",
    "kv_tokens",
    "max_batch",
    "max_batch_tokens",
    "mixed_batch_factor",
    "prefill_base_s",
    "prefill_per_token_s",
    "prefill_per_token2_s",
    "prefill_clock_share",
    "decode_base_s",
    "decode_per_request_s",
    "decode_per_context_s",
    "decode_clock_share",
    "prefill_at_128",
    "prefill_per_octave",
    "prefill_ceiling",
    "decode_ratio",
    "prefill_static_share",
    "prefill_exponent",
    "decode_static_share",
    "decode_exponent",
)
NPARAM = 25
(P_GPUS, P_TDP_W, P_IDLE_W, P_OTHER_W, P_MIN_CLOCK_RATIO) = range(5)
(P_KV_TOKENS, P_MAX_BATCH, P_MAX_BATCH_TOKENS, P_MIXED_BATCH_FACTOR) = range(5, 9)
(P_PREFILL_BASE_S, P_PREFILL_PER_TOKEN_S, P_PREFILL_PER_TOKEN2_S, P_PREFILL_CLOCK_SHARE) = range(9, 13)
(P_DECODE_BASE_S, P_DECODE_PER_REQUEST_S, P_DECODE_PER_CONTEXT_S, P_DECODE_CLOCK_SHARE) = range(13, 17)
(P_PREFILL_AT_128, P_PREFILL_PER_OCTAVE, P_PREFILL_CEILING, P_DECODE_RATIO) = range(17, 21)
(P_PREFILL_STATIC_SHARE, P_PREFILL_EXPONENT, P_DECODE_STATIC_SHARE, P_DECODE_EXPONENT) = range(21, 25)

# A server: floats F_*, ints I_*; the first eight words of each kind are what every event touches.
NSERVER = 40
(
    F_BOOKED_S,  # power is booked up to here
    F_DRAWN_W,  # and stays at this until the next event
    F_ENERGY_J,  # booked since the last take
    F_BASE_S,  # when the present run of iterations began, or was last rescaled by a cap
    F_REMAINING,  # share of its first iteration still to do then, (0, 1]
    F_TOKEN_S,  # when the last token came out
    F_FIRST_S,  # decode: first iteration at full clock; prefill: the iteration as capped
    F_GROWTH_S,  # decode: what each iteration adds to the next, at full clock
    F_DECODE_SLOWDOWN,
    F_DECODE_W,  # server watts while decoding
    F_PREFILL_SLOWDOWN,  # by the clock cap alone
    F_PREFILL_FACTOR,  # of power, likewise
    F_CLOCK_RATIO,  # the cap as the GPU understands it, [floor, 1]
    F_DECODE_CLOCK_RATIO,  # after clock cap and power limit
    F_IDLE_W,
    F_GIVEN_CLOCK_RATIO,  # as last commanded, to notice changes
    F_GIVEN_LIMIT_W,
) = range(17)
(
    I_MODE,
    I_STEPS,  # iterations in the present run
    I_BATCH,  # residents: requests that have their first token and want more
    I_BATCH_HIGH,  # of them high priority
    I_CONTEXT,  # tokens of the residents so far
    I_KV,  # reserved KV tokens, residents and admitted
    I_ITERATION,  # iterations in which residents gained a token, ever
    I_HEAD,  # queue of requests without a first token
    I_TAIL,
    I_QUEUE,  # its length
    I_ADMITTED,  # how many at its head are in the present prefill
    I_OUTSTANDING,  # queue and residents
    I_LAST_CHOSEN,  # the router's count when it last chose this server
    I_PROFILE,
    I_TOKENS,  # batched in the present prefill
    I_PRIORITY,
    I_BUSY,  # worked since the last take
) = range(17, 34)
IDLE, DECODE, PREFILL = range(3)

# A request in flight: one line of cache.
NREQUEST = 8
R_ARRIVAL_S, R_TTFT_S = range(2)
R_PROMPT, R_OUTPUT, R_PRIORITY, R_NEXT, R_INDEX = range(2, 7)

# What the compiled loop remembers between calls.
NCONTROL = 8
(
    C_CURSOR,  # next row of the block of arrivals
    C_LAST,  # 1: no block follows
    C_FREE,  # head of the list of free requests
    C_CHOSEN,  # the router's count of choices
    C_INDEX,  # requests arrived
    C_STEP,  # of the schedule being run
    C_TAKEN,  # 1: the energies were taken and nothing has happened since
    C_PACK_TO,  # outstanding requests to which servers are filled one after the other
) = range(NCONTROL)

# Counters per priority.
COUNTERS = ("arrived", "completed", "rejected", "prompt_tokens", "generated_tokens", "good")
NCOUNTER = 6
N_ARRIVED, N_COMPLETED, N_REJECTED, N_PROMPT, N_GENERATED, N_GOOD = range(NCOUNTER)

# Rows of the histograms: two per metric, low then high priority.
NHISTOGRAM = 8
H_TTFT, H_TBT, H_E2E, H_HOUR_E2E = 0, 2, 4, 6

# Why the compiled loop returned.
REACHED, NEEDS_ARRIVALS, POOL_FULL = range(3)

# The next completion of a server is the least of iteration << SLOT_BITS | request: 2**28 requests in flight, and
# 2**35 iterations, which is 30 years of one millisecond each.
SLOT_BITS = 28
SLOT_MASK = (1 << SLOT_BITS) - 1
# The router takes the least of outstanding << CHOSEN_BITS | last chosen: 2**40 requests in all.
CHOSEN_BITS = 40
NEVER = 1 << 62


def param_vector(profile: Profile) -> NDArray[np.float64]:
    """The parameters of `profile` in the order of the `P_*` constants [NPARAM]."""
    vector = np.empty(NPARAM)
    for index, name in enumerate(PARAM_FIELDS):
        if index == P_MIN_CLOCK_RATIO:
            vector[index] = profile.min_mhz / profile.max_mhz
        else:
            vector[index] = getattr(profile, name)
    return vector
