"""The fluid tier, compiled: servers alike are counted by how many requests they hold, tokens flow at one pace.

A second of a class of servers costs the same whatever their number. Its state is the share of servers at each number
of outstanding requests, one clock that counts the tokens a resident request has gained, and a ring of what completes
at which reading of that clock. Requests come as counts per second and type (`fluid.RequestTypes`).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.models import gpu_power, latency
from sim_backend.compiled import compiled, inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_slowdown = inlined(latency.slowdown)
_prefill_s = inlined(latency.prefill_s)
_decode_s = inlined(latency.decode_s)
_clock_factor = inlined(gpu_power.clock_factor)
_clock_ratio_at = inlined(gpu_power.clock_ratio_at)
_prefill_ratio = inlined(gpu_power.prefill_ratio)

# A class of servers. K_AFFINE tells which of the two backends it has: the numbers after K_OWN, or tables.
(
    K_AFFINE,
    K_COUNT,
    K_PRIORITY,
    K_GPUS,
    K_OTHER_W,
    K_IDLE_W,
    K_MIN_CLOCK_RATIO,
    K_KV_TOKENS,
    K_MAX_BATCH,
    K_MAX_BATCH_TOKENS,
) = range(10)
K_OWN = 10
# Affine: the fields of a profile, in this order.
AFFINE_FIELDS = (
    "tdp_w",
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
    "prefill_static_share",
    "prefill_exponent",
    "decode_ratio",
    "decode_static_share",
    "decode_exponent",
)
(A_TDP_W, A_MIXED, A_PREFILL_BASE_S, A_PREFILL_TOKEN_S, A_PREFILL_TOKEN2_S, A_PREFILL_SHARE) = range(10, 16)
(A_DECODE_BASE_S, A_DECODE_REQUEST_S, A_DECODE_CONTEXT_S, A_DECODE_SHARE) = range(16, 20)
(A_AT_128, A_PER_OCTAVE, A_CEILING, A_PREFILL_STATIC, A_PREFILL_EXPONENT) = range(20, 25)
(A_DECODE_RATIO, A_DECODE_STATIC, A_DECODE_EXPONENT) = range(25, 28)
NCLASS = 28

# What a class remembers.
(
    S_CLOCK,  # tokens that a resident has gained since the start
    S_RESIDENTS,  # requests admitted and not complete
    S_CONTEXT_BASE,  # of the residents: sum of prompt + output - the clock at which they complete
    S_KV,  # tokens reserved by the residents
    S_NEXT,  # first second with arrivals not admitted yet
    S_NEXT_DONE,  # share of those that is
    S_WAITING,  # requests not admitted
    S_LEFT,  # completions that the levels have not shown yet
    S_LOW,  # lowest and highest level in use
    S_HIGH,
    S_FRESH,  # arrivals of this second that met an idle server
    S_PREFILL_SHARE,  # of the time of busy servers, last second
    S_PREFILL_S,  # one prefill iteration, last second
    S_TOGETHER,  # prompts of one, last second
    S_TURN,  # counts bookings, to spread them
    S_BEYOND,  # outstanding requests that the levels have no place for
) = range(16)
NSTATE = 16
AHEAD = 16
"""Seconds over which one prefill may spread."""
GOLDEN = 0.6180339887498949
SPREAD = 997.0
"""Makes of one evenly spread sequence a second that does not follow it."""
FOLLOW = 0.25
"""How much of a change of the share of prefill decides the pace of the next second. All of it would swing: where
prompts wait for completions, a second of few prefills brings many completions, and these many prefills."""
HALVINGS = 10
"""Of the range of clocks, to find the one that a power limit leaves."""
MOST_LUMPS = 24
"""Events of a second that are taken one by one; more of them are taken in so many equal lumps."""
TINY = 1e-9


class Fluid(NamedTuple):
    """All state; rows are classes of servers."""

    params: Floats
    axes: Floats
    """Where tables have values: clock ratios, batches, and context tokens of each request [classes, 3, points]."""
    decode: Floats
    """Seconds and GPU watts of a decode iteration [classes, clocks, batches, contexts, 2]."""
    prompt: Floats
    """The same of one that holds one prompt of a type, or two [classes, types, 2, clocks, batches, 2]."""
    state: Floats
    levels: Floats
    """Servers by outstanding requests [classes, levels]."""
    due: Floats
    """What completes at a tick of the class's clock: requests, `S_CONTEXT_BASE` and KV tokens [classes, ticks, 3]."""
    prefill: Floats
    """Server-seconds and joules of prefill in the seconds to come [classes, AHEAD, 2]."""
    share: Floats
    """Share of its priority's arrivals that a class was given [seconds, classes]."""


