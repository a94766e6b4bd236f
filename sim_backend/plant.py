"""A fleet of serving engines under load and caps: what is drawn, how long users wait."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvariantViolated
from sim_backend import params as p
from sim_backend import plant_kernel
from sim_backend.arrivals import Arrivals, ArrivalSource
from sim_backend.casing import Casings
from sim_backend.histogram import BINS
from sim_backend.profile import Profile
from sim_backend.result import PRIORITIES, Vec
from sim_backend.site import Slo
from sim_backend.winner_tree_kernel import leaves, play

Ints = NDArray[np.int64]
Columns = tuple[Vec, NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]
State = tuple[Any, ...]
"""As `world_kernel.World`."""

LINE_BYTES = 64
FIRST_POOL = 1024
"""Requests in flight there is room for at the start; doubled whenever it runs out."""
FIRST_HEAP = 16
"""Residents of a server there is room for at the start, likewise."""


@dataclass(frozen=True, slots=True, eq=False)
class PlantStats:
    """Counts so far; live views of the plant's own arrays, index 0 low priority, 1 high."""

    counts: Ints
    """Rows are priorities, columns `params.COUNTERS`."""
    bins: Ints
    """Histograms [params.NHISTOGRAM, BINS]."""
    _hour_began: Ints = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hour_began", self.e2e_s.copy())

    def count(self, name: str) -> Ints:
        """Counter `name` per priority [2]: one of `params.COUNTERS`."""
        return self.counts[:, p.COUNTERS.index(name)]

    @property
    def arrived(self) -> Ints:
        """Requests that came, rejected ones included [2]."""
        return self.count("arrived")

    @property
    def completed(self) -> Ints:
        """Requests that have all their tokens [2]."""
        return self.count("completed")

    @property
    def rejected(self) -> Ints:
        """Requests longer than the KV cache of every server of their class [2]."""
        return self.count("rejected")

    @property
    def prompt_tokens(self) -> Ints:
        """Prompt tokens of all prefills that have ended [2]."""
        return self.count("prompt_tokens")

    @property
    def generated_tokens(self) -> Ints:
        """Tokens generated, also those of requests still in flight [2].

        Those of a decode run still in progress are counted when it ends or a cap changes.
        """
        return self.count("generated_tokens")

    @property
    def good(self) -> Ints:
        """Completed requests that met both targets of their priority [2]."""
        return self.count("good")

    @property
    def ttft_s(self) -> Ints:
        """Histograms of the time to first token [2, BINS]."""
        return self.bins[p.H_TTFT : p.H_TTFT + 2]

    @property
    def tbt_s(self) -> Ints:
        """Histograms of the gaps between consecutive tokens of a request [2, BINS].

        Gaps between two decisions are counted at their mean; they differ by the growth of the context alone.
        """
        return self.bins[p.H_TBT : p.H_TBT + 2]

    @property
    def e2e_s(self) -> Ints:
        """Histograms of the time from arrival to last token [2, BINS]."""
        return self.bins[p.H_E2E : p.H_E2E + 2]

    def take_hour_e2e_s(self) -> Ints:
        """Histograms of the end-to-end time of requests completed since the last call [2, BINS]."""
        taken: Ints = self.e2e_s - self._hour_began
        self._hour_began[:] = self.e2e_s
        return taken


