"""Whole prompts before decodes, which they push out: the batches of Splitwise's simulator, rule by rule.

A request's prefill and its decode are two works, 2 * slot and 2 * slot + 1, that wait and run on their own.
"""

import math

import numpy as np

from sim_backend.compiled import compiled, inlined
from sim_backend.pools import layout as p
from sim_backend.pools.cost_kernel import MANY_STEPS, book, book_run, decodes, set_cost, span, steps_done
from sim_backend.pools.life_kernel import (
    count_late,
    emit,
    finish,
    first_token,
    join,
    leave,
    send,
    send_waiting,
    take_ended,
)
from sim_backend.pools.world_kernel import World, set_end, set_load


@compiled
def insert(w: World, which: int, count: int, s: int, place: int, value: int) -> None:
    """Put `value` into a list of server `s`, whose length lies in word `count`."""
    end = w.I[s, count]
    while end > place:
        w.lists[which, s, end] = w.lists[which, s, end - 1]
        end -= 1
    w.lists[which, s, place] = value
    w.I[s, count] += 1
    w.control[p.C_LONGEST] = max(w.control[p.C_LONGEST], w.I[s, count])


@compiled
def remove(w: World, which: int, count: int, s: int, value: int) -> None:
    """Take `value`, where it is there, out of a list of server `s`."""
    end = w.I[s, count]
    place = 0
    while place < end and w.lists[which, s, place] != value:
        place += 1
    if place < end:
        for moved in range(place + 1, end):
            w.lists[which, s, moved - 1] = w.lists[which, s, moved]
        w.I[s, count] = end - 1


@compiled
def enqueue(w: World, s: int, work: int) -> None:
    """A work waits, by how often it was passed over, then by arrival.

    Its place is the one that `bisect` finds in a list whose counts may have changed since it was sorted.
    """
    slot = work >> 1
    passed, arrival_s = w.RI[slot, p.R_PASSED + (work & 1)], w.RF[slot, p.R_ARRIVAL_S]
    low, high = 0, w.I[s, p.I_PENDING]
    while low < high:
        middle = (low + high) >> 1
        other = w.lists[p.L_PENDING, s, middle]
        other_passed = w.RI[other >> 1, p.R_PASSED + (other & 1)]
        if passed < other_passed or (passed == other_passed and arrival_s < w.RF[other >> 1, p.R_ARRIVAL_S]):
            high = middle
        else:
            low = middle + 1
    insert(w, p.L_PENDING, p.I_PENDING, s, low, work)
    if work & 1 == 0:
        insert(w, p.L_PROMPTS, p.I_PENDING_PROMPTS, s, w.I[s, p.I_PENDING_PROMPTS], work)


@inlined
def enlist(w: World, s: int, slot: int) -> None:
    """A request is one of those with work on server `s`, in order of arrival."""
    low, high = 0, w.I[s, p.I_JOBS]
    while low < high:
        middle = (low + high) >> 1
        if w.RF[slot, p.R_ARRIVAL_S] < w.RF[w.lists[p.L_JOBS, s, middle], p.R_ARRIVAL_S]:
            high = middle
        else:
            low = middle + 1
    insert(w, p.L_JOBS, p.I_JOBS, s, low, slot)


@inlined
def tokens_of(w: World, work: int) -> int:
    """Tokens of a work in one iteration."""
    return int(w.RI[work >> 1, p.R_PROMPT]) if work & 1 == 0 else 1


@inlined
def kv_of(w: World, work: int) -> int:
    """KV tokens that a work needs when it first runs."""
    slot = work >> 1
    prompt, output = w.RI[slot, p.R_PROMPT], w.RI[slot, p.R_OUTPUT]
    if w.control[p.C_KV] == 0:
        return int(prompt + 1) if work & 1 == 0 else int(output - 1)
    if work & 1 == 1:
        return 0
    return int(prompt + output) if w.RI[slot, p.R_GOAL] == w.RI[slot, p.R_SOURCE] else int(prompt + 1)


