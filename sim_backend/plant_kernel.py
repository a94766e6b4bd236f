"""The compiled plant: a router and its serving engines in exact order of events, jumping from decision to decision.

A server decodes for many iterations in which nothing is decided; those are one event here, whose end is known in
closed form. What is decided when: arrivals, completions, the ends of prefills, and changes of a cap.
"""

import numpy as np
from numpy.typing import NDArray

from policies.models import gpu_power, latency
from sim_backend import params as p
from sim_backend.compiled import compiled, inlined
from sim_backend.engine_kernel import (
    World,
    can_admit,
    cut_decode,
    decide,
    decode_first_s,
    draw,
    emit,
    finish_due,
    join_admitted,
    limited,
    prefill_cost,
    set_end,
    set_load,
    span_s,
    steps_done,
)
from sim_backend.winner_tree_kernel import least

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_slowdown = inlined(latency.slowdown)
_clock_factor = inlined(gpu_power.clock_factor)


@inlined
def adopt_caps(w: World, s: int, clock_ratio: float, limit_w: float) -> None:
    """Work out once what clock cap and power limit mean for speed and power of server `s`."""
    row = w.I[s, p.I_PROFILE]
    floor = w.params[row, p.P_MIN_CLOCK_RATIO]
    w.F[s, p.F_GIVEN_CLOCK_RATIO] = clock_ratio
    w.F[s, p.F_GIVEN_LIMIT_W] = limit_w
    # In this order a clock that is no number becomes the lowest.
    clock_ratio = min(clock_ratio if clock_ratio > floor else floor, 1.0)
    w.F[s, p.F_CLOCK_RATIO] = clock_ratio
    w.F[s, p.F_PREFILL_SLOWDOWN] = _slowdown(clock_ratio, w.params[row, p.P_PREFILL_CLOCK_SHARE])
    static, exponent = w.params[row, p.P_PREFILL_STATIC_SHARE], w.params[row, p.P_PREFILL_EXPONENT]
    w.F[s, p.F_PREFILL_FACTOR] = _clock_factor(clock_ratio, static, exponent)
    static, exponent = w.params[row, p.P_DECODE_STATIC_SHARE], w.params[row, p.P_DECODE_EXPONENT]
    full_w = w.params[row, p.P_DECODE_RATIO] * w.params[row, p.P_TDP_W]
    if limit_w < full_w:
        clock_ratio = limited(w, s, full_w, static, exponent)
    w.F[s, p.F_DECODE_CLOCK_RATIO] = clock_ratio
    w.F[s, p.F_DECODE_SLOWDOWN] = _slowdown(clock_ratio, w.params[row, p.P_DECODE_CLOCK_SHARE])
    gpu_w = max(w.params[row, p.P_IDLE_W], full_w * _clock_factor(clock_ratio, static, exponent))
    w.F[s, p.F_DECODE_W] = w.params[row, p.P_OTHER_W] + w.params[row, p.P_GPUS] * gpu_w


@inlined
def recap(w: World, s: int, t: float, clock_ratio: float, limit_w: float) -> None:
    """New caps act at once: what is left of the iteration in progress takes its share of the new duration."""
    mode, base_s, remaining = w.I[s, p.I_MODE], w.F[s, p.F_BASE_S], w.F[s, p.F_REMAINING]
    iteration_s = w.F[s, p.F_FIRST_S]
    if mode == p.DECODE:
        slow = w.F[s, p.F_DECODE_SLOWDOWN]
        steps = steps_done(w, s, t)
        if steps > 0:
            base_s += slow * span_s(steps, iteration_s, w.F[s, p.F_GROWTH_S], remaining)
            emit(w, s, base_s, steps)
            w.I[s, p.I_STEPS] -= steps
            remaining = 1.0
            w.F[s, p.F_FIRST_S] = decode_first_s(w, s)
        iteration_s = slow * w.F[s, p.F_FIRST_S]
    adopt_caps(w, s, clock_ratio, limit_w)
    if mode == p.IDLE:
        return
    remaining = max(remaining - (t - base_s) / iteration_s, 0.0)
    w.F[s, p.F_BASE_S] = t
    w.F[s, p.F_REMAINING] = remaining
    if mode == p.DECODE:
        drawn_w = w.F[s, p.F_DECODE_W]
        span = span_s(w.I[s, p.I_STEPS], w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S], remaining)
        lasts_s = w.F[s, p.F_DECODE_SLOWDOWN] * span
    else:
        iteration_s, drawn_w = prefill_cost(w, s)
        w.F[s, p.F_FIRST_S] = iteration_s
        lasts_s = remaining * iteration_s
    draw(w, s, t, drawn_w)
    set_end(w, s, t + lasts_s)


