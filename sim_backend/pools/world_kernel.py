"""All state of the pools, and the orders kept in it: a heap of events, trees of the least of many."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim_backend.compiled import inlined
from sim_backend.pools import layout as p

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class World(NamedTuple):
    """F and I view the same rows of servers, RF and RI the same rows of requests."""

    F: Floats
    I: Ints  # noqa: E741 (the packed ints, beside the packed floats)
    RF: Floats
    RI: Ints
    batch: Ints
    """Of each server, in the order in which they joined [n, most]."""
    lists: Ints
    """Of each server, under "whole_prompts" [NLIST, n, room]."""
    ends_s: Floats
    """Tree of the times at which servers decide next ("servers_first")."""
    loads: Ints
    """Trees of the router's keys: servers for prefill, servers for decode only [2, 2 * size]."""
    pools: Ints
    """Servers for prefill, for decode and for both, in the order in which they came [3, n]."""
    event_s: Floats
    """Heap of events: times, and what happens."""
    event: Ints
    params: Floats
    tables: Floats
    slo: Floats
    counts: Ints
    bins: Ints
    record: Floats
    control: Ints
    real: Floats


@inlined
def push(w: World, t: float, what: int) -> None:
    """Add an event as Python's `heapq.heappush` does; where equal times end up is part of the rules."""
    place = w.control[p.C_HEAP]
    w.control[p.C_HEAP] = place + 1
    sift_up(w, place, t, what)


@inlined
def sift_up(w: World, place: int, t: float, what: int) -> None:
    """Put an event where no earlier one is below it."""
    while place > 0:
        parent = (place - 1) >> 1
        if not t < w.event_s[parent]:
            break
        w.event_s[place] = w.event_s[parent]
        w.event[place] = w.event[parent]
        place = parent
    w.event_s[place] = t
    w.event[place] = what


@inlined
def pop(w: World) -> int:
    """Take out the first event as `heapq.heappop` does: the hole goes down to a leaf, the last event up from there.

    Returns:
        What happens.
    """
    what = w.event[0]
    last = w.control[p.C_HEAP] - 1
    w.control[p.C_HEAP] = last
    if last > 0:
        place, child = 0, 1
        while child < last:
            right = child + 1
            if right < last and not w.event_s[child] < w.event_s[right]:
                child = right
            w.event_s[place] = w.event_s[child]
            w.event[place] = w.event[child]
            place = child
            child = 2 * place + 1
        sift_up(w, place, w.event_s[last], w.event[last])
    return int(what)


@inlined
def set_leaf(tree: Floats | Ints, leaf: int, value: float) -> None:
    """Give one leaf of a tree a new value; node 1 is the root and holds the least, the leaves are the second half."""
    node = (tree.shape[0] >> 1) + leaf
    tree[node] = value
    while node > 1:
        value = min(value, tree[node ^ 1])
        node >>= 1
        tree[node] = value


@inlined
def least(tree: Floats | Ints) -> int:
    """The leaf with the least value; of equals the first."""
    size = tree.shape[0] >> 1
    value = tree[1]
    node = 1
    while node < size:
        node <<= 1
        if tree[node] != value:
            node += 1
    return int(node - size)


@inlined
def set_end(w: World, s: int, t: float) -> None:
    """The run of server `s` ends at `t`; what was said before is void."""
    w.F[s, p.F_END_S] = t
    if w.control[p.C_EVENTS] == 0:
        w.I[s, p.I_VERSION] += 1
        if t < np.inf:
            push(w, t, (w.I[s, p.I_VERSION] << p.VERSION_SHIFT) | (p.E_ITERATION << p.ID_BITS) | s)
    else:
        set_leaf(w.ends_s, s, t)


@inlined
def set_load(w: World, s: int) -> None:
    """Tell the router what server `s` has to do."""
    if w.control[p.C_ROUTER] == 1 or w.control[p.C_SECOND_CHOICE] == 1:
        if w.I[s, p.I_ROLE] == p.TOKEN_ROLE:
            free = int(w.params[w.I[s, p.I_KIND], p.P_KV_TOKENS]) - w.I[s, p.I_KV]
            set_leaf(w.loads[1], s, (1 << 40) - free)
        else:
            set_leaf(w.loads[0], s, (w.I[s, p.I_OUTSTANDING] << p.CHOSEN_BITS) | w.I[s, p.I_LAST_CHOSEN])
