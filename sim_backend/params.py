"""Where each number lies in the packed rows that the compiled plant works on."""

from collections.abc import Sequence
from typing import Annotated, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from policies.errors import ConfigError
from policies.models.iteration import IterationModel
from sim_backend.profile import Profile

# A call into compiled code costs time per argument, and the plant is called every simulated second: so parameters,
# servers and requests are rows of few arrays. How fast the plant is depends on how few lines of cache (64 bytes) an
# event has to touch, at a thousand servers more than on anything else: hence 32 bits where they suffice, and rows
# ordered by who needs what. A class below is the layout of one row; compiled code reads its fields by name.

Real = Annotated[float, np.float64]
Whole = Annotated[int, np.int64]
Short = Annotated[int, np.int32]
Byte = Annotated[int, np.uint8]

Rows = NDArray[np.void]


def row_type(row: type) -> np.dtype[np.void]:
    """The layout of the rows that `row` describes, field by field."""
    hints = get_type_hints(row, include_extras=True)
    return np.dtype([(name, get_args(hint)[1]) for name, hint in hints.items()], align=True)


class Params:
    """What all servers of a kind have in common; fields that a `Profile` has too mean the same."""

    gpus: Real
    tdp_w: Real
    idle_w: Real
    other_w: Real
    mixed_batch_factor: Real
    prefill_base_s: Real
    prefill_per_token_s: Real
    prefill_per_token2_s: Real
    prefill_clock_share: Real
    decode_base_s: Real
    decode_per_request_s: Real
    decode_per_context_s: Real
    decode_clock_share: Real
    prefill_at_128: Real
    prefill_per_octave: Real
    prefill_ceiling: Real
    decode_ratio: Real
    prefill_static_share: Real
    prefill_exponent: Real
    decode_static_share: Real
    decode_exponent: Real
    kv_tokens: Whole
    max_batch: Whole
    max_batch_tokens: Whole
    min_limit_w: Real
    min_clock_ratio: Real
    idle_server_w: Real
    limiter_gain: Real
    """Share of the excess that a step of the limiter takes away; 0: limits bind at once."""
    peak_w: Real
    """What a GPU draws at most at full clock; a limit above this needs no watching."""
    has_model: Whole
    """1: the fields below say what iterations cost, not those above."""
    host_s: Real
    host_per_request_s: Real
    link_s: Real
    link_per_token_s: Real
    linear_compute_s: Real
    linear_compute_per_token_s: Real
    linear_memory_per_token_s: Real
    attention_compute_per_pair_s: Real
    attention_memory_per_context_s: Real
    attention_compute_per_context_s: Real
    overlap: Real
    memory_knee: Real
    active_w: Real
    compute_w: Real
    memory_w: Real
    exponent: Real
    voltage_floor: Real
    head_memory_s: Real
    head_compute_per_request_s: Real
    state_memory_per_request_s: Real
    window_tokens: Real
    window_share: Real
    busy_per_request_s: Real
    prompt_s: Real
    host_exponent: Real
    unpack_ratio: Real
    table: Whole
    """Where its `linear_memory_s` begins among the tables of all kinds."""
    table_last: Whole
    """Index of the last entry of its table."""


