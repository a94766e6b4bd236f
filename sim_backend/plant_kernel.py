"""The compiled plant: a router and its serving engines in exact order of events, jumping from decision to decision.

A server decodes for many iterations in which nothing is decided; those are one event here, whose end is known in
closed form. What is decided when: arrivals, completions, the ends of prefills, changes of a cap, and the steps of
limiters that have something to watch.
"""

import numpy as np
from numpy.typing import NDArray

from sim_backend import params as p
from sim_backend.compiled import compiled, inlined
from sim_backend.engine_kernel import (
    can_admit,
    cut_decode,
    decide,
    emit,
    finish_due,
    join_admitted,
    recap,
    set_load,
)
from sim_backend.winner_tree_kernel import replay
from sim_backend.world_kernel import RowsOf, World

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shorts = NDArray[np.int32]

NOWHERE = -1
LARGEST_FALL = 0.75
"""Of the clock in one step of a limiter, so that a great excess is not answered by a fall to the bottom."""


@inlined
def route(w: World, priority: int, need: int) -> int:
    """The server of `priority` that the router ranks first (`set_load`), of equals the one not chosen for longest.

    Returns:
        NOWHERE if no server may ever hold the `need` tokens of the request.
    """
    size = len(w.loads) >> 1
    best = int(w.loads_won[priority * size + 1])
    if w.loads[priority * size + best] == p.NEVER:
        priority = 1 - priority
        best = int(w.loads_won[priority * size + 1])
    if need <= w.params[w.servers[best].profile].kv_tokens:
        return best
    # Rare: too long for this kind of server, so look among those that can hold it.
    best = NOWHERE
    key = p.NEVER
    for s in range(len(w.servers)):
        candidate = w.loads[priority * size + s]
        if candidate < key and need <= w.params[w.servers[s].profile].kv_tokens:
            best, key = s, candidate
    return best


@inlined
def arrive(w: World, t: float, prompt: int, output: int, priority: int) -> int:
    """One request arrives and is given to a server, or rejected; or nothing happens, for want of room."""
    slot = w.control[p.C_FREE]
    if slot < 0:
        return p.POOL_FULL
    s = route(w, priority, prompt + output)
    if s >= 0 and w.heap.shape[1] <= min(w.servers[s].outstanding, w.params[w.servers[s].profile].max_batch):
        return p.HEAP_FULL
    index = w.control[p.C_INDEX]
    w.control[p.C_INDEX] = index + 1
    w.counts[priority, p.N_ARRIVED] += 1
    if s < 0:
        w.counts[priority, p.N_REJECTED] += 1
        return p.REACHED
    server, request = w.servers[s], w.requests[slot]
    w.control[p.C_FREE] = request.behind
    request.arrival_s = t
    request.prompt = prompt
    request.output = output
    request.priority = priority
    if len(w.indices) > 0:
        w.indices[slot] = index
    server.outstanding += 1
    server.last_chosen = w.control[p.C_CHOSEN]
    w.control[p.C_CHOSEN] += 1
    set_load(w, s, server)
    queue = server.queue
    if queue == 0:
        server.head = slot
    else:
        w.requests[server.tail].behind = slot
    server.tail = slot
    server.queue = queue + 1
    if server.mode == p.IDLE:
        decide(w, s, server, t)
    elif server.mode == p.DECODE and queue == 0 and can_admit(w.params[server.profile], server, prompt + output):
        # With a queue the run is cut already, or its head waits for a completion, and so must this one.
        cut_decode(w, s, server, t)
    return p.REACHED


@inlined
def end_iterations(w: World, s: int, t: float) -> None:
    """The present prefill or run of decodes of server `s` ends at `t`."""
    server = w.servers[s]
    outstanding = server.outstanding
    if server.mode == p.DECODE:
        emit(w, server, t, server.steps)
        finish_due(w, s, server, t)
    else:
        if server.batch > 0:
            emit(w, server, t, 1)
            finish_due(w, s, server, t)
        join_admitted(w, s, server, t)
    if server.outstanding != outstanding:
        set_load(w, s, server)
    decide(w, s, server, t)