@inlined
def route(w: World, priority: int, need: int) -> int:
    """The server of `priority` that the router ranks first (`set_load`), of equals the one not chosen for longest.

    Returns:
        -1 if no server may ever hold the `need` tokens of the request.
    """
    size = w.loads.shape[0] >> 2
    if w.loads[priority * 2 * size + 1] == p.NEVER:
        priority = 1 - priority
    base = priority * 2 * size
    best = least(w.loads, base, size)
    if need <= w.params[w.I[best, p.I_PROFILE], p.P_KV_TOKENS]:
        return best
    # Rare: too long for this kind of server, so look among those that can hold it.
    best = -1
    key = p.NEVER
    for s in range(w.I.shape[0]):
        candidate = w.loads[base + size + s]
        if candidate < key and need <= w.params[w.I[s, p.I_PROFILE], p.P_KV_TOKENS]:
            best, key = s, candidate
    return best


@inlined
def arrive(w: World, t: float, prompt: int, output: int, priority: int) -> None:
    """One request arrives and is given to a server, or rejected."""
    index = w.control[p.C_INDEX]
    w.control[p.C_INDEX] = index + 1
    w.counts[priority, p.N_ARRIVED] += 1
    s = route(w, priority, prompt + output)
    if s < 0:
        w.counts[priority, p.N_REJECTED] += 1
        return
    slot = w.control[p.C_FREE]
    w.control[p.C_FREE] = w.RI[slot, p.R_NEXT]
    w.RF[slot, p.R_ARRIVAL_S] = t
    w.RI[slot, p.R_PROMPT] = prompt
    w.RI[slot, p.R_OUTPUT] = output
    w.RI[slot, p.R_PRIORITY] = priority
    w.RI[slot, p.R_INDEX] = index
    w.I[s, p.I_OUTSTANDING] += 1
    w.I[s, p.I_LAST_CHOSEN] = w.control[p.C_CHOSEN]
    w.control[p.C_CHOSEN] += 1
    set_load(w, s)
    queue = w.I[s, p.I_QUEUE]
    if queue == 0:
        w.I[s, p.I_HEAD] = slot
    else:
        w.RI[w.I[s, p.I_TAIL], p.R_NEXT] = slot
    w.I[s, p.I_TAIL] = slot
    w.I[s, p.I_QUEUE] = queue + 1
    if w.I[s, p.I_MODE] == p.IDLE:
        decide(w, s, t)
    elif w.I[s, p.I_MODE] == p.DECODE and queue == 0 and can_admit(w, s, slot):
        # With a queue the run is cut already, or its head waits for a completion, and so must this one.
        cut_decode(w, s, t)


@inlined
def end_iterations(w: World, s: int, t: float) -> None:
    """The present prefill or run of decodes of server `s` ends at `t`."""
    outstanding = w.I[s, p.I_OUTSTANDING]
    if w.I[s, p.I_MODE] == p.DECODE:
        emit(w, s, t, w.I[s, p.I_STEPS])
        finish_due(w, s, t)
    else:
        if w.I[s, p.I_BATCH] > 0:
            emit(w, s, t, 1)
            finish_due(w, s, t)
        join_admitted(w, s, t)
    if w.I[s, p.I_OUTSTANDING] != outstanding:
        set_load(w, s)
    decide(w, s, t)


@inlined
def run_until(
    w: World,
    until_s: float,
    arrival_s: Floats,
    prompt: NDArray[np.int32],
    output: NDArray[np.int32],
    priority: NDArray[np.int8],
) -> int:
    """Let all events up to and at `until_s` happen, servers before arrivals of the same time."""
    while True:
        cursor = w.control[p.C_CURSOR]
        if cursor < len(arrival_s):
            next_s = arrival_s[cursor]
        elif w.control[p.C_LAST]:
            next_s = np.inf
        else:
            return p.NEEDS_ARRIVALS
        while w.ends_s[1] <= min(next_s, until_s):
            end_iterations(w, least(w.ends_s, 0, w.ends_s.shape[0] >> 1), w.ends_s[1])
        if next_s > until_s:
            return p.REACHED
        if w.control[p.C_FREE] < 0:
            return p.POOL_FULL
        arrive(w, next_s, prompt[cursor], output[cursor], priority[cursor])
        w.control[p.C_CURSOR] = cursor + 1