@inlined
def place(axis: Floats, value: float) -> tuple[int, float]:
    """Between which points of a rising axis a value lies: the lower one, and the way to the next; ends hold beyond."""
    index = 0
    while index < len(axis) - 2 and value >= axis[index + 1]:
        index += 1
    way = (value - axis[index]) / (axis[index + 1] - axis[index])
    return index, min(max(way, 0.0), 1.0)


@inlined
def at_batch(table: Floats, b: int, way: float) -> tuple[float, float]:
    """Seconds and watts between two batches."""
    return (
        (1.0 - way) * table[b, 0] + way * table[b + 1, 0],
        (1.0 - way) * table[b, 1] + way * table[b + 1, 1],
    )


@inlined
def tabled_decode(w: Fluid, c: int, batch: float, context: float, phi: float) -> tuple[float, float]:
    """Seconds and GPU watts of a decode iteration, between the points of the table."""
    clock, clock_way = place(w.axes[c, 0], phi)
    b, batch_way = place(w.axes[c, 1], batch)
    x, context_way = place(w.axes[c, 2], context / batch)
    lasts_s, gpu_w = 0.0, 0.0
    for i in range(2):
        share = clock_way if i else 1.0 - clock_way
        near_s, near_w = at_batch(w.decode[c, clock + i, :, x], b, batch_way)
        far_s, far_w = at_batch(w.decode[c, clock + i, :, x + 1], b, batch_way)
        lasts_s += share * ((1.0 - context_way) * near_s + context_way * far_s)
        gpu_w += share * ((1.0 - context_way) * near_w + context_way * far_w)
    return lasts_s, gpu_w


@inlined
def tabled_prompt(w: Fluid, c: int, j: int, together: float, batch: float, phi: float) -> tuple[float, float]:
    """The same of an iteration with `together` prompts of type `j`: what a further one adds is that of the second."""
    clock, clock_way = place(w.axes[c, 0], phi)
    b, batch_way = place(w.axes[c, 1], batch)
    lasts_s, gpu_w = 0.0, 0.0
    for i in range(2):
        share = clock_way if i else 1.0 - clock_way
        one_s, one_w = at_batch(w.prompt[c, j, 0, clock + i], b, batch_way)
        two_s, two_w = at_batch(w.prompt[c, j, 1, clock + i], b, batch_way)
        lasts_s += share * (one_s + (together - 1.0) * (two_s - one_s))
        gpu_w += share * (one_w + min(together - 1.0, 1.0) * (two_w - one_w))
    return lasts_s, gpu_w


@inlined
def affine_clock(k: Floats, full_w: float, static: float, exponent: float, phi: float, limit_w: float) -> float:
    """The clock ratio that clock cap and power limit leave a phase that draws `full_w` at full clock."""
    if full_w * _clock_factor(phi, static, exponent) <= limit_w:
        return phi
    by_limit = _clock_ratio_at(limit_w / full_w, static, exponent)
    return float(min(phi, max(by_limit, k[K_MIN_CLOCK_RATIO])))


@inlined
def decode_cost(w: Fluid, c: int, batch: float, context: float, phi: float, limit_w: float) -> tuple[float, float]:
    """Seconds and GPU watts of a decode iteration."""
    k = w.params[c]
    if k[K_AFFINE] == 0.0:
        lasts_s, gpu_w = tabled_decode(w, c, batch, context, phi)
        low, high = k[K_MIN_CLOCK_RATIO], phi
        for _ in range(HALVINGS if gpu_w > limit_w else 0):
            middle = 0.5 * (low + high)
            lasts_s, gpu_w = tabled_decode(w, c, batch, context, middle)
            low, high = (low, middle) if gpu_w > limit_w else (middle, high)
        return lasts_s, gpu_w
    full_w = k[A_DECODE_RATIO] * k[A_TDP_W]
    static, exponent = k[A_DECODE_STATIC], k[A_DECODE_EXPONENT]
    phi = affine_clock(k, full_w, static, exponent, phi, limit_w)
    lasts_s = _decode_s(batch, context, k[A_DECODE_BASE_S], k[A_DECODE_REQUEST_S], k[A_DECODE_CONTEXT_S])
    lasts_s *= _slowdown(phi, k[A_DECODE_SHARE])
    return lasts_s, max(k[K_IDLE_W], full_w * _clock_factor(phi, static, exponent))