class Plant:
    """Simulated servers, each one serving engine over all its GPUs, behind one router.

    Events up to and at the present instant have happened. Memory depends on the servers and on the requests in flight,
    not on the length of the run.
    """

    def __init__(
        self,
        profiles: Sequence[Profile],
        sku: NDArray[np.integer],
        priority: NDArray[np.integer],
        source: ArrivalSource,
        slo: Mapping[str, Slo],
        *,
        pack_to: int = 1,
    ) -> None:
        """Idle servers at time 0 without caps.

        Args:
            profiles: the kinds of servers.
            sku: index into `profiles` per server [n].
            priority: which requests each server is for, 0 low, 1 high [n].
            source: the requests.
            slo: targets by name of the priority; a priority without any is always good.
            pack_to: servers are filled one after the other up to this many outstanding requests, beyond it evenly;
                1 is evenly from the start.
        """
        n = len(sku)
        if n == 0 or len(priority) != n:
            raise InvariantViolated(f"a plant of {n} servers with {len(priority)} priorities")
        self.now_s = 0.0
        self._taken_s = 0.0
        self._blocks: Iterator[Arrivals] = source.blocks()
        self._record = False
        self._last_arrival_s = 0.0
        size = leaves(n)
        self._servers, self._limiters = _rows(n, p.SERVER), _rows(n, p.LIMITER)
        self._params, self._tables = p.param_rows(profiles)
        self._casings = Casings(profiles, np.asarray(sku))
        self._heap = _heap(n, 0, int(self._params["max_batch"].max()))
        self._ends_s = np.full(size, np.inf)
        self._ends_won = play(self._ends_s)
        self._loads = np.full(2 * size, p.NEVER, np.int64)
        self._loads_won = np.zeros(2 * size, np.int32)
        self._slo = np.full((len(PRIORITIES), 2), np.inf)
        for index, name in enumerate(PRIORITIES):
            if name in slo:
                self._slo[index] = slo[name].ttft_s, slo[name].tpot_s
        self._counts = np.zeros((len(PRIORITIES), p.NCOUNTER), np.int64)
        self._bins = np.zeros((p.NHISTOGRAM, BINS), np.int64)
        self._records = np.empty((0, 2))
        self._control = np.zeros(p.NCONTROL, np.int64)
        self._control[p.C_FREE] = -1
        self._control[p.C_PACK_TO] = pack_to
        self._requests = _rows(0, p.REQUEST)
        self._indices = np.empty(0, np.int64)
        # Compiled code is specific to layout, type and even writability: callers' caps are copied here.
        self._clock_ratio, self._limit_w = np.empty(n), np.empty(n)
        self._arrivals = _columns(None)
        self.stats = PlantStats(self._counts, self._bins)
        """Counters and histograms since the start."""
        self._grow_pool()
        self._install(np.asarray(sku), np.asarray(priority), size)

    def _install(self, sku: NDArray[np.integer], priority: NDArray[np.integer], size: int) -> None:
        n = len(sku)
        servers = self._servers
        servers["profile"] = sku
        servers["priority"] = priority
        # The first choices go through the servers in order of their index.
        servers["last_chosen"] = np.arange(n)
        self._control[p.C_CHOSEN] = n
        empty_rank = (int(self._control[p.C_PACK_TO]) - 1) << p.CHOSEN_BITS
        for code in range(len(PRIORITIES)):
            tree = slice(size * code, size * (code + 1))
            self._loads[tree][:n] = np.where(priority == code, empty_rank | servers["last_chosen"], p.NEVER)
            self._loads_won[tree] = play(self._loads[tree])
        servers["drawn_w"] = self._params["idle_server_w"][sku]
        servers["limit_w"] = np.inf
        self._limiters["clock_ratio"] = 1.0
        self._limiters["limit_w"] = np.inf
        # No caps yet, so that the first ones differ.
        servers["given_clock_ratio"] = math.nan
        self.set_caps(np.ones(n), np.full(n, np.inf))

    def keep_record(self) -> None:
        """Keep `ttft_s` and `e2e_s` of every request from now on, at the start. Memory then grows with the requests."""
        if self.stats.arrived.any():
            raise InvariantViolated("a record begins with the first request")
        self._record = True
        self._indices = np.empty(len(self._requests), np.int64)
        self._gather_state()

    @property
    def servers(self) -> int:
        """How many there are."""
        return len(self._servers)

    @property
    def clock_ratio(self) -> Vec:
        """Clock at which each server decodes now, under its clock cap and power limit [n]."""
        clock_ratio: Vec = self._servers["clock_ratio"].copy()
        return clock_ratio

    @property
    def busy(self) -> NDArray[np.bool_]:
        """Servers that worked at any time since the last take; right after it, those that worked before it [n]."""
        result: NDArray[np.bool_] = self._servers["busy"] != 0
        return result

    @property
    def outstanding(self) -> Ints:
        """Requests each server has yet to complete [n]."""
        return self._servers["outstanding"].astype(np.int64)

    @property
    def in_flight(self) -> Ints:
        """Requests that arrived and are neither completed nor rejected, per priority [2]."""
        result: Ints = self.stats.arrived - self.stats.completed - self.stats.rejected
        return result

    @property
    def ttft_s(self) -> Vec:
        """Time to first token by order of arrival, NaN while there is none; only if kept."""
        return self._records[: self._control[p.C_INDEX], 0]

    @property
    def e2e_s(self) -> Vec:
        """Time from arrival to last token by order of arrival, NaN while there is none; only if kept."""
        return self._records[: self._control[p.C_INDEX], 1]

    def advance(self, until_s: float) -> None:
        """Let everything up to and at `until_s` happen."""
        if not self.now_s <= until_s < math.inf:
            raise InvariantViolated(f"the plant is at {self.now_s} s and cannot advance to {until_s} s")
        until_s = float(until_s)
        while (outcome := plant_kernel.advance(until_s, *(*self._arrivals, *self._state))) != p.REACHED:
            self._resupply(outcome)
        self.now_s = until_s

    def set_caps(self, clock_ratio: Vec, limit_w: Vec) -> None:
        """Put clock caps and power limits into force now; servers whose caps stay as they are cost nothing.

        Args:
            clock_ratio: cap over full clock; 1 is none [n].
            limit_w: per GPU; inf is none [n]. Binds at once, or as firmware regulates (`Profile.limiter_s`): then a
                load that starts draws too much for about that long, TDP is a limit too, and none is below the lowest
                that the GPU accepts.
        """
        self._clock_ratio[:] = clock_ratio
        self._limit_w[:] = limit_w
        plant_kernel.set_caps(self.now_s, self._clock_ratio, self._limit_w, *self._state)

    def take_mean_w(self) -> Vec:
        """Mean watts of each server since the last take [n]."""
        mean_w = np.empty(self.servers)
        if self.now_s <= self._taken_s:
            raise InvariantViolated(f"no time has passed since the last take at {self._taken_s} s")
        plant_kernel.take_mean_w(self.now_s, self._taken_s, mean_w, self._servers, self._limiters, self._control)
        step_s, self._taken_s = self.now_s - self._taken_s, self.now_s
        return self._casings.around(mean_w, step_s)

    def run_schedule(self, clock_ratio: Vec) -> Vec:
        """Advance in steps of one second under known clock caps, in one compiled loop; power limits stay.

        Args:
            clock_ratio: caps in force during each step [steps, n].

        Returns:
            Mean server watts of each step [steps, n].
        """
        start_s, steps = self.now_s, len(clock_ratio)
        mean_w = np.empty((steps, self.servers))
        if start_s > self._taken_s:
            self.take_mean_w()
        self._limit_w[:] = self._servers["given_limit_w"]
        schedule = np.array(clock_ratio, np.float64, order="C")
        self._control[p.C_STEP] = 0
        while True:
            outcome = plant_kernel.run_schedule(
                start_s, schedule, self._limit_w, mean_w, *(*self._arrivals, *self._state)
            )
            if outcome == p.REACHED:
                break
            self._resupply(outcome)
        self.now_s = self._taken_s = start_s + steps
        for row in mean_w:
            self._casings.around(row, 1.0)
        return mean_w

    def _resupply(self, outcome: int) -> None:
        if outcome == p.POOL_FULL:
            self._grow_pool()
            return
        if outcome == p.HEAP_FULL:
            old = self._heap
            self._heap = _heap(self.servers, old.shape[1], int(self._params["max_batch"].max()))
            self._heap[:, : old.shape[1]] = old
            self._gather_state()
            return
        block = next(self._blocks, None)
        self._arrivals = _columns(block)
        self._control[p.C_CURSOR] = 0
        self._control[p.C_LAST] = block is None
        if block is not None and len(block):
            _check_block(block, self._last_arrival_s)
            self._last_arrival_s = float(block.arrival_s[-1])
            if self._record:
                self._records = np.concatenate((self._records, np.full((len(block), 2), np.nan)))
                self._gather_state()

    def _grow_pool(self) -> None:
        """Double the room for requests in flight; those there keep their places."""
        old = len(self._requests)
        new = max(2 * old, FIRST_POOL)
        requests = _rows(new, p.REQUEST)
        requests[:old] = self._requests
        requests["behind"][old:] = np.arange(old + 1, new + 1)
        requests["behind"][-1] = self._control[p.C_FREE]
        self._control[p.C_FREE] = old
        self._requests = requests
        if self._record:
            self._indices = np.concatenate((self._indices, np.empty(new - old, np.int64)))
        self._gather_state()

    def _gather_state(self) -> None:
        """The arguments of every call into compiled code, in the order of its `World`."""
        self._state: State = (
            self._servers,
            self._limiters,
            self._requests,
            self._indices,
            self._heap,
            self._ends_s,
            self._ends_won,
            self._loads,
            self._loads_won,
            self._params,
            self._tables,
            self._slo,
            self._counts,
            self._bins,
            self._records,
            self._control,
        )