@inlined
def fits(w: World, s: int, work: int, kv: int) -> bool:
    """Whether a work would have room beside `kv` tokens."""
    return bool(kv_of(w, work) + kv <= w.params[w.I[s, p.I_KIND], p.P_KV_TOKENS])


@inlined
def full(w: World, s: int, work: int, count: int, tokens: int) -> bool:
    """Whether a batch of `count` works and `tokens` tokens ends before this work."""
    params = w.params[w.I[s, p.I_KIND]]
    if count == int(params[p.P_MAX_BATCH]):
        return True
    return bool(count > 0 and tokens + tokens_of(w, work) > params[p.P_MAX_BATCH_TOKENS])


@inlined
def take(w: World, s: int, work: int, count: int, stamp: int) -> None:
    """A work is in the next batch."""
    w.lists[p.L_CHOSEN, s, count] = work
    w.RI[work >> 1, p.R_CHOSEN] = stamp


@compiled
def choose_urgent(w: World, s: int, stamp: int) -> tuple[int, int, int]:
    """What has been passed over too often comes first, and then prompts.

    Returns:
        Works and tokens chosen, KV tokens held with them.
    """
    count, tokens, kv = 0, 0, int(w.I[s, p.I_KV])
    for place in range(w.I[s, p.I_PENDING]):
        work = w.lists[p.L_PENDING, s, place]
        slot, kind = work >> 1, work & 1
        if w.RI[slot, p.R_PASSED + kind] < w.control[p.C_MAX_PASSED_OVER] or full(w, s, work, count, tokens):
            break
        blocked = w.RI[slot, p.R_STATE + kind] == p.BLOCKED
        if w.RI[slot, p.R_CHOSEN] != stamp and (blocked or fits(w, s, work, kv)):
            take(w, s, work, count, stamp)
            count, tokens, kv = count + 1, tokens + tokens_of(w, work), kv + (0 if blocked else kv_of(w, work))
    for place in range(w.I[s, p.I_PENDING_PROMPTS]):
        work = w.lists[p.L_PROMPTS, s, place]
        if full(w, s, work, count, tokens):
            break
        if w.RI[work >> 1, p.R_CHOSEN] == stamp:
            continue
        if not fits(w, s, work, kv):
            break
        take(w, s, work, count, stamp)
        count, tokens, kv = count + 1, tokens + tokens_of(w, work), kv + kv_of(w, work)
    return count, tokens, kv


@compiled
def choose(w: World, s: int, stamp: int) -> int:
    """The next batch, in the order in which room is given: urgent, prompts, pushed out, running, waiting.

    Returns:
        How many works; they lie in the list of the chosen.
    """
    count, tokens, kv = choose_urgent(w, s, stamp)
    blocked, running = w.I[s, p.I_BLOCKED], w.I[s, p.I_BATCH]
    for place in range(blocked + running):
        if place < blocked:
            work = w.lists[p.L_BLOCKED, s, place]
        else:
            work = w.batch[s, place - blocked] & p.WORK_MASK
        if full(w, s, work, count, tokens):
            # The blocked and the running are two lists with the same rule; decodes all count one token.
            break
        if w.RI[work >> 1, p.R_CHOSEN] != stamp:
            take(w, s, work, count, stamp)
            count, tokens = count + 1, tokens + 1
    for place in range(w.I[s, p.I_JOBS]):
        if count == int(w.params[w.I[s, p.I_KIND], p.P_MAX_BATCH]):
            break
        slot = w.lists[p.L_JOBS, s, place]
        if w.RI[slot, p.R_CHOSEN] == stamp:
            continue
        work = first_work(w, slot)
        if full(w, s, work, count, tokens):
            break
        is_blocked = w.RI[slot, p.R_STATE + (work & 1)] == p.BLOCKED
        if not is_blocked and not fits(w, s, work, kv):
            break
        take(w, s, work, count, stamp)
        count, tokens, kv = count + 1, tokens + tokens_of(w, work), kv + (0 if is_blocked else kv_of(w, work))
    w.I[s, p.I_BATCH_TOKENS] = tokens
    return count