@inlined
def prompt_cost(
    w: Fluid, c: int, j: int, types: Floats, together: float, batch: float, phi: float, limit_w: float
) -> tuple[float, float]:
    """Seconds and GPU watts of an iteration with `together` prompts of type `j`, beside `batch` that decode."""
    k = w.params[c]
    if k[K_AFFINE] == 0.0:
        lasts_s, gpu_w = tabled_prompt(w, c, j, together, batch, phi)
        low, high = k[K_MIN_CLOCK_RATIO], phi
        for _ in range(HALVINGS if gpu_w > limit_w else 0):
            middle = 0.5 * (low + high)
            lasts_s, gpu_w = tabled_prompt(w, c, j, together, batch, middle)
            low, high = (low, middle) if gpu_w > limit_w else (middle, high)
        return lasts_s, gpu_w
    prompt = types[j, 0]
    tokens = together * prompt
    total = tokens + batch
    # Mean of the square of the tokens of as many prompts, less the square of their mean.
    variance = together * (types[j, 1] - prompt * prompt)
    full_w = k[A_TDP_W] * _prefill_ratio(max(total, 1.0), k[A_AT_128], k[A_PER_OCTAVE], k[A_CEILING])
    static, exponent = k[A_PREFILL_STATIC], k[A_PREFILL_EXPONENT]
    phi = affine_clock(k, full_w, static, exponent, phi, limit_w)
    lasts_s = _prefill_s(total, k[A_PREFILL_BASE_S], k[A_PREFILL_TOKEN_S], k[A_PREFILL_TOKEN2_S])
    lasts_s += k[A_PREFILL_TOKEN2_S] * variance
    lasts_s *= _slowdown(phi, k[A_PREFILL_SHARE])
    if batch > 0.0:
        lasts_s *= k[A_MIXED]
    return lasts_s, max(k[K_IDLE_W], full_w * _clock_factor(phi, static, exponent))


@inlined
def executed_by(horizon_s: float, lasts_s: float) -> float:
    """Integral over a start uniform in [0, 1) of what is done of it by `horizon_s`, from starts at 0 on."""
    if horizon_s <= 0.0:
        return 0.0
    if horizon_s < lasts_s:
        return 0.5 * horizon_s * horizon_s
    return lasts_s * (horizon_s - 0.5 * lasts_s)


@inlined
def book_prefill(w: Fluid, c: int, k: int, wait_s: float, lasts_s: float, count: float, server_w: float) -> None:
    """`count` prefills that arrive evenly over second `k` run after `wait_s`."""
    before = 0.0
    for ahead in range(AHEAD):
        horizon_s = ahead + 1.0 - wait_s
        done_s = executed_by(horizon_s, lasts_s) - executed_by(horizon_s - 1.0, lasts_s)
        if ahead == AHEAD - 1:
            done_s = lasts_s
        slot = (k + ahead) % AHEAD
        w.prefill[c, slot, 0] += count * (done_s - before)
        w.prefill[c, slot, 1] += count * (done_s - before) * server_w
        before = done_s
        if done_s >= lasts_s - TINY:
            break


@inlined
def book_due(w: Fluid, c: int, tick: float, count: float, tokens: float) -> None:
    """`count` requests of `tokens` prompt and output tokens each complete when the clock reads `tick`."""
    ticks = w.due.shape[1]
    slot = int(tick) & (ticks - 1)
    base = count * (tokens - tick)
    w.due[c, slot, 0] += count
    w.due[c, slot, 1] += base
    w.due[c, slot, 2] += count * tokens
    w.state[c, S_RESIDENTS] += count
    w.state[c, S_CONTEXT_BASE] += base
    w.state[c, S_KV] += count * tokens


