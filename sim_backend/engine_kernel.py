"""One serving engine, compiled: admission, prefill, decode, and what a cap does in the middle of them."""

import math

import numpy as np
from numpy.typing import NDArray

from sim_backend import histogram
from sim_backend import params as p
from sim_backend.compiled import inlined
from sim_backend.cost_kernel import adopt_caps, prefill_cost, start_decode, watch
from sim_backend.winner_tree_kernel import replace
from sim_backend.world_kernel import World

_bin_index = inlined(histogram.bin_index)


@inlined
def draw(server: p.Server, t: float, drawn_w: float) -> None:
    """Book the energy up to `t` and draw `drawn_w` from then on."""
    server.energy_j += server.drawn_w * (t - server.booked_s)
    server.booked_s = t
    server.drawn_w = drawn_w


@inlined
def set_end(w: World, s: int, t: float) -> None:
    """Server `s` decides next at `t`."""
    replace(w.ends_s, w.ends_won, 0, len(w.ends_s), s, t)


@inlined
def set_load(w: World, s: int, server: p.Server) -> None:
    """Tell the router what server `s` has to do."""
    size = len(w.loads) >> 1
    outstanding, pack_to = server.outstanding, w.control[p.C_PACK_TO]
    # Below the packing level the fullest server comes first, at or above it the emptiest.
    rank = pack_to - 1 - outstanding if outstanding < pack_to else outstanding
    key = (rank << p.CHOSEN_BITS) | server.last_chosen
    replace(w.loads, w.loads_won, server.priority * size, size, s, key)


@inlined
def heap_push(heap: NDArray[np.int64], s: int, count: int, key: int) -> None:
    """Add `key` to the `count` keys of server `s`."""
    child = count
    while child > 0:
        parent = (child - 1) >> 1
        above = heap[s, parent]
        if above <= key:
            break
        heap[s, child] = above
        child = parent
    heap[s, child] = key


@inlined
def heap_pop(heap: NDArray[np.int64], s: int, count: int) -> None:
    """Drop the least of the `count` keys of server `s`."""
    last = count - 1
    key = heap[s, last]
    parent = 0
    child = 1
    while child < last:
        below = heap[s, child]
        if child + 1 < last:
            right = heap[s, child + 1]
            child += right < below
            below = min(right, below)
        if key <= below:
            break
        heap[s, parent] = below
        parent = child
        child = 2 * parent + 1
    heap[s, parent] = key


@inlined
def span_s(steps: int, first_s: float, growth_s: float, remaining: float) -> float:
    """Time of `steps` decode iterations at full clock, of the first of which only `remaining` is to be done."""
    return (steps - 1 + remaining) * first_s + 0.5 * growth_s * (steps * (steps - 1.0))


@inlined
def steps_done(server: p.Server, t: float) -> int:
    """How many iterations of the present decode run are complete at `t`; fewer than the run has."""
    first_s, growth_s, base_s = server.first_s, server.growth_s, server.base_s
    slow, remaining, most = server.decode_slowdown, server.remaining, server.steps - 1
    # The root of span_s(steps) = elapsed, in the form without cancellation. It may be off by one where `t` is at the
    # end of an iteration, so it is compared with the very expression that gives the ends.
    elapsed_s = (t - base_s) / slow + (1.0 - remaining) * first_s
    b = first_s - 0.5 * growth_s
    steps = int(2.0 * elapsed_s / (b + math.sqrt(b * b + 2.0 * growth_s * elapsed_s)))
    steps = min(steps, most)
    while steps > 0 and base_s + slow * span_s(steps, first_s, growth_s, remaining) > t:
        steps -= 1
    while steps < most and base_s + slow * span_s(steps + 1, first_s, growth_s, remaining) <= t:
        steps += 1
    return steps


@inlined
def emit(w: World, server: p.Server, t: float, steps: int) -> None:
    """All residents have gained a token in each of `steps` iterations, the last of which ended at `t`."""
    batch, high = server.batch, server.batch_high
    index = _bin_index((t - server.token_s) / steps)
    w.bins[p.H_TBT, index] += (batch - high) * steps
    w.bins[p.H_TBT + 1, index] += high * steps
    w.counts[0, p.N_GENERATED] += (batch - high) * steps
    w.counts[1, p.N_GENERATED] += high * steps
    server.iteration += steps
    server.context += batch * steps
    server.token_s = t


@inlined
def finish(w: World, server: p.Server, t: float, slot: int) -> None:
    """The request in `slot` has all its tokens."""
    request = w.requests[slot]
    priority, output = request.priority, request.output
    e2e_s = t - request.arrival_s
    w.bins[p.H_E2E + priority, _bin_index(e2e_s)] += 1
    w.counts[priority, p.N_COMPLETED] += 1
    if request.ttft_s <= w.slo[priority, 0] and e2e_s - request.ttft_s <= w.slo[priority, 1] * (output - 1):
        w.counts[priority, p.N_GOOD] += 1
    if len(w.indices) > 0:
        w.record[w.indices[slot], 1] = e2e_s
    server.kv -= request.prompt + output
    server.outstanding -= 1
    request.behind = w.control[p.C_FREE]
    w.control[p.C_FREE] = slot


@inlined
def finish_due(w: World, s: int, server: p.Server, t: float) -> None:
    """Let go the residents that have all their tokens."""
    batch = server.batch
    due = ((server.iteration + 1) << p.SLOT_BITS) - 1
    while batch > 0 and w.heap[s, 0] <= due:
        slot = w.heap[s, 0] & p.SLOT_MASK
        heap_pop(w.heap, s, batch)
        batch -= 1
        request = w.requests[slot]
        server.batch_high -= request.priority
        server.context -= request.prompt + request.output
        finish(w, server, t, slot)
    server.batch = batch


