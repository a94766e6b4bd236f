"""The compiled pools: arrivals, iterations and transfers in exact order, jumping from decision to decision."""

import numpy as np
from numpy.typing import NDArray

from sim_backend.compiled import compiled, inlined
from sim_backend.pools import layout as p
from sim_backend.pools.chunk_kernel import come, complete_chunked, run_chunked
from sim_backend.pools.cost_kernel import adopt_caps, book, set_cost, span, steps_done
from sim_backend.pools.life_kernel import emit, received, try_send
from sim_backend.pools.route_kernel import admit
from sim_backend.pools.whole_kernel import arrive_whole, complete_whole, run_whole, sent_whole
from sim_backend.pools.world_kernel import Floats, World, least, pop, set_end

SLACK = 16
"""Events, or list entries, that one event may add beside one for each member of a batch."""
Sizes = NDArray[np.int32]


@compiled
def recap(w: World, s: int, t: float, clock_ratio: float, limit_w: float) -> None:
    """New caps act at once: what is left of the iteration in progress takes its share of the new duration."""
    book(w, s, t)
    if w.I[s, p.I_MODE] == p.IDLE:
        adopt_caps(w, s, clock_ratio, limit_w)
        return
    base_s, remaining = w.F[s, p.F_BASE_S], w.F[s, p.F_REMAINING]
    steps = steps_done(w, s, t)
    first_s = w.F[s, p.F_FIRST_S]
    if steps > 0:
        base_s += span(steps, first_s, w.F[s, p.F_GROWTH_S], remaining)
        first_s += w.F[s, p.F_GROWTH_S] * steps
        emit(w, s, base_s, steps)
        w.I[s, p.I_STEPS] -= steps
        remaining = 1.0
    adopt_caps(w, s, clock_ratio, limit_w)
    remaining = max(remaining - (t - base_s) / first_s, 0.0)
    w.F[s, p.F_BASE_S] = t
    w.F[s, p.F_REMAINING] = remaining
    w.F[s, p.F_RUN_J] = 0.0
    holds = set_cost(w, s)
    w.I[s, p.I_STEPS] = min(w.I[s, p.I_STEPS], holds)
    set_end(w, s, t + span(w.I[s, p.I_STEPS], w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S], remaining))


@inlined
def crowded(w: World) -> int:
    """What has to grow before the next event may happen; 0: nothing."""
    room = w.batch.shape[1] + SLACK
    if w.control[p.C_HEAP] + room > w.event.shape[0]:
        return p.HEAP_FULL
    if w.control[p.C_BATCHING] == 0 and w.control[p.C_LONGEST] + room > w.lists.shape[2]:
        return p.LISTS_FULL
    return p.POOL_FULL if w.control[p.C_FREE] < 0 else 0


@inlined
def next_of_heap(w: World, until_s: float) -> tuple[float, int]:
    """The next event where all of them lie in the heap; -1: none until then."""
    while w.control[p.C_HEAP] > 0 and w.event_s[0] <= until_s:
        t = w.event_s[0]
        what = pop(w)
        version = what >> p.VERSION_SHIFT
        what &= (1 << p.VERSION_SHIFT) - 1
        if what >> p.ID_BITS != p.E_ITERATION or w.I[what & p.ID_MASK, p.I_VERSION] == version:
            return t, what
    return until_s, -1


@inlined
def next_of_queues(w: World, until_s: float, arrival_s: Floats) -> tuple[float, int]:
    """The next event: ends of iterations before transfers before arrivals; -1: none until then, -2: none known."""
    cursor = w.control[p.C_CURSOR]
    if cursor < len(arrival_s):
        next_s = arrival_s[cursor]
    elif w.control[p.C_LAST]:
        next_s = np.inf
    else:
        return until_s, -2
    sent_s = w.event_s[0] if w.control[p.C_HEAP] > 0 else np.inf
    end_s = w.ends_s[1]
    if min(end_s, sent_s, next_s) > until_s or min(end_s, sent_s, next_s) == np.inf:
        return until_s, -1
    if end_s <= min(sent_s, next_s):
        return end_s, (p.E_ITERATION << p.ID_BITS) | least(w.ends_s)
    if sent_s <= next_s:
        return sent_s, pop(w)
    w.control[p.C_CURSOR] = cursor + 1
    return next_s, (p.E_ARRIVAL << p.ID_BITS) | cursor


@inlined
def happen_whole(w: World, kind: int, which: int, t: float) -> None:
    """What an event does under "whole_prompts"; an arrival is a request by then."""
    if kind == p.E_ITERATION:
        complete_whole(w, which, t)
        run_whole(w, which, t)
        return
    source, goal = w.RI[which, p.R_SOURCE], w.RI[which, p.R_GOAL]
    if kind == p.E_ARRIVAL:
        arrive_whole(w, source, which << 1, t)
        if goal == source:
            arrive_whole(w, source, (which << 1) | 1, t)
    elif kind == p.E_SENT:
        received(w, which)
        arrive_whole(w, goal, (which << 1) | 1, t)
        sent_whole(w, source, t)
    else:
        try_send(w, which, t)


