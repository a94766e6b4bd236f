"""What iterations take and draw: affine profiles, tables and the two-resource model behind one call.

All three are affine in the context at a fixed batch, so that a run of decode iterations is known by its first iteration
and by what each adds to the next, in seconds and in joules.
"""

import math

from policies.models import clocks, gpu_power, iteration, latency, roofline
from sim_backend.compiled import compiled, inlined
from sim_backend.pools import layout as p
from sim_backend.pools.world_kernel import World

_slowdown = inlined(latency.slowdown)
_prefill_s = inlined(latency.prefill_s)
_decode_s = inlined(latency.decode_s)
_clock_factor = inlined(gpu_power.clock_factor)
_prefill_ratio = inlined(gpu_power.prefill_ratio)
_memory_stretch = inlined(roofline.memory_stretch)
_overlapped_s = inlined(roofline.overlapped_s)
_busy_w = inlined(roofline.busy_w)
_dynamic_ratio = inlined(clocks.dynamic_ratio)
_windowed = inlined(iteration.windowed)

LIMIT_STEPS = 18
"""Halvings in which the clock under a power limit is found: to 4e-6 of full clock."""
MANY_STEPS = 1 << 40
LIMITED_STEPS = 64
"""Decode iterations after which the clock under a binding power limit is found again: their power drifts."""


@inlined
def decodes(w: World, s: int) -> int:
    """Requests that gain a token in the present iteration."""
    if w.control[p.C_BATCHING] == 0:
        return int(w.I[s, p.I_BATCH] - w.I[s, p.I_PROMPTS])
    return int(w.I[s, p.I_BATCH])


@inlined
def looked_up(w: World, row: int, values: int, x: float) -> tuple[float, float, float]:
    """Straight lines between the points of a table, the outermost ones beyond them.

    Args:
        w: the world.
        row: of the parameters.
        values: 1 prefill, 2 decode.
        x: tokens.

    Returns:
        Value, slope, and where the line ends.
    """
    table, count = int(w.params[row, p.P_TABLE_ROW]), int(w.params[row, p.P_TABLE_LEN])
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        if w.tables[table, middle] < x:
            low = middle + 1
        else:
            high = middle
    high = min(max(low, 1), count - 1)
    x_low = w.tables[table, high - 1]
    slope = (w.tables[table + values, high] - w.tables[table + values, high - 1]) / (w.tables[table, high] - x_low)
    ends = w.tables[table, high] if high < count - 1 else math.inf
    return slope * (x - x_low) + w.tables[table + values, high - 1], slope, ends


@inlined
def decode_line(w: World, s: int, row: int, batch: float) -> tuple[float, float, float]:
    """Seconds of the next decode at full clock, what each further one adds, and the context up to which that holds."""
    context = float(w.I[s, p.I_CONTEXT])
    if w.control[p.C_DECODE_KEY] == 0:
        context = batch
    if w.params[row, p.P_MODEL] == p.TABLE:
        first_s, slope, ends = looked_up(w, row, 2, context)
    else:
        slope, ends = w.params[row, p.P_DECODE_PER_CONTEXT_S], math.inf
        base_s, per_request_s = w.params[row, p.P_DECODE_BASE_S], w.params[row, p.P_DECODE_PER_REQUEST_S]
        first_s = _decode_s(batch, context, base_s, per_request_s, slope)
    if w.control[p.C_DECODE_KEY] == 0:
        return first_s, 0.0, math.inf
    return first_s, slope * batch, ends


@inlined
def prefill_line(w: World, s: int, row: int, batch: float) -> float:
    """Seconds at full clock of an iteration over prompts and `batch` decodes, as if all were prompts.

    The chunks of a prompt together take what the prompt takes at once, but for the base of each iteration: the
    quadratic term counts the pairs of their tokens with those before them twice, as the square of the whole does.
    """
    tokens = float(w.I[s, p.I_TOKENS]) + batch
    if w.params[row, p.P_MODEL] == p.TABLE:
        return looked_up(w, row, 1, tokens)[0]
    per_token2_s = w.params[row, p.P_PREFILL_PER_TOKEN2_S]
    lasts_s = _prefill_s(
        tokens, w.params[row, p.P_PREFILL_BASE_S], w.params[row, p.P_PREFILL_PER_TOKEN_S], per_token2_s
    )
    return float(lasts_s + 2.0 * per_token2_s * w.F[s, p.F_CROSS])


