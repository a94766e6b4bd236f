"""What becomes of requests: first tokens, transfers of their KV cache, tokens, ends."""

from sim_backend import histogram
from sim_backend.compiled import compiled, inlined
from sim_backend.pools import layout as p
from sim_backend.pools.cost_kernel import decodes
from sim_backend.pools.world_kernel import World, least, push, set_load

_bin_index = inlined(histogram.bin_index)


@compiled
def emit(w: World, s: int, t: float, steps: int) -> None:
    """The decodes of the batch have gained a token in each of `steps` iterations, the last of which ended at `t`."""
    batch, high = decodes(w, s), w.I[s, p.I_HIGH]
    if batch > 0 and steps > 0:
        index = _bin_index((t - w.F[s, p.F_TOKEN_S]) / steps)
        w.bins[p.H_TBT, index] += (batch - high) * steps - w.I[s, p.I_LATE]
        w.bins[p.H_TBT + 1, index] += high * steps - w.I[s, p.I_LATE_HIGH]
        w.I[s, p.I_LATE] = 0
        w.I[s, p.I_LATE_HIGH] = 0
    w.counts[0, p.N_GENERATED] += (batch - high) * steps
    w.counts[1, p.N_GENERATED] += high * steps
    w.I[s, p.I_ITERATION] += steps
    w.I[s, p.I_CONTEXT] += batch * steps
    w.F[s, p.F_TOKEN_S] = t


@inlined
def join(w: World, s: int, slot: int, left: int) -> None:
    """A request that wants `left` more tokens becomes part of the batch of server `s`."""
    due = w.I[s, p.I_ITERATION] + left
    w.batch[s, w.I[s, p.I_BATCH]] = (due << p.WORK_BITS) | (slot << 1) | 1
    w.I[s, p.I_BATCH] += 1
    w.I[s, p.I_NEXT_DUE] = min(w.I[s, p.I_NEXT_DUE], due)
    w.I[s, p.I_CONTEXT] += w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT] - left
    w.I[s, p.I_HIGH] += w.RI[slot, p.R_PRIORITY]


@compiled
def count_late(w: World, s: int, t: float, entry: int) -> None:
    """Count the next gap of a decode that has just joined, if its last token came out elsewhere or before `t`."""
    slot = (entry & p.WORK_MASK) >> 1
    since_s = w.RF[slot, p.R_TOKEN_S]
    if since_s < t:
        priority = w.RI[slot, p.R_PRIORITY]
        w.bins[p.H_TBT + priority, _bin_index(t + w.F[s, p.F_FIRST_S] - since_s)] += 1
        w.I[s, p.I_LATE + priority] += 1 - priority
        w.I[s, p.I_LATE_HIGH] += priority


@compiled
def first_token(w: World, slot: int, t: float) -> None:
    """The prefill of a request has ended."""
    priority = w.RI[slot, p.R_PRIORITY]
    ttft_s = t - w.RF[slot, p.R_ARRIVAL_S]
    w.RF[slot, p.R_TTFT_S] = ttft_s
    w.RF[slot, p.R_TOKEN_S] = t
    w.bins[p.H_TTFT + priority, _bin_index(ttft_s)] += 1
    w.counts[priority, p.N_PROMPT] += w.RI[slot, p.R_PROMPT]
    w.counts[priority, p.N_GENERATED] += 1
    if w.RI[slot, p.R_INDEX] < w.record.shape[0]:
        w.record[w.RI[slot, p.R_INDEX], 0] = ttft_s


@inlined
def release(w: World, s: int, tokens: int) -> None:
    """KV tokens of server `s` are free again."""
    w.I[s, p.I_KV] -= tokens
    w.I[s, p.I_BOOKED_KV] -= tokens


@compiled
def launch(w: World, slot: int, goal: int, t: float) -> None:
    """The KV cache of a request begins to move to server `goal`, which has room for it."""
    source = w.RI[slot, p.R_SOURCE]
    moved = w.RI[slot, p.R_HELD]
    if w.control[p.C_KV] == 1:
        moved = w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT]
    w.I[goal, p.I_KV] += moved
    w.RI[slot, p.R_GOAL] = goal
    lasts_s = w.real[p.X_KV_BYTES] * w.RI[slot, p.R_PROMPT] / w.real[p.X_LINK_BYTES_PER_S]
    sent_s = t + (lasts_s + w.real[p.X_LINK_LATENCY_S])
    if w.control[p.C_LINK] == 1:
        begin_s = max(t, w.F[source, p.F_OUT_FREE_S], w.F[goal, p.F_IN_FREE_S])
        w.F[source, p.F_OUT_FREE_S] = begin_s + lasts_s
        w.F[goal, p.F_IN_FREE_S] = begin_s + lasts_s
        sent_s = begin_s + lasts_s + w.real[p.X_LINK_LATENCY_S]
    w.control[p.C_TRANSFERS] += 1
    w.I[goal, p.I_OUTSTANDING] += 1
    set_load(w, goal)
    push(w, sent_s, (p.E_SENT << p.ID_BITS) | slot)