@inlined
def happen_chunked(w: World, kind: int, which: int, t: float) -> None:
    """What an event does under "chunked"; an arrival is a request by then."""
    wake, then = -1, -1
    if kind == p.E_ITERATION:
        complete_chunked(w, which, t)
        wake = which
    elif kind == p.E_ARRIVAL:
        if come(w, w.RI[which, p.R_SOURCE], which, t):
            wake = w.RI[which, p.R_SOURCE]
    else:
        source, goal = w.RI[which, p.R_SOURCE], w.RI[which, p.R_GOAL]
        received(w, which)
        if w.I[source, p.I_MODE] == p.IDLE and w.I[source, p.I_QUEUE] > 0:
            then = source
        if come(w, goal, which, t):
            wake = goal
        else:
            wake, then = then, -1
    while wake >= 0:
        run_chunked(w, wake, t)
        wake, then = then, -1


@compiled
def run_until(
    w: World, until_s: float, arrival_s: Floats, prompt: Sizes, output: Sizes, priority: NDArray[np.int8]
) -> int:
    """Let all events up to and at `until_s` happen; returns early when arrivals or room run out."""
    while True:
        outcome = crowded(w)
        if outcome != 0:
            return outcome
        if w.control[p.C_EVENTS] == 0:
            t, what = next_of_heap(w, until_s)
        else:
            t, what = next_of_queues(w, until_s, arrival_s)
        if what < 0:
            return p.REACHED if what == -1 else p.NEEDS_ARRIVALS
        w.control[p.C_COUNT] += 1
        w.real[p.X_LAST_S] = t
        kind, which = what >> p.ID_BITS, what & p.ID_MASK
        if kind == p.E_ARRIVAL:
            which = admit(w, t, which, prompt[which], output[which], priority[which])
            if which < 0:
                continue
        if w.control[p.C_BATCHING] == 0:
            happen_whole(w, kind, which, t)
            if w.control[p.C_FAILED]:
                return p.FAILED
        else:
            happen_chunked(w, kind, which, t)


@inlined
def forget_busy(w: World) -> None:
    """After a take, `busy` tells of the time since then."""
    if w.control[p.C_TAKEN]:
        w.control[p.C_TAKEN] = 0
        for s in range(w.I.shape[0]):
            w.I[s, p.I_BUSY] = min(w.I[s, p.I_MODE], 1)


@inlined
def take(w: World, now_s: float, since_s: float, mean_w: Floats) -> None:
    """Write the mean watts of each server between `since_s` and `now_s`, and begin anew."""
    for s in range(w.F.shape[0]):
        book(w, s, now_s)
        mean_w[s] = w.F[s, p.F_ENERGY_J] / (now_s - since_s)
        w.F[s, p.F_ENERGY_J] = 0.0
    w.control[p.C_TAKEN] = 1


@inlined
def recap_changed(w: World, now_s: float, clock_ratio: Floats, limit_w: Floats) -> None:
    """Give every server its caps; one whose caps stay as they are is left alone."""
    for s in range(w.I.shape[0]):
        if clock_ratio[s] != w.F[s, p.F_GIVEN_CLOCK_RATIO] or limit_w[s] != w.F[s, p.F_GIVEN_LIMIT_W]:
            recap(w, s, now_s, clock_ratio[s], limit_w[s])


# The entries.


@compiled
def advance(
    w: World, until_s: float, arrival_s: Floats, prompt: Sizes, output: Sizes, priority: NDArray[np.int8]
) -> int:
    """Advance to `until_s`; returns early, to be called again, when arrivals or room run out."""
    forget_busy(w)
    return run_until(w, until_s, arrival_s, prompt, output, priority)


@compiled
def set_caps(w: World, now_s: float, clock_ratio: Floats, limit_w: Floats) -> None:
    """Give every server its caps at `now_s`."""
    recap_changed(w, now_s, clock_ratio, limit_w)


@compiled
def take_mean_w(w: World, now_s: float, since_s: float, mean_w: Floats) -> None:
    """Write the mean watts of each server between `since_s` and `now_s`, and begin anew."""
    take(w, now_s, since_s, mean_w)


@compiled
def run_schedule(
    w: World,
    start_s: float,
    clock_ratio: Floats,
    limit_w: Floats,
    mean_w: Floats,
    arrival_s: Floats,
    prompt: Sizes,
    output: Sizes,
    priority: NDArray[np.int8],
) -> int:
    """Steps of one second from `start_s` under clock caps [steps, servers]; goes on at the step where it returned."""
    for step in range(w.control[p.C_STEP], clock_ratio.shape[0]):
        w.control[p.C_STEP] = step
        now_s = start_s + step
        # After an early return this finds the caps of the step in force already.
        recap_changed(w, now_s, clock_ratio[step], limit_w)
        forget_busy(w)
        outcome = run_until(w, now_s + 1.0, arrival_s, prompt, output, priority)
        if outcome != p.REACHED:
            return outcome
        take(w, now_s + 1.0, now_s, mean_w[step])
    return p.REACHED
