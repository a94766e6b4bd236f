"""One serving engine, compiled: admission, prefill, decode, and what a cap does in the middle of them."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.models import gpu_power, latency
from sim_backend import histogram
from sim_backend import params as p
from sim_backend.compiled import inlined
from sim_backend.winner_tree_kernel import replace

_slowdown = inlined(latency.slowdown)
_prefill_s = inlined(latency.prefill_s)
_decode_s = inlined(latency.decode_s)
_clock_factor = inlined(gpu_power.clock_factor)
_clock_ratio_at = inlined(gpu_power.clock_ratio_at)
_prefill_ratio = inlined(gpu_power.prefill_ratio)
_bin_index = inlined(histogram.bin_index)


class World(NamedTuple):
    """All state of the plant. F and I view the same rows of servers, RF and RI the same rows of requests."""

    F: NDArray[np.float64]
    I: NDArray[np.int64]  # noqa: E741 (the packed ints, beside the packed floats)
    RF: NDArray[np.float64]
    RI: NDArray[np.int64]
    heap: NDArray[np.int64]
    """Per server, its residents by completion [servers, most residents]."""
    ends_s: NDArray[np.float64]
    """Winner tree of the times at which servers decide next."""
    loads: NDArray[np.int64]
    """Winner trees of the router's keys, one per priority of servers."""
    params: NDArray[np.float64]
    slo: NDArray[np.float64]
    counts: NDArray[np.int64]
    bins: NDArray[np.int64]
    record: NDArray[np.float64]
    """TTFT and end-to-end time by arrival [requests, 2]; no rows if not asked for."""
    control: NDArray[np.int64]


@inlined
def draw(w: World, s: int, t: float, drawn_w: float) -> None:
    """Book the energy up to `t` and draw `drawn_w` from then on."""
    w.F[s, p.F_ENERGY_J] += w.F[s, p.F_DRAWN_W] * (t - w.F[s, p.F_BOOKED_S])
    w.F[s, p.F_BOOKED_S] = t
    w.F[s, p.F_DRAWN_W] = drawn_w


@inlined
def set_end(w: World, s: int, t: float) -> None:
    """Server `s` decides next at `t`."""
    replace(w.ends_s, 0, w.ends_s.shape[0] >> 1, s, t)


@inlined
def set_load(w: World, s: int) -> None:
    """Tell the router what server `s` has to do."""
    size = w.loads.shape[0] >> 2
    outstanding, pack_to = w.I[s, p.I_OUTSTANDING], w.control[p.C_PACK_TO]
    # Below the packing level the fullest server comes first, at or above it the emptiest.
    rank = pack_to - 1 - outstanding if outstanding < pack_to else outstanding
    key = (rank << p.CHOSEN_BITS) | w.I[s, p.I_LAST_CHOSEN]
    replace(w.loads, w.I[s, p.I_PRIORITY] * 2 * size, size, s, key)


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
def steps_done(w: World, s: int, t: float) -> int:
    """How many iterations of the present decode run are complete at `t`; fewer than the run has."""
    first_s, growth_s = w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S]
    base_s, slow, remaining = w.F[s, p.F_BASE_S], w.F[s, p.F_DECODE_SLOWDOWN], w.F[s, p.F_REMAINING]
    # The root of span_s(steps) = elapsed, in the form without cancellation. It may be off by one where `t` is at the
    # end of an iteration, so it is compared with the very expression that gives the ends.
    elapsed_s = (t - base_s) / slow + (1.0 - remaining) * first_s
    b = first_s - 0.5 * growth_s
    steps = int(2.0 * elapsed_s / (b + math.sqrt(b * b + 2.0 * growth_s * elapsed_s)))
    steps = min(steps, int(w.I[s, p.I_STEPS]) - 1)
    while steps > 0 and base_s + slow * span_s(steps, first_s, growth_s, remaining) > t:
        steps -= 1
    while steps + 1 < w.I[s, p.I_STEPS] and base_s + slow * span_s(steps + 1, first_s, growth_s, remaining) <= t:
        steps += 1
    return steps