def _rows(count: int, layout: np.dtype[np.void]) -> p.Rows:
    """Zeroed rows that begin at a cache line."""
    store = np.zeros(count * layout.itemsize + LINE_BYTES, np.uint8)
    skip = -store.ctypes.data % LINE_BYTES
    return store[skip : skip + count * layout.itemsize].view(layout)


def _heap(servers: int, old: int, max_batch: int) -> Ints:
    """Room for twice as many residents of each server as `old`, but for no more than there may be."""
    return np.zeros((servers, min(max(2 * old, FIRST_HEAP), max_batch + 1)), np.int64)


def _columns(block: Arrivals | None) -> Columns:
    """The columns of a block as compiled code knows them: contiguous, of these types, writable."""
    if block is None:
        return np.empty(0), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int8)
    return (
        np.array(block.arrival_s, np.float64),
        np.array(block.prompt_tokens, np.int32),
        np.array(block.output_tokens, np.int32),
        np.array(block.priority, np.int8),
    )


def _check_block(block: Arrivals, last_arrival_s: float) -> None:
    """Compiled code trusts its input: a wrong priority would write outside its arrays."""
    arrival_s = block.arrival_s
    if not (arrival_s[0] >= last_arrival_s and np.isfinite(arrival_s[-1]) and np.all(arrival_s[1:] >= arrival_s[:-1])):
        raise InvariantViolated(f"arrivals after {last_arrival_s} s are not in order of time")
    if min(block.prompt_tokens.min(), block.output_tokens.min()) < 1:
        raise InvariantViolated(f"a request without tokens after {last_arrival_s} s")
    if block.priority.min() < 0 or block.priority.max() >= len(PRIORITIES):
        raise InvariantViolated(f"a priority other than 0 and 1 after {last_arrival_s} s")
