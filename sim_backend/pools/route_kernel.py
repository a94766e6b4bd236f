"""Which server a request goes to."""

import numpy as np

from sim_backend.compiled import compiled, inlined
from sim_backend.pools import layout as p
from sim_backend.pools.whole_kernel import drop
from sim_backend.pools.world_kernel import World, least, set_load


@inlined
def fewest(w: World, which: int, count: int, word: int) -> int:
    """The server of a pool with the least in `word`, of equals the first; -1 of none."""
    best = -1
    least_value = p.NEVER
    for place in range(count):
        s = w.pools[which, place]
        if w.I[s, word] < least_value:
            best, least_value = s, w.I[s, word]
    return int(best)


@inlined
def lend(w: World, which: int, count: int, s: int) -> None:
    """A server of one pool works for both phases from now on."""
    drop(w, which, count, s)
    w.pools[2, w.control[p.C_MIXED_POOL]] = s
    w.control[p.C_MIXED_POOL] += 1
    w.I[s, p.I_MOVED] = 1


@inlined
def for_prompt(w: World, prompt: int) -> int:
    """A server for a prefill whose queue is not too long, of the pool or of those lent; -1: none."""
    for which, count in ((0, p.C_PROMPT_POOL), (2, p.C_MIXED_POOL)):
        s = fewest(w, which, w.control[count], p.I_BOOKED_TOKENS)
        if s >= 0:
            queued = w.I[s, p.I_BOOKED_TOKENS] + prompt
            if w.I[s, p.I_PENDING] == 0 or queued <= w.control[p.C_MAX_QUEUE_TOKENS]:
                return s
    return -1


@inlined
def for_decode(w: World, need: int) -> int:
    """A server for a decode with room for it, of the pool or of those lent; -1: none."""
    for which, count in ((1, p.C_TOKEN_POOL), (2, p.C_MIXED_POOL)):
        s = fewest(w, which, w.control[count], p.I_BOOKED_KV)
        if s >= 0 and w.I[s, p.I_BOOKED_KV] + need < w.params[w.I[s, p.I_KIND], p.P_KV_TOKENS]:
            return s
    return -1


@compiled
def split(w: World, prompt: int, need: int) -> tuple[int, int]:
    """A server for the prefill and one for the decode; a full pool borrows from the other."""
    first, second = for_prompt(w, prompt), for_decode(w, need)
    if first < 0:
        first = fewest(w, 1, w.control[p.C_TOKEN_POOL], p.I_BOOKED_TOKENS)
        if first >= 0:
            lend(w, 1, p.C_TOKEN_POOL, first)
    if second < 0:
        second = fewest(w, 0, w.control[p.C_PROMPT_POOL], p.I_BOOKED_KV)
        if second >= 0:
            lend(w, 0, p.C_PROMPT_POOL, second)
    if first < 0 or second < 0:
        first = -1
        least_tokens = p.NEVER
        for which, count in ((0, p.C_PROMPT_POOL), (2, p.C_MIXED_POOL), (1, p.C_TOKEN_POOL)):
            s = fewest(w, which, w.control[count], p.I_BOOKED_TOKENS)
            if s >= 0 and w.I[s, p.I_BOOKED_TOKENS] < least_tokens:
                first, least_tokens = s, w.I[s, p.I_BOOKED_TOKENS]
        second = first
    return first, second


@inlined
def outstanding_first(w: World, prompt: int, output: int) -> int:
    """The server with the fewest requests that may ever hold this one; -1: there is none."""
    best = least(w.loads[0])
    need = prompt + 1 if w.I[best, p.I_ROLE] == p.PROMPT_ROLE else prompt + output
    if need <= w.params[w.I[best, p.I_KIND], p.P_KV_TOKENS]:
        return best
    # Rare: too long for this kind of server, so look among those that can hold it.
    best = -1
    key = p.NEVER
    size = w.loads.shape[1] >> 1
    for s in range(w.I.shape[0]):
        need = prompt + 1 if w.I[s, p.I_ROLE] == p.PROMPT_ROLE else prompt + output
        if w.loads[0, size + s] < key and need <= w.params[w.I[s, p.I_KIND], p.P_KV_TOKENS]:
            best, key = s, w.loads[0, size + s]
    return best