@inlined
def first_work(w: World, slot: int) -> int:
    """The work of a request that runs or waits first where it is."""
    return int((slot << 1) | (w.RI[slot, p.R_STATE] == p.DONE))


@compiled
def push_out(w: World, s: int, t: float, stamp: int) -> None:
    """Decodes of the running batch that were not chosen again wait."""
    kept = 0
    for place in range(w.I[s, p.I_BATCH]):
        entry = w.batch[s, place]
        work = entry & p.WORK_MASK
        slot = work >> 1
        if w.RI[slot, p.R_CHOSEN] == stamp:
            w.batch[s, kept] = entry
            kept += 1
        else:
            left = (entry >> p.WORK_BITS) - w.I[s, p.I_ITERATION]
            w.RI[slot, p.R_LEFT] = left
            w.RI[slot, p.R_STATE_DECODE] = p.BLOCKED
            w.RF[slot, p.R_TOKEN_S] = t
            leave(w, s, slot, left)
            enqueue(w, s, work)
            insert(w, p.L_BLOCKED, p.I_BLOCKED, s, w.I[s, p.I_BLOCKED], work)
    w.I[s, p.I_BATCH] = kept


@compiled
def bring_in(w: World, s: int, count: int) -> None:
    """Those chosen that were not running join the batch."""
    for place in range(count):
        work = w.lists[p.L_CHOSEN, s, place]
        slot, kind = work >> 1, work & 1
        state = w.RI[slot, p.R_STATE + kind]
        if state == p.RUNNING:
            continue
        remove(w, p.L_PENDING, p.I_PENDING, s, work)
        if state == p.QUEUED:
            need = kv_of(w, work)
            w.I[s, p.I_KV] += need
            w.RI[slot, p.R_HELD] += need
        else:
            remove(w, p.L_BLOCKED, p.I_BLOCKED, s, work)
        w.RI[slot, p.R_STATE + kind] = p.RUNNING
        if kind == 0:
            remove(w, p.L_PROMPTS, p.I_PENDING_PROMPTS, s, work)
            prompt = w.RI[slot, p.R_PROMPT]
            w.batch[s, w.I[s, p.I_BATCH]] = ((w.I[s, p.I_ITERATION] + 1) << p.WORK_BITS) | work
            w.I[s, p.I_BATCH] += 1
            w.I[s, p.I_PROMPTS] += 1
            w.I[s, p.I_TOKENS] += prompt
            w.F[s, p.F_SQUARES] += float(prompt) * prompt
        else:
            join(w, s, slot, w.RI[slot, p.R_LEFT])


@inlined
def form_batch(w: World, s: int, t: float) -> None:
    """Give the batch its next members."""
    w.control[p.C_STAMP] += 1
    stamp = w.control[p.C_STAMP]
    before = w.I[s, p.I_BATCH]
    w.I[s, p.I_PROMPTS], w.I[s, p.I_TOKENS], w.F[s, p.F_SQUARES], w.F[s, p.F_CROSS] = 0, 0, 0.0, 0.0
    count = choose(w, s, stamp)
    push_out(w, s, t, stamp)
    bring_in(w, s, count)
    for place in range(w.I[s, p.I_JOBS]):
        slot = w.lists[p.L_JOBS, s, place]
        work = first_work(w, slot)
        if w.RI[slot, p.R_STATE + (work & 1)] != p.RUNNING:
            w.RI[slot, p.R_PASSED + (work & 1)] += 1
    if before == 0:
        w.F[s, p.F_TOKEN_S] = t