@compiled
def affine_cost(
    w: World, s: int, row: int, clock_ratio: float, prefill_factor: float, decode_factor: float
) -> tuple[float, float, float, float, float]:
    """As `cost`, by the times and the power law of a profile."""
    batch = float(decodes(w, s))
    slow = _slowdown(clock_ratio, w.params[row, p.P_DECODE_CLOCK_SHARE])
    first_s, growth_s, ends = decode_line(w, s, row, batch) if batch > 0.0 else (0.0, 0.0, math.inf)
    first_s, growth_s = first_s * slow, growth_s * slow
    tdp_w = w.params[row, p.P_TDP_W]
    gpu_w = w.params[row, p.P_DECODE_RATIO] * tdp_w * decode_factor
    if w.I[s, p.I_PROMPTS] > 0:
        lasts_s = prefill_line(w, s, row, batch) * _slowdown(clock_ratio, w.params[row, p.P_PREFILL_CLOCK_SHARE])
        if batch > 0.0:
            if w.real[p.X_MIXED_FACTOR] > 0.0:
                lasts_s *= w.real[p.X_MIXED_FACTOR]
            else:
                # Never faster than the decodes alone.
                lasts_s = max(lasts_s * w.params[row, p.P_MIXED_FACTOR], first_s)
        first_s, growth_s = lasts_s, 0.0
        gpu_w = tdp_w * prefill_factor
        gpu_w *= _prefill_ratio(
            float(w.I[s, p.I_TOKENS]) + batch,
            w.params[row, p.P_PREFILL_AT_128],
            w.params[row, p.P_PREFILL_PER_OCTAVE],
            w.params[row, p.P_PREFILL_CEILING],
        )
    drawn_w = w.params[row, p.P_OTHER_W] + w.params[row, p.P_GPUS] * max(gpu_w, w.params[row, p.P_IDLE_W])
    return first_s, growth_s, first_s * drawn_w, growth_s * drawn_w, ends


@compiled
def stage_cost(w: World, s: int, row: int, clock_ratio: float, factor: float, context: float) -> tuple[float, float]:
    """Seconds and joules of one iteration by `policies.models.iteration`, whose equations these are.

    With pipeline stages the requests are spread evenly over as many batches, which follow each other through them.
    """
    params, stages = w.params[row], w.params[row, p.P_STAGES]
    batch = float(decodes(w, s))
    requests = (batch + w.I[s, p.I_PROMPTS]) / stages
    fresh = w.I[s, p.I_TOKENS] / stages if w.I[s, p.I_PROMPTS] > 0 else 0.0
    tokens = fresh + batch / stages
    context /= stages
    stretch = _memory_stretch(clock_ratio, params[p.P_MEMORY_KNEE])
    table = int(params[p.P_TABLE_ROW])
    read_s = w.tables[table, min(int(tokens), int(params[p.P_TABLE_LEN]) - 1)]
    linear_c = params[p.P_LINEAR_COMPUTE_S] + params[p.P_LINEAR_COMPUTE_PER_TOKEN_S] * tokens
    linear_c = (linear_c + params[p.P_UNPACK_RATIO] * (read_s - w.tables[table, 0])) / clock_ratio
    linear_m = (read_s + params[p.P_LINEAR_MEMORY_PER_TOKEN_S] * tokens) * stretch
    head_c = params[p.P_HEAD_PER_REQUEST_S] * requests / clock_ratio
    head_m = params[p.P_HEAD_MEMORY_S] * stretch
    window, share = params[p.P_WINDOW_TOKENS], params[p.P_WINDOW_SHARE]
    seen = _windowed(context, requests, window, share)
    decode_c = params[p.P_COMPUTE_PER_CONTEXT_S] * seen / clock_ratio
    decode_m = (params[p.P_MEMORY_PER_CONTEXT_S] * seen + params[p.P_STATE_PER_REQUEST_S] * requests) * stretch
    prefill_c, prompt_s = 0.0, 0.0
    if w.I[s, p.I_PROMPTS] > 0:
        pairs = (w.F[s, p.F_CROSS] + 0.5 * (w.F[s, p.F_SQUARES] + w.I[s, p.I_TOKENS])) / stages
        prefill_c = params[p.P_COMPUTE_PER_PAIR_S] * _windowed(pairs, tokens, window, share) / clock_ratio
        prompt_s = params[p.P_PROMPT_S]
    overlap = params[p.P_OVERLAP]
    kernels_s = prefill_c + _overlapped_s(linear_c, linear_m, overlap)
    kernels_s += _overlapped_s(head_c, head_m, overlap) + _overlapped_s(decode_c, decode_m, overlap)
    busy_s = kernels_s + prompt_s + params[p.P_LINK_PER_TOKEN_S] * tokens
    busy_s += params[p.P_BUSY_PER_REQUEST_S] * requests
    host_s = params[p.P_HOST_PER_REQUEST_S] * requests ** params[p.P_HOST_EXPONENT]
    lasts_s = params[p.P_HOST_S] + host_s + busy_s + params[p.P_LINK_S]
    switched_w = params[p.P_ACTIVE_W] * busy_s + params[p.P_COMPUTE_W] * (linear_c + head_c + decode_c + prefill_c)
    moved_s = (linear_m + head_m + decode_m) / stretch
    gpu_w = _busy_w(params[p.P_IDLE_W], factor, switched_w / lasts_s, params[p.P_MEMORY_W] * moved_s / lasts_s)
    lasts_s *= stages
    return lasts_s, lasts_s * (params[p.P_OTHER_W] + params[p.P_GPUS] * gpu_w)


