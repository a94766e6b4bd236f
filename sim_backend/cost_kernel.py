"""What iterations take and draw under the caps in force, compiled; two backends behind one interface.

A kind of servers without an iteration model follows the affine fits (`policies.models.latency`, `gpu_power`): the clock
scales a whole decode iteration, and each phase has a power of its own. One with a model follows
`policies.models.iteration`: the times of compute and memory add up operation by operation, each at its own speed. In
both, what a decode iteration takes is affine in its context, so that a run of them has a closed form.
"""

import numpy as np

from policies.models import clocks, gpu_power, iteration, latency, roofline
from sim_backend import params as p
from sim_backend.compiled import inlined
from sim_backend.world_kernel import World

_slowdown = inlined(latency.slowdown)
_prefill_s = inlined(latency.prefill_s)
_decode_s = inlined(latency.decode_s)
_clock_factor = inlined(gpu_power.clock_factor)
_clock_ratio_at = inlined(gpu_power.clock_ratio_at)
_prefill_ratio = inlined(gpu_power.prefill_ratio)
_windowed = inlined(iteration.windowed)
_memory_stretch = inlined(roofline.memory_stretch)
_overlapped_s = inlined(roofline.overlapped_s)
_busy_w = inlined(roofline.busy_w)
_dynamic_ratio = inlined(clocks.dynamic_ratio)


@inlined
def understood(clock_ratio: float, floor: float) -> float:
    """A clock cap as the GPU understands it: one that is no number becomes the lowest."""
    return float(min(clock_ratio if clock_ratio > floor else floor, 1.0))


@inlined
def limited(params: p.Params, server: p.Server, full_w: float, static_share: float, exponent: float) -> float:
    """The clock ratio at which a phase that draws `full_w` per GPU at full clock runs under clock cap and limit."""
    by_limit = _clock_ratio_at(server.limit_w / full_w, static_share, exponent)
    cap = understood(server.given_clock_ratio, params.min_clock_ratio)
    return float(min(cap, max(by_limit, params.min_clock_ratio)))


@inlined
def clock_wanting(params: p.Params, gpu_w: float) -> float:
    """The highest clock at which the most demanding work of an iteration model wants no more than `gpu_w`."""
    if not params.has_model:
        return 1.0
    dynamic = (gpu_w - params.idle_w - params.memory_w) / (params.active_w + params.compute_w)
    if dynamic >= 1.0:
        return 1.0
    clock_ratio = max(dynamic, 0.0) ** (1.0 / params.exponent)
    if clock_ratio < params.voltage_floor:
        clock_ratio = dynamic / params.voltage_floor ** (params.exponent - 1.0)
    return float(max(clock_ratio, params.min_clock_ratio))


@inlined
def watch(w: World, s: int, t: float, limit_w: float) -> None:
    """Tell the limiter of server `s` what to hold from `t` on: never above TDP, never below the lowest it accepts."""
    server, limiter = w.servers[s], w.limiters[s]
    params = w.params[server.profile]
    limit_w = limit_w if limit_w < params.tdp_w else params.tdp_w
    limit_w = max(limit_w, params.min_limit_w)
    if limit_w >= params.peak_w:
        limit_w = np.inf
    if limit_w < np.inf:
        limiter.highest = clock_wanting(params, p.BURST * limit_w)
        limiter.highest_idle = clock_wanting(params, p.BURST_IDLE * limit_w)
        limiter.clock_ratio = min(limiter.clock_ratio, limiter.highest)
    if limit_w < np.inf and limiter.limit_w == np.inf:
        limiter.since_s = t
        limiter.mark_j = server.energy_j + server.drawn_w * (t - server.booked_s)
        if w.control[p.C_LIMITED] == 0:
            w.control[p.C_TICK] = int(t / p.TICK_S) + 1
        w.control[p.C_LIMITED] += 1
    elif limit_w == np.inf and limiter.limit_w < np.inf:
        limiter.clock_ratio = 1.0
        w.control[p.C_LIMITED] -= 1
    limiter.limit_w = limit_w


@inlined
def adopt_caps(w: World, s: int, clock_ratio: float) -> None:
    """Work out once what clock cap, power limit and limiter mean for speed and power of server `s`."""
    server = w.servers[s]
    params = w.params[server.profile]
    clock_ratio = understood(clock_ratio, params.min_clock_ratio)
    if params.limiter_gain > 0.0:
        clock_ratio = min(clock_ratio, w.limiters[s].clock_ratio)
    if params.has_model:
        server.decode_slowdown = 1.0
        server.prefill_slowdown = _memory_stretch(clock_ratio, params.memory_knee)
        server.prefill_factor = _dynamic_ratio(clock_ratio, params.exponent, params.voltage_floor)
        server.clock_ratio = clock_ratio
        return
    server.prefill_slowdown = _slowdown(clock_ratio, params.prefill_clock_share)
    server.prefill_factor = _clock_factor(clock_ratio, params.prefill_static_share, params.prefill_exponent)
    full_w = params.decode_ratio * params.tdp_w
    if server.limit_w < full_w:
        clock_ratio = limited(params, server, full_w, params.decode_static_share, params.decode_exponent)
    server.clock_ratio = clock_ratio
    server.decode_slowdown = _slowdown(clock_ratio, params.decode_clock_share)
    factor = _clock_factor(clock_ratio, params.decode_static_share, params.decode_exponent)
    server.decode_w = params.other_w + params.gpus * max(params.idle_w, full_w * factor)


