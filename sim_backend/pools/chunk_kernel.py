"""Continuous batching with chunked prefill: all decodes, then as much of the waiting prompts as the budget leaves."""

import math

from sim_backend.compiled import compiled, inlined
from sim_backend.pools import layout as p
from sim_backend.pools.cost_kernel import book, book_run, set_cost, span, steps_done
from sim_backend.pools.life_kernel import count_late, emit, finish, first_token, join, leave, send, send_waiting
from sim_backend.pools.world_kernel import World, set_end, set_load


@inlined
def append(w: World, s: int, slot: int) -> None:
    """A request is the last of the queue of server `s`."""
    if w.I[s, p.I_QUEUE] == 0:
        w.I[s, p.I_HEAD] = slot
    else:
        w.RI[w.I[s, p.I_TAIL], p.R_NEXT] = slot
    w.I[s, p.I_TAIL] = slot
    w.I[s, p.I_QUEUE] += 1


@inlined
def need_of(w: World, s: int, slot: int) -> int:
    """KV tokens that a request needs on server `s`: all it will ever have, or its prompt if it decodes elsewhere."""
    prompt, output = w.RI[slot, p.R_PROMPT], w.RI[slot, p.R_OUTPUT]
    return int(prompt + 1) if w.I[s, p.I_ROLE] == p.PROMPT_ROLE else int(prompt + output)


@inlined
def can_join(w: World, s: int, slot: int) -> bool:
    """Whether a request, alone in the queue, would have part in the next iteration of server `s`."""
    params = w.params[w.I[s, p.I_KIND]]
    if w.I[s, p.I_BATCH] >= params[p.P_MAX_BATCH]:
        return False
    if w.I[s, p.I_ROLE] == p.TOKEN_ROLE:
        return True
    room = w.I[s, p.I_KV] + need_of(w, s, slot) <= params[p.P_KV_TOKENS]
    return bool(room and w.I[s, p.I_BATCH] < params[p.P_MAX_BATCH_TOKENS])


@inlined
def join_ready(w: World, s: int, t: float) -> int:
    """Requests whose KV cache has come join the batch.

    Returns:
        How many.
    """
    count = 0
    while w.I[s, p.I_QUEUE] > 0 and w.I[s, p.I_BATCH] < w.params[w.I[s, p.I_KIND], p.P_MAX_BATCH]:
        slot = w.I[s, p.I_HEAD]
        w.I[s, p.I_HEAD] = w.RI[slot, p.R_NEXT]
        w.I[s, p.I_QUEUE] -= 1
        if w.I[s, p.I_BATCH] == 0:
            w.F[s, p.F_TOKEN_S] = t
        join(w, s, slot, w.RI[slot, p.R_OUTPUT] - 1)
        count += 1
    return count


@compiled
def give_chunks(w: World, s: int) -> None:
    """Share the token budget that the decodes leave among the prompts at the head of the queue."""
    params = w.params[w.I[s, p.I_KIND]]
    budget = int(params[p.P_MAX_BATCH_TOKENS]) - w.I[s, p.I_BATCH]
    room = min(int(params[p.P_MAX_BATCH]) - w.I[s, p.I_BATCH], w.I[s, p.I_QUEUE])
    prompts, tokens, squares, cross = 0, 0, 0.0, 0.0
    slot = w.I[s, p.I_HEAD]
    while prompts < room and budget > 0:
        if w.RI[slot, p.R_HELD] == 0:
            need = need_of(w, s, slot)
            if w.I[s, p.I_KV] + need > params[p.P_KV_TOKENS]:
                break
            w.I[s, p.I_KV] += need
            w.RI[slot, p.R_HELD] = need
            cached = min(int(w.RI[slot, p.R_PROMPT] * w.real[p.X_CACHED_SHARE]), w.RI[slot, p.R_PROMPT] - 1)
            w.RI[slot, p.R_DONE] = cached
            w.counts[w.RI[slot, p.R_PRIORITY], p.N_CACHED] += cached
        done = w.RI[slot, p.R_DONE]
        part = min(budget, w.RI[slot, p.R_PROMPT] - done)
        w.RI[slot, p.R_TAKE] = part
        budget -= part
        tokens += part
        squares += float(part) * part
        cross += float(part) * done
        prompts += 1
        slot = w.RI[slot, p.R_NEXT]
    w.I[s, p.I_PROMPTS], w.I[s, p.I_TOKENS] = prompts, tokens
    w.F[s, p.F_SQUARES], w.F[s, p.F_CROSS] = squares, cross