class Server:
    """One serving engine: three lines of cache."""

    energy_j: Real
    """Booked since the last take."""
    booked_s: Real
    """Power is booked up to here."""
    drawn_w: Real
    """And stays at this until the next event."""
    base_s: Real
    """When the present run of iterations began, or was last rescaled by a cap."""
    remaining: Real
    """Share of its first iteration still to do then, (0, 1]."""
    token_s: Real
    """When the last token came out."""
    first_s: Real
    """Decode: the first iteration, before `decode_slowdown`; prefill: the iteration as capped."""
    growth_s: Real
    """Decode: what each iteration adds to the next, before `decode_slowdown`."""
    # --
    iteration: Whole
    """Iterations in which residents gained a token, ever."""
    last_chosen: Whole
    """The router's count when it last chose this server."""
    steps: Short
    """Iterations in the present run."""
    batch: Short
    """Residents: requests that have their first token and want more."""
    batch_high: Short
    """Of them high priority."""
    context: Short
    """Tokens of the residents so far."""
    kv: Short
    """Reserved KV tokens, residents and admitted."""
    head: Short
    """Queue of requests without a first token."""
    tail: Short
    queue: Short
    """Its length."""
    admitted: Short
    """How many at its head are in the present prefill."""
    outstanding: Short
    """Queue and residents."""
    tokens: Short
    """Batched in the present prefill."""
    mode: Byte
    busy: Byte
    """Worked since the last take."""
    priority: Byte
    profile: Byte
    # -- What the caps in force mean.
    decode_slowdown: Real
    """1 under an iteration model, which states its times as capped."""
    decode_w: Real
    """Server watts while decoding; an iteration model has others for each batch."""
    prefill_slowdown: Real
    """By the clock cap alone; under an iteration model the stretch of memory-bound work."""
    prefill_factor: Real
    """Of prefill power, likewise; under an iteration model of all power that goes with the clock."""
    clock_ratio: Real
    """Of decodes, after clock cap and power limit."""
    limit_w: Real
    """Per GPU, binding at once; inf where there is none or a limiter follows it."""
    given_clock_ratio: Real
    """As last commanded, to notice changes."""
    given_limit_w: Real


class Limiter:
    """The firmware of one server's GPUs that regulates their draw to a power limit."""

    clock_ratio: Real
    """The clock it allows."""
    since_s: Real
    """Its last step."""
    mark_j: Real
    """What the server had booked then."""
    limit_w: Real
    """Per GPU, as the firmware understands it; inf: nothing to watch."""
    highest: Real
    """Clock that it allows at most: of a GPU that works."""
    highest_idle: Real
    """The same of one that does not: the next load starts there."""


class Request:
    """A request in flight: half a line of cache."""

    arrival_s: Real
    ttft_s: Real
    prompt: Short
    output: Short
    behind: Short
    """The one behind it in the queue, or in the list of free rows."""
    priority: Short


IDLE, DECODE, PREFILL = range(3)
PARAMS, SERVER, LIMITER, REQUEST = (row_type(row) for row in (Params, Server, Limiter, Request))

# What the compiled loop remembers between calls.
NCONTROL = 16
(
    C_CURSOR,  # next row of the block of arrivals
    C_LAST,  # 1: no block follows
    C_FREE,  # head of the list of free requests
    C_CHOSEN,  # the router's count of choices
    C_INDEX,  # requests arrived
    C_STEP,  # of the schedule being run
    C_TAKEN,  # 1: the energies were taken and nothing has happened since
    C_PACK_TO,  # outstanding requests to which servers are filled one after the other
    C_LIMITED,  # servers whose limiter has something to watch
    C_TICK,  # the limiters' next step, counted from time 0
) = range(10)

# Counters per priority.
COUNTERS = ("arrived", "completed", "rejected", "prompt_tokens", "generated_tokens", "good")
NCOUNTER = 6
N_ARRIVED, N_COMPLETED, N_REJECTED, N_PROMPT, N_GENERATED, N_GOOD = range(NCOUNTER)

# Rows of the histograms: two per metric, low then high priority.
NHISTOGRAM = 6
H_TTFT, H_TBT, H_E2E = 0, 2, 4

# Why the compiled loop returned.
REACHED, NEEDS_ARRIVALS, POOL_FULL, HEAP_FULL = range(4)

# The next completion of a server is the least of iteration << SLOT_BITS | request: 2**28 requests in flight, and
# 2**35 iterations, which is 30 years of one millisecond each.
SLOT_BITS = 28
SLOT_MASK = (1 << SLOT_BITS) - 1
# The router takes the least of outstanding << CHOSEN_BITS | last chosen: 2**40 requests in all.
CHOSEN_BITS = 40
NEVER = 1 << 62
MOST_TOKENS = 2**31 - 1
"""More than any KV cache holds; what is counted in 32 bits stays below."""
MOST_PROFILES = 256