@inlined
def emit(w: World, s: int, t: float, steps: int) -> None:
    """All residents have gained a token in each of `steps` iterations, the last of which ended at `t`."""
    batch, high = w.I[s, p.I_BATCH], w.I[s, p.I_BATCH_HIGH]
    index = _bin_index((t - w.F[s, p.F_TOKEN_S]) / steps)
    w.bins[p.H_TBT, index] += (batch - high) * steps
    w.bins[p.H_TBT + 1, index] += high * steps
    w.counts[0, p.N_GENERATED] += (batch - high) * steps
    w.counts[1, p.N_GENERATED] += high * steps
    w.I[s, p.I_ITERATION] += steps
    w.I[s, p.I_CONTEXT] += batch * steps
    w.F[s, p.F_TOKEN_S] = t


@inlined
def finish(w: World, s: int, t: float, slot: int) -> None:
    """The request in `slot` has all its tokens."""
    priority, output, prompt = w.RI[slot, p.R_PRIORITY], w.RI[slot, p.R_OUTPUT], w.RI[slot, p.R_PROMPT]
    ttft_s = w.RF[slot, p.R_TTFT_S]
    e2e_s = t - w.RF[slot, p.R_ARRIVAL_S]
    index = _bin_index(e2e_s)
    w.bins[p.H_E2E + priority, index] += 1
    w.bins[p.H_HOUR_E2E + priority, index] += 1
    w.counts[priority, p.N_COMPLETED] += 1
    if ttft_s <= w.slo[priority, 0] and e2e_s - ttft_s <= w.slo[priority, 1] * (output - 1):
        w.counts[priority, p.N_GOOD] += 1
    if w.RI[slot, p.R_INDEX] < w.record.shape[0]:
        w.record[w.RI[slot, p.R_INDEX], 1] = e2e_s
    w.I[s, p.I_KV] -= prompt + output
    w.I[s, p.I_OUTSTANDING] -= 1
    w.RI[slot, p.R_NEXT] = w.control[p.C_FREE]
    w.control[p.C_FREE] = slot


@inlined
def finish_due(w: World, s: int, t: float) -> None:
    """Let go the residents that have all their tokens."""
    batch = w.I[s, p.I_BATCH]
    due = ((w.I[s, p.I_ITERATION] + 1) << p.SLOT_BITS) - 1
    while batch > 0 and w.heap[s, 0] <= due:
        slot = w.heap[s, 0] & p.SLOT_MASK
        heap_pop(w.heap, s, batch)
        batch -= 1
        w.I[s, p.I_BATCH_HIGH] -= w.RI[slot, p.R_PRIORITY]
        w.I[s, p.I_CONTEXT] -= w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT]
        finish(w, s, t, slot)
    w.I[s, p.I_BATCH] = batch


@inlined
def join_admitted(w: World, s: int, t: float) -> None:
    """A prefill has ended: its requests have their first token, and those that want more join the batch."""
    for _ in range(w.I[s, p.I_ADMITTED]):
        slot = w.I[s, p.I_HEAD]
        w.I[s, p.I_HEAD] = w.RI[slot, p.R_NEXT]
        priority, output, prompt = w.RI[slot, p.R_PRIORITY], w.RI[slot, p.R_OUTPUT], w.RI[slot, p.R_PROMPT]
        ttft_s = t - w.RF[slot, p.R_ARRIVAL_S]
        w.RF[slot, p.R_TTFT_S] = ttft_s
        w.bins[p.H_TTFT + priority, _bin_index(ttft_s)] += 1
        w.counts[priority, p.N_PROMPT] += prompt
        w.counts[priority, p.N_GENERATED] += 1
        if w.RI[slot, p.R_INDEX] < w.record.shape[0]:
            w.record[w.RI[slot, p.R_INDEX], 0] = ttft_s
        if output <= 1:
            finish(w, s, t, slot)
        else:
            heap_push(w.heap, s, w.I[s, p.I_BATCH], ((w.I[s, p.I_ITERATION] + output - 1) << p.SLOT_BITS) | slot)
            w.I[s, p.I_BATCH] += 1
            w.I[s, p.I_BATCH_HIGH] += priority
            w.I[s, p.I_CONTEXT] += prompt + 1
    w.I[s, p.I_QUEUE] -= w.I[s, p.I_ADMITTED]
    w.I[s, p.I_ADMITTED] = 0
    w.F[s, p.F_TOKEN_S] = t