@inlined
def modelled(
    w: World, params: p.Params, server: p.Server, requests: float, tokens: int, pairs: float, context: float
) -> tuple[float, float]:
    """Seconds and server watts of one iteration, as `policies.models.iteration.iteration`."""
    per_clock, stretch = 1.0 / server.clock_ratio, server.prefill_slowdown
    read_s = w.tables[params.table + min(tokens, params.table_last)]
    linear_m = (read_s + params.linear_memory_per_token_s * tokens) * stretch
    linear_c = params.linear_compute_s + params.linear_compute_per_token_s * tokens
    linear_c = (linear_c + params.unpack_ratio * (read_s - w.tables[params.table])) * per_clock
    head_m = params.head_memory_s * stretch
    head_c = params.head_compute_per_request_s * requests * per_clock
    seen = _windowed(context, requests, params.window_tokens, params.window_share)
    decode_m = (params.attention_memory_per_context_s * seen + params.state_memory_per_request_s * requests) * stretch
    decode_c = params.attention_compute_per_context_s * seen * per_clock
    busy_s = _overlapped_s(linear_c, linear_m, params.overlap) + _overlapped_s(head_c, head_m, params.overlap)
    busy_s += _overlapped_s(decode_c, decode_m, params.overlap)
    busy_s += params.link_per_token_s * tokens + params.busy_per_request_s * requests
    compute_s = linear_c + head_c + decode_c
    if pairs > 0.0:
        pairs = _windowed(pairs, float(tokens), params.window_tokens, params.window_share)
        prefill_c = params.attention_compute_per_pair_s * pairs * per_clock
        busy_s += prefill_c + params.prompt_s
        compute_s += prefill_c
    # A power takes as long as all else here.
    served = requests if params.host_exponent == 1.0 else requests**params.host_exponent
    lasts_s = busy_s + params.link_s + params.host_s + params.host_per_request_s * served
    per_s = 1.0 / lasts_s
    gpu_w = _busy_w(
        params.idle_w,
        server.prefill_factor,
        (params.active_w * busy_s + params.compute_w * compute_s) * per_s,
        params.memory_w * ((linear_m + head_m + decode_m) / stretch * per_s),
    )
    return lasts_s, params.other_w + params.gpus * gpu_w


@inlined
def start_decode(w: World, params: p.Params, server: p.Server) -> float:
    """Set what the present run of decodes takes, from its first whole iteration on; returns its server watts."""
    if not params.has_model:
        server.first_s = _decode_s(
            float(server.batch),
            float(server.context),
            params.decode_base_s,
            params.decode_per_request_s,
            params.decode_per_context_s,
        )
        server.growth_s = params.decode_per_context_s * server.batch
        return float(server.decode_w)
    # The chord from the first iteration to the last: exact, because iterations are affine in the context, except in a
    # run in which a window fills up or compute overtakes memory. Likewise the draw, as the mean of energy over time.
    batch, ahead = float(server.batch), float(server.steps - 1)
    first_s, first_w = modelled(w, params, server, batch, server.batch, 0.0, float(server.context))
    last_s, last_w = modelled(w, params, server, batch, server.batch, 0.0, server.context + batch * ahead)
    server.first_s = first_s
    server.growth_s = (last_s - first_s) / max(ahead, 1.0)
    return float((first_s * first_w + last_s * last_w) / (first_s + last_s))


@inlined
def admitted_pairs(w: World, server: p.Server) -> float:
    """Pairs of a prompt token with one it attends to, itself included, over the requests in the present prefill."""
    pairs = 0.0
    slot = server.head
    for _ in range(server.admitted):
        prompt = float(w.requests[slot].prompt)
        pairs += 0.5 * prompt * (prompt + 1.0)
        slot = w.requests[slot].behind
    return pairs


@inlined
def prefill_cost(w: World, params: p.Params, server: p.Server) -> tuple[float, float]:
    """Seconds and server watts of the present prefill iteration under the present caps."""
    if params.has_model:
        requests = float(server.batch + server.admitted)
        return modelled(w, params, server, requests, server.tokens, admitted_pairs(w, server), float(server.context))
    tokens = float(server.tokens)
    slow, factor = server.prefill_slowdown, server.prefill_factor
    full_w = params.tdp_w * _prefill_ratio(
        tokens, params.prefill_at_128, params.prefill_per_octave, params.prefill_ceiling
    )
    if full_w * factor > server.limit_w:
        ratio = limited(params, server, full_w, params.prefill_static_share, params.prefill_exponent)
        slow = _slowdown(ratio, params.prefill_clock_share)
        factor = _clock_factor(ratio, params.prefill_static_share, params.prefill_exponent)
    lasts_s = slow * _prefill_s(tokens, params.prefill_base_s, params.prefill_per_token_s, params.prefill_per_token2_s)
    if server.batch > 0:
        # Mixed with decodes, and never faster than these alone.
        lasts_s *= params.mixed_batch_factor
        decode_s = _decode_s(
            float(server.batch),
            float(server.context),
            params.decode_base_s,
            params.decode_per_request_s,
            params.decode_per_context_s,
        )
        lasts_s = max(lasts_s, decode_s * server.decode_slowdown)
    gpu_w = max(params.idle_w, full_w * factor)
    return lasts_s, params.other_w + params.gpus * gpu_w