@inlined
def complete(w: Fluid, c: int, tokens: float) -> float:
    """Let the clock run on by `tokens`.

    Returns:
        Requests completed.
    """
    ticks = w.due.shape[1]
    first = int(w.state[c, S_CLOCK])
    w.state[c, S_CLOCK] += tokens
    completed = 0.0
    for tick in range(first, int(w.state[c, S_CLOCK])):
        slot = tick & (ticks - 1)
        count = w.due[c, slot, 0]
        if count > 0.0:
            completed += count
            w.state[c, S_RESIDENTS] -= count
            w.state[c, S_CONTEXT_BASE] -= w.due[c, slot, 1]
            w.state[c, S_KV] -= w.due[c, slot, 2]
            w.due[c, slot, 0] = 0.0
            w.due[c, slot, 1] = 0.0
            w.due[c, slot, 2] = 0.0
    return completed


@inlined
def leave(w: Fluid, c: int, count: float) -> None:
    """`count` requests leave servers of class `c`, each resident as likely as any other."""
    low, high = int(w.state[c, S_LOW]), int(w.state[c, S_HIGH])
    beyond = min(w.state[c, S_BEYOND], count)
    w.state[c, S_BEYOND] -= beyond
    count -= beyond
    total = 0.0
    for level in range(max(low, 1), high + 1):
        total += level * w.levels[c, level]
    if total <= TINY:
        w.state[c, S_LEFT] += count
        return
    rate = count / total
    for level in range(max(low, 1), high + 1):
        moved = w.levels[c, level] * min(rate * level, 1.0)
        w.state[c, S_LEFT] += w.levels[c, level] * max(rate * level - 1.0, 0.0)
        w.levels[c, level] -= moved
        w.levels[c, level - 1] += moved
    if low > 0 and w.levels[c, low - 1] > TINY:
        w.state[c, S_LOW] = low - 1
    while high > 0 and w.levels[c, high] <= TINY:
        w.levels[c, high - 1] += w.levels[c, high]
        w.levels[c, high] = 0.0
        high -= 1
    w.state[c, S_HIGH] = high


@inlined
def fill_level(w: Fluid, k: int, priority: int, level: int, count: float) -> float:
    """Give up to `count` arrivals to servers of `priority` that hold `level` requests; returns how many."""
    there = 0.0
    for c in range(len(w.state)):
        if w.params[c, K_PRIORITY] == priority:
            there += w.levels[c, level]
    if there <= TINY:
        return 0.0
    given = min(count, there)
    for c in range(len(w.state)):
        if w.params[c, K_PRIORITY] != priority:
            continue
        moved = w.levels[c, level] * given / there
        w.levels[c, level] -= moved
        w.levels[c, level + 1] += moved
        w.share[k, c] += moved
        if level == 0:
            w.state[c, S_FRESH] += moved
        if level == w.state[c, S_LOW] and w.levels[c, level] <= TINY:
            w.levels[c, level + 1] += w.levels[c, level]
            w.levels[c, level] = 0.0
            w.state[c, S_LOW] = level + 1
        if moved > 0.0 and level + 1 > w.state[c, S_HIGH]:
            w.state[c, S_HIGH] = level + 1
    return given


@inlined
def enter(w: Fluid, k: int, priority: int, count: float, pack_to: int) -> None:
    """The router gives `count` arrivals to servers: the fullest below `pack_to`, else the emptiest."""
    low, high = w.levels.shape[1], 0
    for c in range(len(w.state)):
        if w.params[c, K_PRIORITY] == priority:
            low = min(low, int(w.state[c, S_LOW]))
            high = max(high, int(w.state[c, S_HIGH]))
    level = min(pack_to - 1, high)
    while level >= low and count > TINY:
        given = fill_level(w, k, priority, level, count)
        count -= given
        # Who was filled and still is below the packing level comes first again.
        level += 1 if given > 0.0 and level + 1 < pack_to else -1
    for level in range(max(low, pack_to), w.levels.shape[1] - 1):
        if count <= TINY:
            return
        count -= fill_level(w, k, priority, level, count)
    if count > TINY:
        go_beyond(w, k, priority, count)


@inlined
def go_beyond(w: Fluid, k: int, priority: int, count: float) -> None:
    """All servers of `priority` are at the highest level: further arrivals are shared out evenly."""
    servers = 0.0
    for c in range(len(w.state)):
        if w.params[c, K_PRIORITY] == priority:
            servers += w.params[c, K_COUNT]
    for c in range(len(w.state)):
        if w.params[c, K_PRIORITY] == priority:
            given = count * w.params[c, K_COUNT] / servers
            w.state[c, S_BEYOND] += given
            w.share[k, c] += given