@compiled
def two_resource_cost(
    w: World, s: int, row: int, clock_ratio: float, factor: float
) -> tuple[float, float, float, float, float]:
    """As `cost`, by the two-resource model."""
    context, batch = float(w.I[s, p.I_CONTEXT]), float(decodes(w, s))
    first_s, first_j = stage_cost(w, s, row, clock_ratio, factor, context)
    if w.I[s, p.I_PROMPTS] > 0:
        return first_s, 0.0, first_j, 0.0, math.inf
    next_s, next_j = stage_cost(w, s, row, clock_ratio, factor, context + batch)
    kink = w.params[row, p.P_WINDOW_TOKENS] * batch
    ends = kink if w.params[row, p.P_WINDOW_SHARE] > 0.0 and context < kink else math.inf
    return first_s, next_s - first_s, first_j, next_j - first_j, ends


@inlined
def cost(
    w: World, s: int, clock_ratio: float, prefill_factor: float, decode_factor: float
) -> tuple[float, float, float, float, float]:
    """The next iteration of the present batch of server `s` under a clock.

    Args:
        w: the world.
        s: the server.
        clock_ratio: phi.
        prefill_factor: what the clock leaves of the power of prefill.
        decode_factor: and of decode; two resources: of what switches with the clock.

    Returns:
        Its seconds, what the next adds, its joules (of the whole server), what the next adds, and the context up to
        which all that holds.
    """
    row = w.I[s, p.I_KIND]
    if w.params[row, p.P_MODEL] == p.TWO_RESOURCES:
        return two_resource_cost(w, s, row, clock_ratio, decode_factor)
    return affine_cost(w, s, row, clock_ratio, prefill_factor, decode_factor)


@inlined
def factors(w: World, s: int, clock_ratio: float) -> tuple[float, float]:
    """What a clock leaves of the power of prefill and of decode; two resources: of what switches, in the second."""
    row = w.I[s, p.I_KIND]
    if w.params[row, p.P_MODEL] == p.TWO_RESOURCES:
        exponent, voltage_floor = w.params[row, p.P_EXPONENT], w.params[row, p.P_VOLTAGE_FLOOR]
        return 1.0, float(_dynamic_ratio(clock_ratio, exponent, voltage_floor))
    prefill = _clock_factor(clock_ratio, w.params[row, p.P_PREFILL_STATIC_SHARE], w.params[row, p.P_PREFILL_EXPONENT])
    decode = _clock_factor(clock_ratio, w.params[row, p.P_DECODE_STATIC_SHARE], w.params[row, p.P_DECODE_EXPONENT])
    return prefill, decode


@inlined
def adopt_caps(w: World, s: int, clock_ratio: float, limit_w: float) -> None:
    """Work out once what a clock cap means for server `s`."""
    floor = w.params[w.I[s, p.I_KIND], p.P_MIN_CLOCK_RATIO]
    w.F[s, p.F_GIVEN_CLOCK_RATIO] = clock_ratio
    w.F[s, p.F_GIVEN_LIMIT_W] = limit_w
    # In this order a clock that is no number becomes the lowest.
    clock_ratio = min(clock_ratio if clock_ratio > floor else floor, 1.0)
    w.F[s, p.F_CLOCK_RATIO] = clock_ratio
    w.F[s, p.F_PREFILL_FACTOR], w.F[s, p.F_DECODE_FACTOR] = factors(w, s, clock_ratio)