@inlined
def regulate(w: World, t: float) -> None:
    """One step of every limiter: the mean draw since the last one, held against the limit, moves the clock.

    An integral controller: what a limit was exceeded by is what the clock has been lowered for, so that the mean over
    many steps is the limit, whatever the load, unless the clock is at one of its ends. It scales the clock: what that
    does to the draw is unknown to it, but hardly more than the third power, for which its gain is still low enough.
    """
    changed = False
    for s in range(len(w.limiters)):
        limiter = w.limiters[s]
        # A mean over next to no time is noise: a limit that came just now waits for the step after this one.
        if not limiter.limit_w < np.inf or t - limiter.since_s < 0.5 * p.TICK_S:
            continue
        server = w.servers[s]
        params = w.params[server.profile]
        booked_j = server.energy_j + server.drawn_w * (t - server.booked_s)
        drawn_j, elapsed_s = booked_j - limiter.mark_j, t - limiter.since_s
        limiter.mark_j = booked_j
        limiter.since_s = t
        highest = limiter.highest_idle if server.mode == p.IDLE else limiter.highest
        if limiter.clock_ratio == highest and drawn_j <= (params.other_w + params.gpus * limiter.limit_w) * elapsed_s:
            # By far the most frequent case, without a division.
            continue
        gpu_w = (drawn_j / elapsed_s - params.other_w) / params.gpus
        excess = (gpu_w - limiter.limit_w) / limiter.limit_w
        clock_ratio = limiter.clock_ratio
        if excess > 0.0:
            # Above a clock cap there is nothing to take away.
            clock_ratio = min(clock_ratio, server.clock_ratio)
        clock_ratio *= max(1.0 - params.limiter_gain * excess, LARGEST_FALL)
        clock_ratio = max(min(clock_ratio, highest), params.min_clock_ratio)
        if clock_ratio != limiter.clock_ratio:
            limiter.clock_ratio = clock_ratio
            recap(w, s, t, server.given_clock_ratio, server.given_limit_w)
            changed = True
    if changed:
        replay(w.ends_s, w.ends_won)


@inlined
def run_until(
    w: World,
    until_s: float,
    arrival_s: Floats,
    prompt: Shorts,
    output: Shorts,
    priority: NDArray[np.int8],
) -> int:
    """Let all events up to and at `until_s` happen: servers, then limiters, then arrivals of the same time."""
    while True:
        cursor = w.control[p.C_CURSOR]
        if cursor < len(arrival_s):
            next_s = arrival_s[cursor]
        elif w.control[p.C_LAST]:
            next_s = np.inf
        else:
            return p.NEEDS_ARRIVALS
        tick_s = w.control[p.C_TICK] * p.TICK_S if w.control[p.C_LIMITED] > 0 else np.inf
        first_s = min(next_s, until_s, tick_s)
        while True:
            s = int(w.ends_won[1])
            end_s = w.ends_s[s]
            if end_s > first_s:
                break
            end_iterations(w, s, end_s)
        if tick_s <= first_s:
            regulate(w, tick_s)
            w.control[p.C_TICK] += 1
            continue
        if next_s > until_s:
            return p.REACHED
        outcome = arrive(w, next_s, prompt[cursor], output[cursor], priority[cursor])
        if outcome != p.REACHED:
            return outcome
        w.control[p.C_CURSOR] = cursor + 1


@inlined
def forget_busy(servers: RowsOf[p.Server], control: Ints) -> None:
    """After a take, `busy` tells of the time since then."""
    if control[p.C_TAKEN]:
        control[p.C_TAKEN] = 0
        for s in range(len(servers)):
            servers[s].busy = servers[s].mode


@inlined
def take(
    now_s: float,
    since_s: float,
    mean_w: Floats,
    servers: RowsOf[p.Server],
    limiters: RowsOf[p.Limiter],
    control: Ints,
) -> None:
    """Write the mean watts of each server between `since_s` and `now_s`, and begin anew."""
    watched = control[p.C_LIMITED] > 0
    for s in range(len(servers)):
        server = servers[s]
        energy_j = server.energy_j + server.drawn_w * (now_s - server.booked_s)
        if watched:
            limiters[s].mark_j -= energy_j
        server.energy_j = 0.0
        server.booked_s = now_s
        mean_w[s] = energy_j / (now_s - since_s)
    control[p.C_TAKEN] = 1