LONGEST_RUN = 256
"""Iterations of a run under an iteration model: what is drawn is the run's mean, so a run must not last too long."""
HIGHEST_GAIN = 1.0 / 3.0
"""Of a limiter: where power goes with the clock cubed, one step then takes the whole excess away; more would swing."""
TICK_S = 0.05
"""Between two steps of a limiter: a load that starts draws at will for one of them."""
BURST, BURST_IDLE = 2.5, 1.75
"""What a GPU may want under a limit, over the limit: at work, and when the next load comes. The clock stays below what
the most demanding work would want so much at, or a limit far below TDP would let a second's mean through that no
operator expects. Nothing is lost: where this binds, decoding wants more than the limit too. Chosen, not measured."""


def param_rows(profiles: Sequence[Profile]) -> tuple[Rows, NDArray[np.float64]]:
    """One row per profile, and the tables of their iteration models one behind the other.

    Raises:
        ConfigError: a profile whose numbers describe no engine.
    """
    if len(profiles) > MOST_PROFILES:
        raise ConfigError(f"{len(profiles)} kinds of servers in one plant; at most {MOST_PROFILES} fit")
    rows = np.zeros(len(profiles), PARAMS)
    tables: list[NDArray[np.float64]] = []
    entries = 0
    for row, profile in zip(rows, profiles, strict=True):
        _check_profile(profile)
        _copy(profile, row)
        row["kv_tokens"] = min(profile.kv_tokens, MOST_TOKENS)
        row["max_batch"] = min(profile.max_batch, MOST_TOKENS)
        row["max_batch_tokens"] = min(profile.max_batch_tokens, MOST_TOKENS)
        row["min_clock_ratio"] = profile.min_mhz / profile.max_mhz
        row["peak_w"] = profile.tdp_w * max(profile.prefill_ceiling, profile.decode_ratio)
        if profile.limiter_s > 0.0:
            row["limiter_gain"] = min(-np.expm1(-TICK_S / profile.limiter_s), HIGHEST_GAIN)
        model = profile.iteration
        if model is not None:
            row["has_model"] = 1
            _copy(model, row)
            row["peak_w"] = model.idle_w + model.active_w + model.compute_w + model.memory_w
            row["table"], row["table_last"] = entries, len(model.linear_memory_s) - 1
            tables.append(np.asarray(model.linear_memory_s, np.float64))
            entries += len(model.linear_memory_s)
        if profile.server is not None:
            # Then the rows know of the GPUs alone; `casing.Casings` adds the rest.
            row["other_w"] = 0.0
        row["idle_server_w"] = row["other_w"] + profile.gpus * row["idle_w"]
    return rows, np.concatenate((*tables, np.zeros(1)))


def _copy(source: Profile | IterationModel, row: np.void) -> None:
    """Fill the fields of `row` that the source has too."""
    for name in PARAMS.names or ():
        if hasattr(source, name):
            row[name] = getattr(source, name)


def _check_profile(profile: Profile) -> None:
    if profile.iteration is not None:
        if profile.limiter_s <= 0.0:
            raise ConfigError(
                f"profile '{profile.name}': an iteration model needs limiter_s above 0, the time in which the firmware "
                "corrects an excess over a power limit: no clock is known that would meet a limit at once"
            )
        if profile.iteration.gpus != profile.gpus:
            raise ConfigError(
                f"profile '{profile.name}': {profile.gpus} GPUs, but an iteration model of {profile.iteration.gpus}; "
                "give the servers as many GPUs as one engine runs on"
            )
        return
    prefill_s = profile.prefill_base_s + profile.prefill_per_token_s + profile.prefill_per_token2_s
    decode_s = profile.decode_base_s + profile.decode_per_request_s + profile.decode_per_context_s
    if min(prefill_s, decode_s) <= 0.0:
        raise ConfigError(
            f"profile '{profile.name}': an iteration takes no time at all; give prefill_time and decode_time a base_s"
        )