@inlined
def route_second(w: Fluid, k: int, priority: int, count: float, pack_to: int, done: Floats, idle: Floats) -> None:
    """Arrivals and completions of a second, in turns; `idle` gains server-seconds per class."""
    events = count
    for c in range(len(w.state)):
        if w.params[c, K_PRIORITY] == priority:
            done[c] += w.state[c, S_LEFT]
            w.state[c, S_LEFT] = 0.0
            w.state[c, S_FRESH] = 0.0
            events += done[c]
    lumps = min(max(math.ceil(events), 1), MOST_LUMPS)
    for _ in range(lumps):
        for c in range(len(w.state)):
            if w.params[c, K_PRIORITY] == priority:
                if done[c] > 0.0:
                    leave(w, c, done[c] / lumps)
                idle[c] += 0.5 * w.levels[c, 0] / lumps
        if count > 0.0:
            enter(w, k, priority, count / lumps, pack_to)
        for c in range(len(w.state)):
            if w.params[c, K_PRIORITY] == priority:
                idle[c] += 0.5 * w.levels[c, 0] / lumps
    if count > 0.0:
        for c in range(len(w.state)):
            if w.params[c, K_PRIORITY] == priority:
                w.share[k, c] /= count


@inlined
def batch_of(w: Fluid, c: int) -> tuple[float, float, float]:
    """Busy servers, and what a resident request sees on its server: requests that decode, and their tokens."""
    requests, squares = 0.0, 0.0
    for level in range(int(w.state[c, S_LOW]), int(w.state[c, S_HIGH]) + 1):
        requests += level * w.levels[c, level]
        squares += level * level * w.levels[c, level]
    busy = w.params[c, K_COUNT] - w.levels[c, 0]
    residents = w.state[c, S_RESIDENTS]
    if busy <= TINY or residents <= TINY or requests <= TINY:
        return max(busy, 0.0), 0.0, 0.0
    context = max(w.state[c, S_CONTEXT_BASE] + residents * w.state[c, S_CLOCK], 0.0) / residents
    # In prefill, by Little's law, are those that came within the time of one: as many as servers are in prefill.
    decoding = max(residents - w.state[c, S_PREFILL_SHARE] * busy, 0.0)
    batch = decoding * squares / (requests * requests)
    return busy, batch, batch * context


@inlined
def pace(w: Fluid, c: int, k: int, busy: float, decode_s: float) -> float:
    """Tokens that a resident gains in second `k`, of which decode iterations of `decode_s` leave room for prefills."""
    state = w.state[c]
    prefill_s, share = state[S_PREFILL_S], state[S_PREFILL_SHARE]
    if prefill_s <= 0.0 or busy <= TINY:
        return 1.0 / decode_s
    tokens = (1.0 - share) / decode_s + share / prefill_s
    if state[S_WAITING] <= TINY:
        return float(tokens)
    # Each completion lets a prompt in at once, whose prefill delays the next completion.
    share = min(w.prefill[c, k % AHEAD, 0] / busy, 1.0)
    each = prefill_s / state[S_TOGETHER] * max(1.0 - 0.5 * prefill_s, 0.5) / busy
    ticks, clock = w.due.shape[1], state[S_CLOCK]
    passed, room, before = 0.0, tokens, tokens
    while passed < ticks:
        room = (1.0 - share) / decode_s + share / prefill_s - passed
        if room <= 0.0:
            break
        before = room
        share = min(share + each * w.due[c, int(clock + passed) & (ticks - 1), 0], 1.0)
        passed += 1.0
    # Where the room left would be zero, between the last two ticks.
    return float(max(passed - 1.0 + before / (before - room), 0.0))