@inlined
def admit(w: World, s: int) -> int:
    """Reserve room for the requests at the head of the queue that fit into the next iteration.

    Returns:
        Their prompt tokens; 0 if the first of them does not fit, which blocks those behind it.
    """
    if w.I[s, p.I_QUEUE] == 0:
        return 0
    profile = w.I[s, p.I_PROFILE]
    room = int(w.params[profile, p.P_MAX_BATCH]) - w.I[s, p.I_BATCH]
    kv_free = int(w.params[profile, p.P_KV_TOKENS]) - w.I[s, p.I_KV]
    most = int(w.params[profile, p.P_MAX_BATCH_TOKENS])
    tokens, admitted, slot = 0, 0, w.I[s, p.I_HEAD]
    while admitted < min(room, w.I[s, p.I_QUEUE]):
        prompt = w.RI[slot, p.R_PROMPT]
        need = prompt + w.RI[slot, p.R_OUTPUT]
        if need > kv_free or (admitted > 0 and tokens + prompt > most):
            break
        kv_free -= need
        tokens += prompt
        admitted += 1
        slot = w.RI[slot, p.R_NEXT]
    w.I[s, p.I_KV] = int(w.params[profile, p.P_KV_TOKENS]) - kv_free
    w.I[s, p.I_ADMITTED] = admitted
    return tokens


@inlined
def can_admit(w: World, s: int, slot: int) -> bool:
    """Whether the request in `slot`, alone in the queue, would be admitted at the end of this iteration."""
    profile = w.I[s, p.I_PROFILE]
    if w.I[s, p.I_BATCH] >= int(w.params[profile, p.P_MAX_BATCH]):
        return False
    kv_tokens = w.I[s, p.I_KV] + w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT]
    return bool(kv_tokens <= int(w.params[profile, p.P_KV_TOKENS]))


@inlined
def decode_first_s(w: World, s: int) -> float:
    """The next decode iteration at full clock."""
    row = w.I[s, p.I_PROFILE]
    first_s: float = _decode_s(
        float(w.I[s, p.I_BATCH]),
        float(w.I[s, p.I_CONTEXT]),
        w.params[row, p.P_DECODE_BASE_S],
        w.params[row, p.P_DECODE_PER_REQUEST_S],
        w.params[row, p.P_DECODE_PER_CONTEXT_S],
    )
    return first_s


@inlined
def limited(w: World, s: int, full_w: float, static_share: float, exponent: float) -> float:
    """The clock ratio at which a phase that draws `full_w` per GPU at full clock runs under clock cap and limit."""
    floor = w.params[w.I[s, p.I_PROFILE], p.P_MIN_CLOCK_RATIO]
    by_limit = _clock_ratio_at(w.F[s, p.F_GIVEN_LIMIT_W] / full_w, static_share, exponent)
    return float(min(w.F[s, p.F_CLOCK_RATIO], max(by_limit, floor)))


