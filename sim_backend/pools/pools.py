"""Serving engines in pools under load and caps: what is drawn, how long users wait."""

import math
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError, InvariantViolated
from sim_backend.arrivals import Arrivals, ArrivalSource
from sim_backend.histogram import BINS
from sim_backend.plant import PlantStats
from sim_backend.pools import layout as p
from sim_backend.pools import pools_kernel, semantics
from sim_backend.pools.kinds import packed
from sim_backend.pools.setup import ROLES, Setup
from sim_backend.pools.world_kernel import World
from sim_backend.result import PRIORITIES, Vec
from sim_backend.site import Slo

Ints = NDArray[np.int64]
Columns = tuple[Vec, NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]
END_S = 86_400.0
"""Where the published simulator stops a run that does not end."""
FIRST_ROOM = 1024
"""Requests in flight, events and list entries there is room for at the start; doubled whenever it runs out."""


class PoolStats(PlantStats):
    """As `PlantStats`, and prompt tokens that a prefix cache held; a transfer is part of the gap it falls into."""

    __slots__ = ()

    def count(self, name: str) -> Ints:
        """Counter `name` per priority [2]: one of `layout.COUNTERS`."""
        return self.counts[:, p.COUNTERS.index(name)]


class Pools:
    """Simulated servers behind one router, each one serving engine; events up to and at the present have happened."""

    def __init__(self, setup: Setup, source: ArrivalSource, slo: Mapping[str, Slo] | None = None) -> None:
        """Idle servers at time 0 without caps.

        Args:
            setup: the servers and their rules.
            source: the requests; read whole at the start under events = "heap".
            slo: targets by name of the priority; a priority without any is always good.
        """
        n, rules = len(setup.kind), setup.rules
        self.now_s = 0.0
        self._taken_s = 0.0
        self._blocks: Iterator[Arrivals] = source.blocks()
        self._last_arrival_s = 0.0
        self._record = False
        self._servers = n
        params, tables = packed(setup.kinds, rules.max_batch, rules.max_batch_tokens)
        most = int(params[:, p.P_MAX_BATCH].max()) + 1
        size = 1 << max(n - 1, 1).bit_length()
        floats = np.zeros((n, p.NSERVER))
        pool_floats = np.zeros((0, p.NREQUEST))
        limits = np.full((len(PRIORITIES), 2), np.inf)
        for index, name in enumerate(PRIORITIES):
            if slo is not None and name in slo:
                limits[index] = slo[name].ttft_s, slo[name].tpot_s
        whole = rules.batching == "whole_prompts"
        self._world = World(
            F=floats,
            I=floats.view(np.int64),
            RF=pool_floats,
            RI=pool_floats.view(np.int64),
            batch=np.zeros((n, most), np.int64),
            lists=np.zeros((p.NLIST, n, most + FIRST_ROOM if whole else 1), np.int64),
            ends_s=np.full(2 * size, np.inf),
            loads=np.full((2, 2 * size), p.NEVER, np.int64),
            pools=np.zeros((3, n), np.int64),
            event_s=np.zeros(most + FIRST_ROOM),
            event=np.zeros(most + FIRST_ROOM, np.int64),
            params=params,
            tables=tables,
            slo=limits,
            counts=np.zeros((len(PRIORITIES), p.NCOUNTER), np.int64),
            bins=np.zeros((p.NHISTOGRAM, BINS), np.int64),
            record=np.empty((0, 2)),
            control=np.zeros(p.NCONTROL, np.int64),
            real=np.zeros(p.NREAL),
        )
        self._arrivals = _columns([])
        self._clock_ratio, self._limit_w = np.empty(n), np.empty(n)
        self.stats = PoolStats(self._world.counts, self._world.bins)
        """Counters and histograms since the start."""
        self._set_rules(setup)
        self._set_servers(setup)
        self._grow_requests()
        if rules.events == "heap":
            self._read_all()

    def _set_rules(self, setup: Setup) -> None:
        control, real, rules = self._world.control, self._world.real, setup.rules
        control[p.C_FREE] = control[p.C_WAIT_HEAD] = control[p.C_WAIT_TAIL] = -1
        control[p.C_EVENTS] = semantics.EVENTS.index(rules.events)
        control[p.C_DECODE_KEY] = semantics.DECODE_KEYS.index(rules.decode_key)
        control[p.C_BATCHING] = semantics.BATCHINGS.index(rules.batching)
        control[p.C_KV] = semantics.KV_RULES.index(rules.kv)
        control[p.C_ROUTER] = semantics.ROUTERS.index(rules.router)
        control[p.C_SECOND_CHOICE] = semantics.SECOND_CHOICES.index(rules.second_choice)
        control[p.C_POOL_MOVES] = rules.pool_moves
        control[p.C_LINK] = semantics.LINKS.index(rules.link)
        control[p.C_MAX_PASSED_OVER] = rules.max_passed_over
        control[p.C_MAX_QUEUE_TOKENS] = rules.max_queue_tokens
        control[p.C_POOLED] = setup.pooled
        real[p.X_RETRY_S] = rules.retry_s
        real[p.X_MIXED_FACTOR] = rules.mixed_factor
        real[p.X_CACHED_SHARE] = setup.cached_share
        real[p.X_LINK_BYTES_PER_S] = 1.0
        if setup.link is not None:
            real[p.X_KV_BYTES] = setup.link.kv_bytes_per_token
            real[p.X_LINK_BYTES_PER_S] = setup.link.bytes_per_s
            real[p.X_LINK_LATENCY_S] = setup.link.latency_s

    def _set_servers(self, setup: Setup) -> None:
        w, n = self._world, self._servers
        role = np.array([ROLES.index(name) for name in setup.role])
        w.I[:, p.I_KIND] = setup.kind
        w.I[:, p.I_ROLE] = role
        # The first choices go through the servers in order of their index.
        w.I[:, p.I_LAST_CHOSEN] = np.arange(n)
        w.I[:, p.I_NEXT_DUE] = p.NEVER
        w.control[p.C_CHOSEN] = n
        for pool, members in enumerate((np.flatnonzero(role != p.TOKEN_ROLE), np.flatnonzero(role == p.TOKEN_ROLE))):
            w.pools[pool, : len(members)] = members
            w.control[(p.C_PROMPT_POOL, p.C_TOKEN_POOL)[pool]] = len(members)
        kv_tokens = w.params[w.I[:, p.I_KIND], p.P_KV_TOKENS].astype(np.int64)
        size = w.loads.shape[1] // 2
        w.loads[0, size : size + n] = np.where(role != p.TOKEN_ROLE, np.arange(n), p.NEVER)
        w.loads[1, size : size + n] = np.where(role == p.TOKEN_ROLE, (1 << 40) - kv_tokens, p.NEVER)
        for node in range(size - 1, 0, -1):
            w.loads[:, node] = np.minimum(w.loads[:, 2 * node], w.loads[:, 2 * node + 1])
        # No caps yet, so that the first ones differ.
        w.F[:, p.F_GIVEN_CLOCK_RATIO] = math.nan
        self.set_caps(np.ones(n), np.full(n, np.inf))

    def _read_all(self) -> None:
        """Put every arrival into the heap of events; in order of time they are a heap already."""
        blocks = list(self._blocks)
        for block in blocks:
            self._check(block)
        self._arrivals = _columns(blocks)
        self._world.control[p.C_LAST] = 1
        count = len(self._arrivals[0])
        room = max(len(self._world.event), 2 * count + FIRST_ROOM)
        event_s, event = np.zeros(room), np.zeros(room, np.int64)
        event_s[:count] = self._arrivals[0]
        event[:count] = (p.E_ARRIVAL << p.ID_BITS) | np.arange(count)
        self._world = self._world._replace(event_s=event_s, event=event)
        self._world.control[p.C_HEAP] = count

    def keep_record(self) -> None:
        """Keep `ttft_s` and `e2e_s` of every request from now on, at the start. Memory then grows with the requests."""
        if self.stats.count("arrived").any():
            raise InvariantViolated("a record begins with the first request")
        self._record = True
        self._world = self._world._replace(record=np.full((len(self._arrivals[0]), 2), np.nan))

    @property
    def servers(self) -> int:
        """How many there are."""
        return self._servers

    @property
    def clock_ratio(self) -> Vec:
        """Clock at which each server runs its present iteration, under its clock cap and power limit [n]."""
        return self._world.F[:, p.F_RUN_CLOCK_RATIO].copy()

    @property
    def busy(self) -> NDArray[np.bool_]:
        """Servers that worked at any time since the last take; right after it, those that worked before it [n]."""
        result: NDArray[np.bool_] = self._world.I[:, p.I_BUSY] != 0
        return result

    @property
    def outstanding(self) -> Ints:
        """Requests each server has yet to serve [n]."""
        return self._world.I[:, p.I_OUTSTANDING].copy()

    @property
    def held_tokens(self) -> Ints:
        """KV tokens that each server holds, those reserved included [n]."""
        return self._world.I[:, p.I_KV].copy()

    @property
    def energy_j(self) -> Vec:
        """Energy of each server from the start to the last take or change of its caps [n]."""
        return self._world.F[:, p.F_TOTAL_J].copy()

    @property
    def transfers(self) -> int:
        """KV caches that began to move."""
        return int(self._world.control[p.C_TRANSFERS])

    @property
    def in_flight(self) -> Ints:
        """Requests that arrived and are neither completed nor rejected, per priority [2]."""
        count = self.stats.count
        result: Ints = count("arrived") - count("completed") - count("rejected")
        return result

    @property
    def ttft_s(self) -> Vec:
        """Time to first token by order of arrival, NaN while there is none; only if kept."""
        return self._world.record[: self._world.control[p.C_INDEX], 0]

    @property
    def e2e_s(self) -> Vec:
        """Time from arrival to last token by order of arrival, NaN while there is none; only if kept."""
        return self._world.record[: self._world.control[p.C_INDEX], 1]

    def advance(self, until_s: float) -> None:
        """Let everything up to and at `until_s` happen."""
        if not self.now_s <= until_s < math.inf:
            raise InvariantViolated(f"the pools are at {self.now_s} s and cannot advance to {until_s} s")
        self._advance(float(until_s))
        self.now_s = until_s

    def drain(self, end_s: float = END_S) -> None:
        """Let everything happen that ever will, to the last event, or to `end_s` if some transfer is tried for ever."""
        self._advance(end_s)
        self.now_s = max(self.now_s, float(self._world.real[p.X_LAST_S]))

    def _advance(self, until_s: float) -> None:
        while (outcome := pools_kernel.advance(self._world, until_s, *self._arrivals)) != p.REACHED:
            self._resupply(outcome)

    def set_caps(self, clock_ratio: Vec, limit_w: Vec) -> None:
        """Put clock caps and power limits into force now; servers whose caps stay as they are cost nothing.

        Args:
            clock_ratio: cap over full clock; 1 is none [n].
            limit_w: per GPU; inf is none [n].
        """
        self._clock_ratio[:] = clock_ratio
        self._limit_w[:] = limit_w
        pools_kernel.set_caps(self._world, self.now_s, self._clock_ratio, self._limit_w)

    def take_mean_w(self) -> Vec:
        """Mean watts of each server since the last take [n]."""
        if self.now_s <= self._taken_s:
            raise InvariantViolated(f"no time has passed since the last take at {self._taken_s} s")
        mean_w = np.empty(self._servers)
        pools_kernel.take_mean_w(self._world, self.now_s, self._taken_s, mean_w)
        self._taken_s = self.now_s
        return mean_w

    def run_schedule(self, clock_ratio: Vec) -> Vec:
        """Advance in steps of one second under known clock caps, in one compiled loop; power limits stay.

        Args:
            clock_ratio: caps in force during each step [steps, n].

        Returns:
            Mean server watts of each step [steps, n].
        """
        start_s, steps = self.now_s, len(clock_ratio)
        mean_w = np.empty((steps, self._servers))
        if start_s > self._taken_s:
            self.take_mean_w()
        self._limit_w[:] = self._world.F[:, p.F_GIVEN_LIMIT_W]
        schedule = np.array(clock_ratio, np.float64, order="C")
        self._world.control[p.C_STEP] = 0
        while True:
            outcome = pools_kernel.run_schedule(self._world, start_s, schedule, self._limit_w, mean_w, *self._arrivals)
            if outcome == p.REACHED:
                break
            self._resupply(outcome)
        self.now_s = self._taken_s = start_s + steps
        return mean_w

    def _resupply(self, outcome: int) -> None:
        if outcome == p.NEEDS_ARRIVALS:
            self._read_block()
        elif outcome == p.POOL_FULL:
            self._grow_requests()
        elif outcome == p.HEAP_FULL:
            w = self._world
            self._world = w._replace(event_s=_doubled(w.event_s), event=_doubled(w.event))
        elif outcome == p.LISTS_FULL:
            self._world = self._world._replace(lists=_doubled(self._world.lists))
        else:
            raise DataError(
                "requests: these rules break down on an answer of one token, as the simulator they are of does; "
                "leave such requests out"
            )

    def _check(self, block: Arrivals) -> None:
        _check_block(block, self._last_arrival_s)
        self._last_arrival_s = float(block.arrival_s[-1])

    def _read_block(self) -> None:
        block = next(self._blocks, None)
        control = self._world.control
        control[p.C_CURSOR] = 0
        control[p.C_LAST] = block is None
        if block is None:
            self._arrivals = _columns([])
            return
        self._check(block)
        self._arrivals = _columns([block])
        if self._record:
            more = np.full((len(block), 2), np.nan)
            self._world = self._world._replace(record=np.concatenate((self._world.record, more)))

    def _grow_requests(self) -> None:
        """Double the room for requests in flight; those there keep their places."""
        old_floats = self._world.RF
        old = len(old_floats)
        new = max(2 * old, FIRST_ROOM)
        floats = np.zeros((new, p.NREQUEST))
        floats[:old] = old_floats
        ints = floats.view(np.int64)
        ints[old:, p.R_NEXT] = np.arange(old + 1, new + 1)
        ints[-1, p.R_NEXT] = self._world.control[p.C_FREE]
        self._world.control[p.C_FREE] = old
        self._world = self._world._replace(RF=floats, RI=ints)