@inlined
def admit(
    w: Fluid,
    c: int,
    k: int,
    counts: NDArray[np.int32],
    types: Floats,
    costs: Floats,
    engine: tuple[float, float, float, float, float],
) -> None:
    """Start the prefills of the requests that there is room for, first come first served.

    Args:
        w: all state.
        c: class.
        k: second.
        counts: arrivals [seconds, priorities, types].
        types: prompt tokens, their mean square, output tokens, and half the width over which these spread [types, 4].
        costs: room for seconds and server watts of each type.
        engine: batch, seconds of a decode iteration, tokens in this second, clock ratio, power limit.
    """
    batch, decode_s, tokens, phi, limit_w = engine
    p, state = w.params[c], w.state[c]
    priority, servers = int(p[K_PRIORITY]), p[K_COUNT]
    arrived = 0.0
    prompts = 0.0
    for j in range(len(types)):
        count = counts[k, priority, j] * w.share[k, c]
        arrived += count
        prompts += count * types[j, 0]
    state[S_WAITING] += arrived
    if state[S_WAITING] <= TINY:
        state[S_NEXT], state[S_NEXT_DONE] = k + 1, 0.0
        return
    share, prefill_s = state[S_PREFILL_SHARE], state[S_PREFILL_S]
    wait_s = share * 0.5 * prefill_s + (1.0 - share) * 0.5 * decode_s
    fresh = state[S_FRESH] / arrived if arrived > 0.0 else 0.0
    # Prompts that arrive while their server is in an iteration share the next one.
    together = 1.0 + arrived / servers * wait_s
    if arrived > 0.0:
        together = max(1.0, min(together, p[K_MAX_BATCH_TOKENS] * arrived / prompts))
    for j in range(len(types)):
        if counts[k, priority, j] == 0 and state[S_NEXT] == k:
            continue
        lasts_s, energy_j = 0.0, 0.0
        if fresh < 1.0:
            mixed_s, mixed_w = prompt_cost(w, c, j, types, together, max(batch, TINY), phi, limit_w)
            lasts_s = (1.0 - fresh) * max(mixed_s, decode_s) / together
            energy_j = lasts_s * mixed_w
        if fresh > 0.0:
            fresh_s, fresh_w = prompt_cost(w, c, j, types, 1.0, 0.0, phi, limit_w)
            lasts_s += fresh * fresh_s
            energy_j += fresh * fresh_s * fresh_w
        costs[j, 0] = lasts_s
        costs[j, 1] = p[K_OTHER_W] + p[K_GPUS] * energy_j / lasts_s
    slot = k % AHEAD
    room_s = servers - w.prefill[c, slot, 0]
    room = servers * p[K_MAX_BATCH] - state[S_RESIDENTS]
    work_s, admitted = 0.0, 0.0
    q = int(state[S_NEXT])
    while q <= k:
        left = (1.0 - state[S_NEXT_DONE]) * w.share[q, c]
        need_s, need_kv, need, need_kv2 = 0.0, 0.0, 0.0, 0.0
        for j in range(len(types)):
            if counts[q, priority, j] == 0:
                continue
            count = left * counts[q, priority, j]
            held = types[j, 0] + types[j, 2]
            need += count
            need_s += count * costs[j, 0]
            need_kv += count * held
            need_kv2 += count * held * held
        part = 1.0
        if need > 0.0:
            # A server is full when its next request does not fit: half a request of its tokens stay unused.
            kv_room = servers * max(p[K_KV_TOKENS] - 0.5 * need_kv2 / need_kv, 0.0) - state[S_KV]
            part = min(1.0, room_s / need_s, kv_room / need_kv, room / need)
        if part > 0.0 and need > 0.0:
            for j in range(len(types)):
                if counts[q, priority, j] == 0:
                    continue
                count = part * left * counts[q, priority, j]
                lasts_s = costs[j, 0]
                begins_s = wait_s * (1.0 - fresh)
                book_prefill(w, c, k, begins_s, lasts_s, count, costs[j, 1])
                state[S_TURN] = (state[S_TURN] + GOLDEN) % 1.0
                # The clock has run to the end of this second already.
                tick = state[S_CLOCK] + tokens * (state[S_TURN] - 1.0 + begins_s + lasts_s)
                output = max(types[j, 2] + types[j, 3] * (2.0 * ((state[S_TURN] * SPREAD) % 1.0) - 1.0), 1.0)
                book_due(w, c, max(tick + output - 1.0, state[S_CLOCK]), count, types[j, 0] + output)
            room_s -= part * need_s
            room -= part * need
            work_s += part * need_s
            admitted += part * need
        if part < 1.0:
            state[S_NEXT_DONE] += max(part, 0.0) * (1.0 - state[S_NEXT_DONE])
            break
        q += 1
        state[S_NEXT_DONE] = 0.0
    state[S_NEXT] = q
    state[S_WAITING] = max(state[S_WAITING] - admitted, 0.0)
    if admitted > 0.0:
        state[S_PREFILL_S] = work_s / admitted * together
        state[S_TOGETHER] = together