@compiled
def try_send(w: World, slot: int, t: float) -> None:
    """Send to the server chosen at arrival, or try again later."""
    goal = w.RI[slot, p.R_GOAL]
    moved = w.RI[slot, p.R_HELD]
    if w.control[p.C_KV] == 1:
        moved = w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT]
    if w.I[goal, p.I_KV] + moved <= w.params[w.I[goal, p.I_KIND], p.P_KV_TOKENS]:
        launch(w, slot, goal, t)
    else:
        push(w, t + w.real[p.X_RETRY_S], (p.E_RETRY << p.ID_BITS) | slot)


@inlined
def place(w: World, slot: int, t: float) -> bool:
    """Send to the server for decodes with the most room.

    Returns:
        False if it has not enough.
    """
    goal = least(w.loads[1])
    need = w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT]
    if w.I[goal, p.I_KV] + need > w.params[w.I[goal, p.I_KIND], p.P_KV_TOKENS]:
        return False
    launch(w, slot, goal, t)
    return True


@compiled
def send(w: World, slot: int, t: float) -> None:
    """The prefill of a request that decodes elsewhere has ended."""
    if w.control[p.C_SECOND_CHOICE] == 0:
        try_send(w, slot, t)
    elif w.control[p.C_WAIT_HEAD] >= 0 or not place(w, slot, t):
        # Behind those that wait already, or the first to wait.
        w.RI[slot, p.R_NEXT] = -1
        if w.control[p.C_WAIT_HEAD] < 0:
            w.control[p.C_WAIT_HEAD] = slot
        else:
            w.RI[w.control[p.C_WAIT_TAIL], p.R_NEXT] = slot
        w.control[p.C_WAIT_TAIL] = slot


@compiled
def send_waiting(w: World, t: float) -> None:
    """Room for decodes has become free."""
    while w.control[p.C_WAIT_HEAD] >= 0:
        slot = w.control[p.C_WAIT_HEAD]
        behind = w.RI[slot, p.R_NEXT]
        if not place(w, slot, t):
            break
        w.control[p.C_WAIT_HEAD] = behind


@inlined
def received(w: World, slot: int) -> None:
    """The KV cache has moved: its source has room again."""
    release(w, w.RI[slot, p.R_SOURCE], w.RI[slot, p.R_HELD])
    if w.control[p.C_KV] == 1:
        w.RI[slot, p.R_HELD] = w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT]


@compiled
def finish(w: World, s: int, slot: int, t: float) -> None:
    """A request has all its tokens."""
    priority, output = w.RI[slot, p.R_PRIORITY], w.RI[slot, p.R_OUTPUT]
    ttft_s = w.RF[slot, p.R_TTFT_S]
    e2e_s = t - w.RF[slot, p.R_ARRIVAL_S]
    w.bins[p.H_E2E + priority, _bin_index(e2e_s)] += 1
    w.counts[priority, p.N_COMPLETED] += 1
    if ttft_s <= w.slo[priority, 0] and e2e_s - ttft_s <= w.slo[priority, 1] * (output - 1):
        w.counts[priority, p.N_GOOD] += 1
    if w.RI[slot, p.R_INDEX] < w.record.shape[0]:
        w.record[w.RI[slot, p.R_INDEX], 1] = e2e_s
    release(w, s, w.RI[slot, p.R_HELD])
    w.I[s, p.I_OUTSTANDING] -= 1
    w.RI[slot, p.R_NEXT] = w.control[p.C_FREE]
    w.control[p.C_FREE] = slot


@compiled
def take_ended(w: World, s: int) -> int:
    """Take those that have all their tokens out of the batch; the others keep their order.

    Returns:
        How many there are; they lie in the list of the chosen.
    """
    iteration, kept, ended = w.I[s, p.I_ITERATION], 0, 0
    next_due = p.NEVER
    for place_ in range(w.I[s, p.I_BATCH]):
        entry = w.batch[s, place_]
        due = entry >> p.WORK_BITS
        if due == iteration:
            w.lists[p.L_CHOSEN, s, ended] = entry & p.WORK_MASK
            ended += 1
        else:
            w.batch[s, kept] = entry
            kept += 1
            next_due = min(next_due, due)
    w.I[s, p.I_BATCH] = kept
    w.I[s, p.I_NEXT_DUE] = next_due
    return ended


@inlined
def leave(w: World, s: int, slot: int, left: int) -> None:
    """A decode that still wants `left` tokens is no longer part of the batch's sums."""
    w.I[s, p.I_CONTEXT] -= w.RI[slot, p.R_PROMPT] + w.RI[slot, p.R_OUTPUT] - left
    w.I[s, p.I_HIGH] -= w.RI[slot, p.R_PRIORITY]