@inlined
def join_admitted(w: World, s: int, server: p.Server, t: float) -> None:
    """A prefill has ended: its requests have their first token, and those that want more join the batch."""
    slot = server.head
    for _ in range(server.admitted):
        request = w.requests[slot]
        behind, priority, output, prompt = request.behind, request.priority, request.output, request.prompt
        ttft_s = t - request.arrival_s
        request.ttft_s = ttft_s
        w.bins[p.H_TTFT + priority, _bin_index(ttft_s)] += 1
        w.counts[priority, p.N_PROMPT] += prompt
        w.counts[priority, p.N_GENERATED] += 1
        if len(w.indices) > 0:
            w.record[w.indices[slot], 0] = ttft_s
        if output <= 1:
            finish(w, server, t, slot)
        else:
            heap_push(w.heap, s, server.batch, ((server.iteration + output - 1) << p.SLOT_BITS) | slot)
            server.batch += 1
            server.batch_high += priority
            server.context += prompt + 1
        slot = behind
    server.head = slot
    server.queue -= server.admitted
    server.admitted = 0
    server.token_s = t


@inlined
def admit(w: World, params: p.Params, server: p.Server) -> int:
    """Reserve room for the requests at the head of the queue that fit into the next iteration.

    Returns:
        Their prompt tokens; 0 if the first of them does not fit, which blocks those behind it.
    """
    if server.queue == 0:
        return 0
    most = min(params.max_batch - server.batch, server.queue)
    kv_free = params.kv_tokens - server.kv
    tokens, admitted, slot = 0, 0, server.head
    while admitted < most:
        request = w.requests[slot]
        need = request.prompt + request.output
        if need > kv_free or (admitted > 0 and tokens + request.prompt > params.max_batch_tokens):
            break
        kv_free -= need
        tokens += request.prompt
        admitted += 1
        slot = request.behind
    server.kv = params.kv_tokens - kv_free
    server.admitted = admitted
    return tokens


@inlined
def can_admit(params: p.Params, server: p.Server, need: int) -> bool:
    """Whether a request for `need` tokens, alone in the queue, would be admitted at the end of this iteration."""
    return bool(server.batch < params.max_batch and server.kv + need <= params.kv_tokens)


@inlined
def decide(w: World, s: int, server: p.Server, t: float) -> None:
    """Start the next iterations of server `s`: a prefill if a prompt may be admitted, else decodes, else nothing."""
    params = w.params[server.profile]
    tokens = admit(w, params, server)
    server.base_s = t
    server.remaining = 1.0
    if server.admitted > 0:
        server.tokens = tokens + server.batch
        lasts_s, drawn_w = prefill_cost(w, params, server)
        server.first_s = lasts_s
        server.mode = p.PREFILL
        end_s = t + lasts_s
    elif server.batch > 0:
        steps = (w.heap[s, 0] >> p.SLOT_BITS) - server.iteration
        if params.has_model:
            steps = min(steps, p.LONGEST_RUN)
        server.steps = steps
        server.mode = p.DECODE
        drawn_w = start_decode(w, params, server)
        end_s = t + server.decode_slowdown * span_s(steps, server.first_s, server.growth_s, 1.0)
    else:
        server.mode = p.IDLE
        drawn_w = params.idle_server_w
        end_s = np.inf
    server.busy |= server.mode
    draw(server, t, drawn_w)
    set_end(w, s, end_s)


@inlined
def cut_decode(w: World, s: int, server: p.Server, t: float) -> None:
    """End the decode run with the iteration in progress, so that a prompt can be admitted."""
    steps = steps_done(server, t) + 1
    if steps < server.steps:
        server.steps = steps
        span = span_s(steps, server.first_s, server.growth_s, server.remaining)
        set_end(w, s, server.base_s + server.decode_slowdown * span)


@inlined
def recap(w: World, s: int, t: float, clock_ratio: float, limit_w: float) -> None:
    """New caps act at once: what is left of the iteration in progress takes its share of the new duration.

    The winner tree over the ends is out of date after this; whoever changes caps replays it when all are changed.
    """
    server = w.servers[s]
    params = w.params[server.profile]
    base_s, remaining = server.base_s, server.remaining
    iteration_s = server.first_s
    if server.mode == p.DECODE:
        slow = server.decode_slowdown
        steps = steps_done(server, t)
        if steps > 0:
            base_s += slow * span_s(steps, iteration_s, server.growth_s, remaining)
            emit(w, server, base_s, steps)
            server.steps -= steps
            remaining = 1.0
            start_decode(w, params, server)
        iteration_s = slow * server.first_s
    if params.limiter_gain > 0.0:
        if limit_w != server.given_limit_w:
            watch(w, s, t, limit_w)
    else:
        server.limit_w = limit_w
    server.given_clock_ratio = clock_ratio
    server.given_limit_w = limit_w
    adopt_caps(w, s, clock_ratio)
    if server.mode == p.IDLE:
        return
    remaining = max(remaining - (t - base_s) / iteration_s, 0.0)
    server.base_s = t
    server.remaining = remaining
    if server.mode == p.DECODE:
        drawn_w = start_decode(w, params, server)
        lasts_s = server.decode_slowdown * span_s(server.steps, server.first_s, server.growth_s, remaining)
    else:
        iteration_s, drawn_w = prefill_cost(w, params, server)
        server.first_s = iteration_s
        lasts_s = remaining * iteration_s
    draw(server, t, drawn_w)
    w.ends_s[s] = t + lasts_s