def _doubled(array: NDArray[np.generic]) -> NDArray:  # type: ignore[type-arg]
    """The same with twice the room in its last axis."""
    grown = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    grown[..., : array.shape[-1]] = array
    return grown


def _columns(blocks: list[Arrivals]) -> Columns:
    """The columns of some blocks as compiled code knows them: contiguous, of these types, writable."""
    types = {"arrival_s": np.float64, "prompt_tokens": np.int32, "output_tokens": np.int32, "priority": np.int8}
    parts = [
        np.concatenate([np.empty(0, kind), *(np.asarray(getattr(block, name), kind) for block in blocks)])
        for name, kind in types.items()
    ]
    return cast("Columns", tuple(parts))


def _check_block(block: Arrivals, last_arrival_s: float) -> None:
    """Compiled code trusts its input: a wrong priority would write outside its arrays."""
    arrival_s = block.arrival_s
    if not (arrival_s[0] >= last_arrival_s and np.isfinite(arrival_s[-1]) and np.all(arrival_s[1:] >= arrival_s[:-1])):
        raise InvariantViolated(f"arrivals after {last_arrival_s} s are not in order of time")
    if min(block.prompt_tokens.min(), block.output_tokens.min()) < 1:
        raise InvariantViolated(f"a request without tokens after {last_arrival_s} s")
    if block.priority.min() < 0 or block.priority.max() >= len(PRIORITIES):
        raise InvariantViolated(f"a priority other than 0 and 1 after {last_arrival_s} s")