@inlined
def go_home(w: World, s: int) -> None:
    """A server that was lent to both phases and has nothing to do returns to its pool, as its last."""
    w.I[s, p.I_MOVED] = 0
    drop(w, 2, p.C_MIXED_POOL, s)
    which, count = (0, p.C_PROMPT_POOL) if w.I[s, p.I_ROLE] == p.PROMPT_ROLE else (1, p.C_TOKEN_POOL)
    w.pools[which, w.control[count]] = s
    w.control[count] += 1


@inlined
def drop(w: World, which: int, count: int, s: int) -> None:
    """Take a server out of a pool."""
    kept = 0
    for place in range(w.control[count]):
        other = w.pools[which, place]
        if other != s:
            w.pools[which, kept] = other
            kept += 1
    w.control[count] = kept


@compiled
def start_run(w: World, s: int, t: float) -> float:
    """Work out how long the batch runs until something has to be decided.

    Returns:
        Seconds from `t`; a request of one token can make them zero or negative, as in the original.
    """
    holds = set_cost(w, s)
    due = p.NEVER
    steps = 1
    if w.I[s, p.I_PROMPTS] == 0:
        for place in range(w.I[s, p.I_BATCH]):
            due = min(due, w.batch[s, place] >> p.WORK_BITS)
        steps = due - w.I[s, p.I_ITERATION]
        if holds != MANY_STEPS:
            steps = min(steps, holds)
    place = w.I[s, p.I_BATCH] - 1
    while place >= 0 and w.RF[(w.batch[s, place] & p.WORK_MASK) >> 1, p.R_TOKEN_S] != math.inf:
        # Those that joined stand last; marked as counted, so that each is counted once.
        if w.batch[s, place] & 1 == 1:
            count_late(w, s, t, w.batch[s, place])
            w.RF[(w.batch[s, place] & p.WORK_MASK) >> 1, p.R_TOKEN_S] = math.inf
        place -= 1
    w.I[s, p.I_STEPS] = steps
    w.I[s, p.I_MODE] = p.DECODE if w.I[s, p.I_PROMPTS] == 0 else p.PREFILL
    w.I[s, p.I_BUSY] = 1
    w.F[s, p.F_BASE_S] = t
    w.F[s, p.F_REMAINING] = 1.0
    w.F[s, p.F_RUN_J] = 0.0
    return float(span(steps, w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S], 1.0))


@compiled
def run_whole(w: World, s: int, t: float) -> None:
    """Start the next iterations of server `s`."""
    lost = 0
    if w.I[s, p.I_MODE] == p.IDLE:
        book(w, s, t)
    while True:
        form_batch(w, s, t)
        if w.I[s, p.I_BATCH] == 0:
            w.I[s, p.I_MODE] = p.IDLE
            w.F[s, p.F_BOOKED_S] = t
            set_end(w, s, np.inf)
            if w.I[s, p.I_JOBS] == 0 and w.I[s, p.I_MOVED] == 1:
                go_home(w, s)
            break
        lasts_s = start_run(w, s, t)
        if lasts_s != 0.0:
            set_end(w, s, t + lasts_s)
            break
        # What lasts no time ends at once, and with it the means to move the event that follows.
        lost = 1
        complete_whole(w, s, t)
    w.I[s, p.I_LOST] = lost