@inlined
def choose_servers(w: World, prompt: int, output: int) -> tuple[int, int]:
    """Servers for prefill and for decode; -1 for the second: chosen later; -1 for the first: none can hold it."""
    if w.control[p.C_ROUTER] == 1:
        first = outstanding_first(w, prompt, output)
    elif w.control[p.C_POOLED] == 1 and w.control[p.C_POOL_MOVES] == 1:
        return split(w, prompt, prompt + output)
    else:
        first = fewest(w, 0, w.control[p.C_PROMPT_POOL], p.I_BOOKED_TOKENS)
    if first < 0 or w.I[first, p.I_ROLE] == p.MIXED_ROLE:
        return first, first
    if w.control[p.C_SECOND_CHOICE] == 1:
        most = 0.0
        for s in range(w.I.shape[0]):
            if w.I[s, p.I_ROLE] == p.TOKEN_ROLE:
                most = max(most, w.params[w.I[s, p.I_KIND], p.P_KV_TOKENS])
        return (first, -1) if prompt + output <= most else (-1, -1)
    return first, fewest(w, 1, w.control[p.C_TOKEN_POOL], p.I_BOOKED_KV)


@compiled
def admit(w: World, t: float, row: int, prompt: int, output: int, priority: int) -> int:
    """A request arrives and is given its servers.

    Returns:
        Where its numbers lie; -1 if no server may ever hold it.
    """
    index = w.control[p.C_INDEX]
    w.control[p.C_INDEX] = index + 1
    if w.control[p.C_EVENTS] == 0:
        # Arrivals of the same time need not come in order; all of them are one block.
        index = row
    w.counts[priority, p.N_ARRIVED] += 1
    first, second = choose_servers(w, prompt, output)
    if first < 0:
        w.counts[priority, p.N_REJECTED] += 1
        return -1
    slot = w.control[p.C_FREE]
    w.control[p.C_FREE] = w.RI[slot, p.R_NEXT]
    w.RF[slot, p.R_ARRIVAL_S] = t
    w.RF[slot, p.R_TTFT_S] = np.nan
    w.RF[slot, p.R_TOKEN_S] = t
    w.RI[slot, p.R_PROMPT] = prompt
    w.RI[slot, p.R_OUTPUT] = output
    w.RI[slot, p.R_PRIORITY] = priority
    w.RI[slot, p.R_INDEX] = index
    w.RI[slot, p.R_DONE] = 0
    w.RI[slot, p.R_HELD] = 0
    w.RI[slot, p.R_LEFT] = output - 1
    w.RI[slot, p.R_PASSED] = 0
    w.RI[slot, p.R_PASSED_DECODE] = 0
    w.RI[slot, p.R_STATE] = p.NONE
    w.RI[slot, p.R_STATE_DECODE] = p.NONE
    w.RI[slot, p.R_CHOSEN] = 0
    w.RI[slot, p.R_SOURCE] = first
    w.RI[slot, p.R_GOAL] = second
    book_request(w, first, second, prompt, output)
    w.I[first, p.I_OUTSTANDING] += 1
    w.I[first, p.I_LAST_CHOSEN] = w.control[p.C_CHOSEN]
    w.control[p.C_CHOSEN] += 1
    set_load(w, first)
    return int(slot)


@inlined
def book_request(w: World, first: int, second: int, prompt: int, output: int) -> None:
    """Keep the router's own books of tokens and memory."""
    w.I[first, p.I_BOOKED_TOKENS] += prompt
    if first == second:
        w.I[first, p.I_BOOKED_KV] += prompt + output
    else:
        w.I[first, p.I_BOOKED_KV] += prompt + 1
    if second >= 0:
        w.I[second, p.I_BOOKED_TOKENS] += 1
        if first != second:
            w.I[second, p.I_BOOKED_KV] += prompt + output