@inlined
def recap_changed(w: World, now_s: float, clock_ratio: Floats, limit_w: Floats) -> None:
    """Give every server its caps; one whose caps stay as they are is left alone."""
    changed = False
    for s in range(len(w.servers)):
        server = w.servers[s]
        if clock_ratio[s] != server.given_clock_ratio or limit_w[s] != server.given_limit_w:
            recap(w, s, now_s, clock_ratio[s], limit_w[s])
            changed = True
    if changed:
        replay(w.ends_s, w.ends_won)


# The entries. Numba pays per argument, so a World is put together on the inside, where it costs nothing.


@compiled
def advance(
    until_s: float,
    arrival_s: Floats,
    prompt: Shorts,
    output: Shorts,
    priority: NDArray[np.int8],
    servers: RowsOf[p.Server],
    limiters: RowsOf[p.Limiter],
    requests: RowsOf[p.Request],
    indices: Ints,
    heap: Ints,
    ends_s: Floats,
    ends_won: Shorts,
    loads: Ints,
    loads_won: Shorts,
    params: RowsOf[p.Params],
    tables: Floats,
    slo: Floats,
    counts: Ints,
    bins: Ints,
    record: Floats,
    control: Ints,
) -> int:
    """Advance to `until_s`; returns early, to be called again, when arrivals or room for requests run out."""
    w = World(
        servers,
        limiters,
        requests,
        indices,
        heap,
        ends_s,
        ends_won,
        loads,
        loads_won,
        params,
        tables,
        slo,
        counts,
        bins,
        record,
        control,
    )
    forget_busy(w.servers, control)
    return run_until(w, until_s, arrival_s, prompt, output, priority)


@compiled
def set_caps(
    now_s: float,
    clock_ratio: Floats,
    limit_w: Floats,
    servers: RowsOf[p.Server],
    limiters: RowsOf[p.Limiter],
    requests: RowsOf[p.Request],
    indices: Ints,
    heap: Ints,
    ends_s: Floats,
    ends_won: Shorts,
    loads: Ints,
    loads_won: Shorts,
    params: RowsOf[p.Params],
    tables: Floats,
    slo: Floats,
    counts: Ints,
    bins: Ints,
    record: Floats,
    control: Ints,
) -> None:
    """Give every server its caps at `now_s`."""
    w = World(
        servers,
        limiters,
        requests,
        indices,
        heap,
        ends_s,
        ends_won,
        loads,
        loads_won,
        params,
        tables,
        slo,
        counts,
        bins,
        record,
        control,
    )
    recap_changed(w, now_s, clock_ratio, limit_w)


@compiled
def take_mean_w(
    now_s: float,
    since_s: float,
    mean_w: Floats,
    servers: RowsOf[p.Server],
    limiters: RowsOf[p.Limiter],
    control: Ints,
) -> None:
    """Write the mean watts of each server between `since_s` and `now_s`, and begin anew."""
    take(now_s, since_s, mean_w, servers, limiters, control)


@compiled
def run_schedule(
    start_s: float,
    clock_ratio: Floats,
    limit_w: Floats,
    mean_w: Floats,
    arrival_s: Floats,
    prompt: Shorts,
    output: Shorts,
    priority: NDArray[np.int8],
    servers: RowsOf[p.Server],
    limiters: RowsOf[p.Limiter],
    requests: RowsOf[p.Request],
    indices: Ints,
    heap: Ints,
    ends_s: Floats,
    ends_won: Shorts,
    loads: Ints,
    loads_won: Shorts,
    params: RowsOf[p.Params],
    tables: Floats,
    slo: Floats,
    counts: Ints,
    bins: Ints,
    record: Floats,
    control: Ints,
) -> int:
    """Steps of one second from `start_s` under clock caps [steps, servers]; goes on at the step where it returned."""
    w = World(
        servers,
        limiters,
        requests,
        indices,
        heap,
        ends_s,
        ends_won,
        loads,
        loads_won,
        params,
        tables,
        slo,
        counts,
        bins,
        record,
        control,
    )
    for step in range(control[p.C_STEP], clock_ratio.shape[0]):
        control[p.C_STEP] = step
        now_s = start_s + step
        # After an early return this finds the caps of the step in force already.
        recap_changed(w, now_s, clock_ratio[step], limit_w)
        forget_busy(w.servers, control)
        outcome = run_until(w, now_s + 1.0, arrival_s, prompt, output, priority)
        if outcome != p.REACHED:
            return outcome
        take(now_s + 1.0, now_s, mean_w[step], w.servers, w.limiters, control)
    return p.REACHED