@inlined
def prefill_cost(w: World, s: int) -> tuple[float, float]:
    """Seconds and server watts of the present prefill iteration under the present caps."""
    row = w.I[s, p.I_PROFILE]
    tokens = float(w.I[s, p.I_TOKENS])
    slow, factor = w.F[s, p.F_PREFILL_SLOWDOWN], w.F[s, p.F_PREFILL_FACTOR]
    full_w = w.params[row, p.P_TDP_W] * _prefill_ratio(
        tokens,
        w.params[row, p.P_PREFILL_AT_128],
        w.params[row, p.P_PREFILL_PER_OCTAVE],
        w.params[row, p.P_PREFILL_CEILING],
    )
    if full_w * factor > w.F[s, p.F_GIVEN_LIMIT_W]:
        static, exponent = w.params[row, p.P_PREFILL_STATIC_SHARE], w.params[row, p.P_PREFILL_EXPONENT]
        ratio = limited(w, s, full_w, static, exponent)
        slow = _slowdown(ratio, w.params[row, p.P_PREFILL_CLOCK_SHARE])
        factor = _clock_factor(ratio, static, exponent)
    lasts_s = slow * _prefill_s(
        tokens,
        w.params[row, p.P_PREFILL_BASE_S],
        w.params[row, p.P_PREFILL_PER_TOKEN_S],
        w.params[row, p.P_PREFILL_PER_TOKEN2_S],
    )
    if w.I[s, p.I_BATCH] > 0:
        # Mixed with decodes, and never faster than these alone.
        lasts_s *= w.params[row, p.P_MIXED_BATCH_FACTOR]
        lasts_s = max(lasts_s, decode_first_s(w, s) * w.F[s, p.F_DECODE_SLOWDOWN])
    gpu_w = max(w.params[row, p.P_IDLE_W], full_w * factor)
    return lasts_s, w.params[row, p.P_OTHER_W] + w.params[row, p.P_GPUS] * gpu_w


@inlined
def decide(w: World, s: int, t: float) -> None:
    """Start the next iterations of server `s`: a prefill if a prompt may be admitted, else decodes, else nothing."""
    tokens = admit(w, s)
    w.F[s, p.F_BASE_S] = t
    w.F[s, p.F_REMAINING] = 1.0
    if w.I[s, p.I_ADMITTED] > 0:
        w.I[s, p.I_TOKENS] = tokens + w.I[s, p.I_BATCH]
        lasts_s, drawn_w = prefill_cost(w, s)
        w.F[s, p.F_FIRST_S] = lasts_s
        w.I[s, p.I_MODE] = p.PREFILL
        end_s = t + lasts_s
    elif w.I[s, p.I_BATCH] > 0:
        steps = (w.heap[s, 0] >> p.SLOT_BITS) - w.I[s, p.I_ITERATION]
        first_s = decode_first_s(w, s)
        growth_s = w.params[w.I[s, p.I_PROFILE], p.P_DECODE_PER_CONTEXT_S] * w.I[s, p.I_BATCH]
        w.F[s, p.F_FIRST_S] = first_s
        w.F[s, p.F_GROWTH_S] = growth_s
        w.I[s, p.I_STEPS] = steps
        w.I[s, p.I_MODE] = p.DECODE
        drawn_w = w.F[s, p.F_DECODE_W]
        end_s = t + w.F[s, p.F_DECODE_SLOWDOWN] * span_s(steps, first_s, growth_s, 1.0)
    else:
        w.I[s, p.I_MODE] = p.IDLE
        drawn_w = w.F[s, p.F_IDLE_W]
        end_s = np.inf
    w.I[s, p.I_BUSY] |= w.I[s, p.I_MODE]
    draw(w, s, t, drawn_w)
    set_end(w, s, end_s)


@inlined
def cut_decode(w: World, s: int, t: float) -> None:
    """End the decode run with the iteration in progress, so that a prompt can be admitted."""
    steps = steps_done(w, s, t) + 1
    if steps < w.I[s, p.I_STEPS]:
        w.I[s, p.I_STEPS] = steps
        span = span_s(steps, w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S], w.F[s, p.F_REMAINING])
        set_end(w, s, w.F[s, p.F_BASE_S] + w.F[s, p.F_DECODE_SLOWDOWN] * span)