@compiled
def run_chunked(w: World, s: int, t: float) -> None:
    """Start the next iterations of server `s`: one with prompts, else decodes until something is decided, or none."""
    if w.I[s, p.I_MODE] == p.IDLE:
        book(w, s, t)
    joined, steps = 0, 1
    if w.I[s, p.I_ROLE] == p.TOKEN_ROLE:
        joined = join_ready(w, s, t)
    else:
        give_chunks(w, s)
    w.F[s, p.F_BASE_S] = t
    w.F[s, p.F_REMAINING] = 1.0
    w.F[s, p.F_RUN_J] = 0.0
    if w.I[s, p.I_PROMPTS] > 0:
        w.I[s, p.I_MODE] = p.PREFILL
        set_cost(w, s)
    elif w.I[s, p.I_BATCH] > 0:
        w.I[s, p.I_MODE] = p.DECODE
        holds = set_cost(w, s)
        steps = min(w.I[s, p.I_NEXT_DUE] - w.I[s, p.I_ITERATION], holds)
    else:
        w.I[s, p.I_MODE] = p.IDLE
        w.F[s, p.F_BOOKED_S] = t
        set_end(w, s, math.inf)
        return
    for place in range(w.I[s, p.I_BATCH] - joined, w.I[s, p.I_BATCH]):
        count_late(w, s, t, w.batch[s, place])
    w.I[s, p.I_BUSY] = 1
    w.I[s, p.I_STEPS] = steps
    set_end(w, s, t + span(steps, w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S], 1.0))


@inlined
def end_decodes(w: World, s: int, t: float) -> None:
    """Let go the decodes that have all their tokens; another entry takes the place of each."""
    iteration, place, next_due = w.I[s, p.I_ITERATION], 0, p.NEVER
    while place < w.I[s, p.I_BATCH]:
        entry = w.batch[s, place]
        due = entry >> p.WORK_BITS
        if due > iteration:
            next_due = min(next_due, due)
            place += 1
            continue
        slot = (entry & p.WORK_MASK) >> 1
        w.I[s, p.I_BATCH] -= 1
        w.batch[s, place] = w.batch[s, w.I[s, p.I_BATCH]]
        leave(w, s, slot, 0)
        finish(w, s, slot, t)
    w.I[s, p.I_NEXT_DUE] = next_due


@inlined
def end_prompts(w: World, s: int, t: float) -> None:
    """The chunks of this iteration are done; prompts that are done whole have their first token."""
    for _ in range(w.I[s, p.I_PROMPTS]):
        slot = w.I[s, p.I_HEAD]
        w.RI[slot, p.R_DONE] += w.RI[slot, p.R_TAKE]
        if w.RI[slot, p.R_DONE] < w.RI[slot, p.R_PROMPT]:
            break
        w.I[s, p.I_HEAD] = w.RI[slot, p.R_NEXT]
        w.I[s, p.I_QUEUE] -= 1
        first_token(w, slot, t)
        if w.RI[slot, p.R_OUTPUT] <= 1:
            finish(w, s, slot, t)
        elif w.I[s, p.I_ROLE] == p.PROMPT_ROLE:
            w.I[s, p.I_OUTSTANDING] -= 1
            send(w, slot, t)
        else:
            if w.I[s, p.I_BATCH] == 0:
                w.F[s, p.F_TOKEN_S] = t
            join(w, s, slot, w.RI[slot, p.R_OUTPUT] - 1)
    w.I[s, p.I_PROMPTS] = 0


@compiled
def complete_chunked(w: World, s: int, t: float) -> None:
    """The present run of server `s` has ended."""
    outstanding = w.I[s, p.I_OUTSTANDING]
    book_run(w, s)
    emit(w, s, t, w.I[s, p.I_STEPS])
    if w.I[s, p.I_NEXT_DUE] <= w.I[s, p.I_ITERATION]:
        end_decodes(w, s, t)
    end_prompts(w, s, t)
    if w.I[s, p.I_OUTSTANDING] != outstanding:
        set_load(w, s)
        if w.I[s, p.I_ROLE] == p.TOKEN_ROLE:
            send_waiting(w, t)


@inlined
def cut(w: World, s: int, t: float) -> None:
    """End the decode run with the iteration in progress, so that another request can join."""
    steps = steps_done(w, s, t) + 1
    if steps < w.I[s, p.I_STEPS]:
        w.I[s, p.I_STEPS] = steps
        run_s = span(steps, w.F[s, p.F_FIRST_S], w.F[s, p.F_GROWTH_S], w.F[s, p.F_REMAINING])
        set_end(w, s, w.F[s, p.F_BASE_S] + run_s)


@compiled
def come(w: World, s: int, slot: int, t: float) -> bool:
    """A request comes to server `s`, for its prefill or with its KV cache.

    Returns:
        Whether the server was idle and is to start.
    """
    append(w, s, slot)
    if w.I[s, p.I_MODE] == p.IDLE:
        return True
    if w.I[s, p.I_MODE] == p.DECODE and w.I[s, p.I_QUEUE] == 1 and can_join(w, s, slot):
        # With a queue the run is cut already, or its head waits for a completion, and so must this one.
        cut(w, s, t)
    return False