@inlined
def take_w(w: Fluid, c: int, k: int, busy: float, idle: float, decode_w: float) -> float:
    """Watts of class `c` in second `k`, whose prefills are all booked."""
    p, slot, after = w.params[c], k % AHEAD, (k + 1) % AHEAD
    prefill_s, prefill_j = w.prefill[c, slot, 0], w.prefill[c, slot, 1]
    # The levels sum up to the servers but for rounding.
    most_s = max(p[K_COUNT] - idle, 0.0)
    if prefill_s > most_s:
        # More than the servers can do: the rest is done in the next second.
        kept = most_s / prefill_s
        w.prefill[c, after, 0] += (1.0 - kept) * prefill_s
        w.prefill[c, after, 1] += (1.0 - kept) * prefill_j
        prefill_s *= kept
        prefill_j *= kept
    w.prefill[c, slot, 0] = 0.0
    w.prefill[c, slot, 1] = 0.0
    share = min(prefill_s / busy, 1.0) if busy > TINY else 0.0
    w.state[c, S_PREFILL_SHARE] += FOLLOW * (share - w.state[c, S_PREFILL_SHARE])
    decode_s = max(most_s - prefill_s, 0.0)
    idle_w = p[K_OTHER_W] + p[K_GPUS] * p[K_IDLE_W]
    return float(prefill_j + decode_s * (p[K_OTHER_W] + p[K_GPUS] * decode_w) + idle * idle_w)


@compiled
def run(
    counts: NDArray[np.int32],
    types: Floats,
    caps: Floats,
    pack_to: int,
    drawn_w: Floats,
    requests: Floats,
    params: Floats,
    axes: Floats,
    decode: Floats,
    prompt: Floats,
    state: Floats,
    levels: Floats,
    due: Floats,
    prefill: Floats,
    share: Floats,
) -> None:
    """All seconds of `counts`.

    Args:
        counts: arrivals [seconds, priorities, types].
        types: prompt tokens, their mean square, output tokens, and half the width over which these spread [types, 4].
        caps: clock ratio and GPU watts in force [seconds or 1, classes, 2].
        pack_to: as the plant's.
        drawn_w: result [seconds, classes].
        requests: result, outstanding and of these waiting for admission at the end of each second
            [seconds, classes, 2].
        params, axes, decode, prompt, state, levels, due, prefill, share: the members of `Fluid`.
    """
    w = Fluid(params, axes, decode, prompt, state, levels, due, prefill, share)
    classes = len(state)
    costs = np.empty((len(types), 2))
    done, idle = np.empty(classes), np.empty(classes)
    now = np.empty((classes, 4))
    for k in range(len(counts)):
        step = min(k, len(caps) - 1)
        for c in range(classes):
            phi = min(max(caps[step, c, 0], params[c, K_MIN_CLOCK_RATIO]), 1.0)
            busy, batch, context = batch_of(w, c)
            decode_s, decode_w = decode_cost(w, c, max(batch, 1.0), context, phi, caps[step, c, 1])
            tokens = pace(w, c, k, busy, decode_s)
            now[c, 0], now[c, 1], now[c, 2], now[c, 3] = batch, decode_s, tokens, decode_w
            done[c] = complete(w, c, tokens)
            idle[c] = 0.0
        for priority in range(counts.shape[1]):
            arriving = 0.0
            for j in range(len(types)):
                arriving += counts[k, priority, j]
            route_second(w, k, priority, arriving, pack_to, done, idle)
        for c in range(classes):
            phi = min(max(caps[step, c, 0], params[c, K_MIN_CLOCK_RATIO]), 1.0)
            engine = (now[c, 0], now[c, 1], now[c, 2], phi, caps[step, c, 1])
            admit(w, c, k, counts, types, costs, engine)
            busy = max(params[c, K_COUNT] - idle[c], 0.0)
            drawn_w[k, c] = take_w(w, c, k, busy, idle[c], now[c, 3])
            requests[k, c, 0] = state[c, S_RESIDENTS] + state[c, S_WAITING]
            requests[k, c, 1] = state[c, S_WAITING]