@compiled
def set_cost(w: World, s: int) -> int:
    """Work out the next iterations of the present batch under clock cap and power limit.

    Returns:
        How many iterations that holds for, at least 1.
    """
    clock_ratio = w.F[s, p.F_CLOCK_RATIO]
    prefill, decode = w.F[s, p.F_PREFILL_FACTOR], w.F[s, p.F_DECODE_FACTOR]
    found = cost(w, s, clock_ratio, prefill, decode)
    row = w.I[s, p.I_KIND]
    limit_w = w.params[row, p.P_OTHER_W] + w.params[row, p.P_GPUS] * w.F[s, p.F_GIVEN_LIMIT_W]
    if found[2] > limit_w * found[0]:
        low, high = w.params[row, p.P_MIN_CLOCK_RATIO], clock_ratio
        for step in range(LIMIT_STEPS):
            # Where not even the lowest clock keeps the limit, that clock it is.
            clock_ratio = 0.5 * (low + high) if step < LIMIT_STEPS - 1 else low
            prefill, decode = factors(w, s, clock_ratio)
            found = cost(w, s, clock_ratio, prefill, decode)
            if found[2] > limit_w * found[0]:
                high = clock_ratio
            else:
                low = clock_ratio
    w.F[s, p.F_RUN_CLOCK_RATIO] = clock_ratio
    w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S] = found[0], found[1]
    w.F[s, p.F_FIRST_J], w.F[s, p.F_GROWTH_J] = found[2], found[3]
    most = MANY_STEPS if clock_ratio == w.F[s, p.F_CLOCK_RATIO] else LIMITED_STEPS
    if found[4] == math.inf:
        return most
    return int(min(most, max(math.ceil((found[4] - w.I[s, p.I_CONTEXT]) / decodes(w, s)), 1)))


@inlined
def idle_w(w: World, s: int) -> float:
    """What server `s` draws with nothing to do."""
    row = w.I[s, p.I_KIND]
    return float(w.params[row, p.P_OTHER_W] + w.params[row, p.P_GPUS] * w.params[row, p.P_IDLE_W])


@inlined
def span(steps: int, first: float, growth: float, remaining: float) -> float:
    """Seconds, or joules, of `steps` iterations, of the first of which only `remaining` is to be done."""
    return (steps - 1 + remaining) * first + 0.5 * growth * (steps * (steps - 1.0))


@compiled
def steps_done(w: World, s: int, t: float) -> int:
    """How many iterations of the present run are complete at `t`; fewer than the run has."""
    most = w.I[s, p.I_STEPS] - 1
    if most <= 0:
        return 0
    first_s, growth_s = w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S]
    base_s, remaining = w.F[s, p.F_BASE_S], w.F[s, p.F_REMAINING]
    # The root of span(steps) = elapsed, in the form without cancellation. It may be off by one where `t` is at the end
    # of an iteration, so it is compared with the very expression that gives the ends.
    elapsed_s = max(t - base_s + (1.0 - remaining) * first_s, 0.0)
    b = first_s - 0.5 * growth_s
    steps = min(int(2.0 * elapsed_s / (b + math.sqrt(max(b * b + 2.0 * growth_s * elapsed_s, 0.0)))), most)
    while steps > 0 and base_s + span(steps, first_s, growth_s, remaining) > t:
        steps -= 1
    while steps < most and base_s + span(steps + 1, first_s, growth_s, remaining) <= t:
        steps += 1
    return int(steps)


@compiled
def drawn_j(w: World, s: int, t: float) -> float:
    """Energy of the present run up to `t`; within an iteration the power is even."""
    steps = steps_done(w, s, t)
    first_s, base_s = w.F[s, p.F_FIRST_S], w.F[s, p.F_BASE_S]
    if steps == 0:
        return float((t - base_s) / first_s * w.F[s, p.F_FIRST_J])
    growth_s, growth_j, remaining = w.F[s, p.F_GROWTH_S], w.F[s, p.F_GROWTH_J], w.F[s, p.F_REMAINING]
    share = (t - base_s - span(steps, first_s, growth_s, remaining)) / (first_s + growth_s * steps)
    whole_j = span(steps, w.F[s, p.F_FIRST_J], growth_j, remaining)
    return float(whole_j + share * (w.F[s, p.F_FIRST_J] + growth_j * steps))


@inlined
def book(w: World, s: int, t: float) -> None:
    """Book the energy up to `t`."""
    if w.I[s, p.I_MODE] == p.IDLE:
        booked_j = idle_w(w, s) * (t - w.F[s, p.F_BOOKED_S])
        w.F[s, p.F_BOOKED_S] = t
    else:
        booked_j = drawn_j(w, s, t) - w.F[s, p.F_RUN_J]
        w.F[s, p.F_RUN_J] += booked_j
    w.F[s, p.F_ENERGY_J] += booked_j
    w.F[s, p.F_TOTAL_J] += booked_j


@inlined
def book_run(w: World, s: int) -> None:
    """Book what is left of the present run, which has ended."""
    remaining, steps = w.F[s, p.F_REMAINING], w.I[s, p.I_STEPS]
    whole_j = span(steps, w.F[s, p.F_FIRST_J], w.F[s, p.F_GROWTH_J], remaining)
    booked_j = whole_j - w.F[s, p.F_RUN_J]
    w.F[s, p.F_ENERGY_J] += booked_j
    w.F[s, p.F_TOTAL_J] += booked_j
    w.F[s, p.F_RUN_J] = whole_j