@compiled
def complete_whole(w: World, s: int, t: float) -> None:
    """The present run of server `s` has ended."""
    book_run(w, s)
    emit(w, s, t, w.I[s, p.I_STEPS])
    ended = take_ended(w, s)
    # From here on the batch is one of decodes alone.
    w.I[s, p.I_PROMPTS] = 0
    for place in range(ended):
        work = w.lists[p.L_CHOSEN, s, place]
        slot = work >> 1
        w.RI[slot, p.R_STATE + (work & 1)] = p.DONE
        if work & 1 == 1:
            w.I[s, p.I_BOOKED_TOKENS] -= 1
            remove(w, p.L_JOBS, p.I_JOBS, s, slot)
            leave(w, s, slot, 0)
            finish(w, s, slot, t)
            continue
        w.I[s, p.I_BOOKED_TOKENS] -= w.RI[slot, p.R_PROMPT]
        first_token(w, slot, t)
        if w.RI[slot, p.R_GOAL] != s:
            remove(w, p.L_JOBS, p.I_JOBS, s, slot)
            w.I[s, p.I_OUTSTANDING] -= 1
            send(w, slot, t)
    if ended > 0:
        set_load(w, s)
        if w.I[s, p.I_ROLE] == p.TOKEN_ROLE and w.control[p.C_SECOND_CHOICE] == 1:
            send_waiting(w, t)
    w.I[s, p.I_PAUSING] = 0


@compiled
def pause(w: World, s: int, t: float) -> None:
    """Let the decode iterations of server `s` end with the one in progress."""
    if w.I[s, p.I_PAUSING] == 1 or w.I[s, p.I_PROMPTS] > 0:
        return
    if w.I[s, p.I_LOST] == 1:
        w.control[p.C_FAILED] = 1
        return
    w.I[s, p.I_PAUSING] = 1
    first_s, steps = w.F[s, p.F_FIRST_S], w.I[s, p.I_STEPS]
    if w.F[s, p.F_GROWTH_S] == 0.0 and w.F[s, p.F_REMAINING] == 1.0:
        # In the order of the original's arithmetic, whose rounding decides between neighbouring iterations.
        since_s = t - (w.F[s, p.F_END_S] - first_s * steps)
        steps = int(since_s // first_s) + 1
        w.I[s, p.I_STEPS] = steps
        set_end(w, s, t + (first_s * steps - since_s))
    else:
        steps = steps_done(w, s, t) + 1
        w.I[s, p.I_STEPS] = steps
        set_end(w, s, w.F[s, p.F_BASE_S] + span(steps, first_s, w.F[s, p.F_GROWTH_S], w.F[s, p.F_REMAINING]))


@compiled
def arrive_whole(w: World, s: int, work: int, t: float) -> None:
    """A work comes to server `s`: it starts at once, from the next iteration on, or waits."""
    slot, kind = work >> 1, work & 1
    w.RI[slot, p.R_STATE + kind] = p.QUEUED
    if kind == 0 or w.RI[slot, p.R_GOAL] != w.RI[slot, p.R_SOURCE]:
        enlist(w, s, slot)
    enqueue(w, s, work)
    if w.I[s, p.I_BATCH] == 0:
        if fits(w, s, work, w.I[s, p.I_KV]):
            run_whole(w, s, t)
        return
    params = w.params[w.I[s, p.I_KIND]]
    tokens = w.I[s, p.I_BATCH_TOKENS]
    if w.I[s, p.I_BATCH] < params[p.P_MAX_BATCH] and tokens + tokens_of(w, work) <= params[p.P_MAX_BATCH_TOKENS]:
        pause(w, s, t)
    elif kind == 0 and decodes(w, s) > 0:
        if tokens - decodes(w, s) + tokens_of(w, work) <= params[p.P_MAX_BATCH_TOKENS]:
            pause(w, s, t)


@compiled
def sent_whole(w: World, s: int, t: float) -> None:
    """A transfer from server `s` has ended: what waits there may have room."""
    if w.I[s, p.I_PENDING] == 0:
        return
    if w.I[s, p.I_BATCH] == 0:
        if fits(w, s, w.lists[p.L_PENDING, s, 0], w.I[s, p.I_KV]):
            run_whole(w, s, t)
        return
    params = w.params[w.I[s, p.I_KIND]]
    if w.I[s, p.I_BATCH] < params[p.P_MAX_BATCH] and w.I[s, p.I_BATCH_TOKENS] < params[p.P_MAX_BATCH_TOKENS]:
        pause(w, s, t)