@inlined
def forget_busy(I: Ints, control: Ints) -> None:  # noqa: E741
    """After a take, `busy` tells of the time since then."""
    if control[p.C_TAKEN]:
        control[p.C_TAKEN] = 0
        for s in range(I.shape[0]):
            I[s, p.I_BUSY] = I[s, p.I_MODE]


@inlined
def take(now_s: float, since_s: float, mean_w: Floats, F: Floats, control: Ints) -> None:
    """Write the mean watts of each server between `since_s` and `now_s`, and begin anew."""
    for s in range(F.shape[0]):
        energy_j = F[s, p.F_ENERGY_J] + F[s, p.F_DRAWN_W] * (now_s - F[s, p.F_BOOKED_S])
        F[s, p.F_ENERGY_J] = 0.0
        F[s, p.F_BOOKED_S] = now_s
        mean_w[s] = energy_j / (now_s - since_s)
    control[p.C_TAKEN] = 1


@inlined
def recap_changed(w: World, now_s: float, clock_ratio: Floats, limit_w: Floats) -> None:
    """Give every server its caps; one whose caps stay as they are is left alone."""
    for s in range(w.I.shape[0]):
        if clock_ratio[s] != w.F[s, p.F_GIVEN_CLOCK_RATIO] or limit_w[s] != w.F[s, p.F_GIVEN_LIMIT_W]:
            recap(w, s, now_s, clock_ratio[s], limit_w[s])


# The entries. Numba pays per argument, so a World is put together on the inside, where it costs nothing.


@compiled
def advance(
    until_s: float,
    arrival_s: Floats,
    prompt: NDArray[np.int32],
    output: NDArray[np.int32],
    priority: NDArray[np.int8],
    F: Floats,
    I: Ints,  # noqa: E741
    RF: Floats,
    RI: Ints,
    heap: Ints,
    ends_s: Floats,
    loads: Ints,
    params: Floats,
    slo: Floats,
    counts: Ints,
    bins: Ints,
    record: Floats,
    control: Ints,
) -> int:
    """Advance to `until_s`; returns early, to be called again, when arrivals or room for requests run out."""
    w = World(F, I, RF, RI, heap, ends_s, loads, params, slo, counts, bins, record, control)
    forget_busy(I, control)
    return run_until(w, until_s, arrival_s, prompt, output, priority)


@compiled
def set_caps(
    now_s: float,
    clock_ratio: Floats,
    limit_w: Floats,
    F: Floats,
    I: Ints,  # noqa: E741
    RF: Floats,
    RI: Ints,
    heap: Ints,
    ends_s: Floats,
    loads: Ints,
    params: Floats,
    slo: Floats,
    counts: Ints,
    bins: Ints,
    record: Floats,
    control: Ints,
) -> None:
    """Give every server its caps at `now_s`."""
    w = World(F, I, RF, RI, heap, ends_s, loads, params, slo, counts, bins, record, control)
    recap_changed(w, now_s, clock_ratio, limit_w)


@compiled
def take_mean_w(now_s: float, since_s: float, mean_w: Floats, F: Floats, control: Ints) -> None:
    """Write the mean watts of each server between `since_s` and `now_s`, and begin anew."""
    take(now_s, since_s, mean_w, F, control)


@compiled
def run_schedule(
    start_s: float,
    clock_ratio: Floats,
    limit_w: Floats,
    mean_w: Floats,
    arrival_s: Floats,
    prompt: NDArray[np.int32],
    output: NDArray[np.int32],
    priority: NDArray[np.int8],
    F: Floats,
    I: Ints,  # noqa: E741
    RF: Floats,
    RI: Ints,
    heap: Ints,
    ends_s: Floats,
    loads: Ints,
    params: Floats,
    slo: Floats,
    counts: Ints,
    bins: Ints,
    record: Floats,
    control: Ints,
) -> int:
    """Steps of one second from `start_s` under clock caps [steps, servers]; goes on at the step where it returned."""
    w = World(F, I, RF, RI, heap, ends_s, loads, params, slo, counts, bins, record, control)
    for step in range(control[p.C_STEP], clock_ratio.shape[0]):
        control[p.C_STEP] = step
        now_s = start_s + step
        # After an early return this finds the caps of the step in force already.
        recap_changed(w, now_s, clock_ratio[step], limit_w)
        forget_busy(I, control)
        outcome = run_until(w, now_s + 1.0, arrival_s, prompt, output, priority)
        if outcome != p.REACHED:
            return outcome
        take(now_s + 1.0, now_s, mean_w[step], F, control)
    return p.REACHED
