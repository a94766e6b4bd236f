"""The screening tier: rows of servers over weeks, second by second, without following single requests.

Servers that share profile, priority and caps are one class (`fluid_kernel`). Each request of a second belongs to one of
a few types of prompt and output lengths; its prefill is booked where it falls, its decode flows with the tokens of the
class. Left out, against `plant.Plant`: which server a request meets (only how many servers hold how many), lengths
within a type, the order of requests within a second, latencies of single requests, how a power limit is approached (it
binds at once), and caps that change within a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Vec
from policies.errors import ConfigError, InvariantViolated
from sim_backend.arrivals import ArrivalSource
from sim_backend.iteration_tables import tables_of
from sim_backend.profile import Profile
from sim_backend.result import PRIORITIES

Counts = NDArray[np.int32]
Ints = NDArray[np.integer]

OUTPUT_GROUPS, PROMPT_GROUPS = 6, 4
"""Types are as many groups of equal size by output, each cut into as many by prompt."""
TICKS_BESIDE_OUTPUT = 4_096
"""Tokens that a class may gain while a prefill waits."""
LEVELS = 1_024
"""Outstanding requests per server that are told apart."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestTypes:
    """Lengths of requests, as a few types; arrays [types]."""

    prompt_tokens: Vec
    """Mean of the type."""
    prompt_square: Vec
    """Mean of the squares: attention grows with it."""
    output_tokens: Vec
    output_spread: Vec
    """Half the width of the even spread that has their standard deviation."""
    weight: Vec
    """Share of the requests."""
    output_edges: Vec
    """Upper bounds of the groups by output but the last."""
    prompt_edges: Vec
    """The same by prompt, of each group [groups, ...]."""

    @staticmethod
    def of(prompt_tokens: Vec | Ints, output_tokens: Vec | Ints, requests: Vec | Ints | None = None) -> "RequestTypes":
        """The types that the given requests fall into; groups of equal size, the longest together.

        Args:
            prompt_tokens: of each request, or the mean of several [k].
            output_tokens: likewise [k].
            requests: of how many; default: one each [k].
        """
        weight = np.ones(len(prompt_tokens)) if requests is None else np.asarray(requests, np.float64)
        if weight.sum() <= 0.0:
            raise ConfigError("types of requests need at least one request: give a trace that has some")
        prompt, output = np.asarray(prompt_tokens, np.float64), np.asarray(output_tokens, np.float64)
        output_edges = _edges(output, OUTPUT_GROUPS)
        group = np.searchsorted(output_edges, output)
        members = [group == g if (group == g).any() else slice(None) for g in range(OUTPUT_GROUPS)]
        prompt_edges = np.array([_edges(prompt[there], PROMPT_GROUPS) for there in members])
        empty = np.zeros(0)
        shape = RequestTypes(empty, empty, empty, empty, empty, output_edges, prompt_edges)
        index = shape.index(prompt, output)
        kinds = OUTPUT_GROUPS * PROMPT_GROUPS
        there = np.bincount(index, weights=weight, minlength=kinds)

        def mean(values: Vec) -> Vec:
            total = np.bincount(index, weights=weight * values, minlength=kinds)
            return np.divide(total, there, out=np.ones(kinds), where=there > 0.0)

        variance = np.maximum(mean(output**2) - mean(output) ** 2, 0.0)
        return RequestTypes(
            mean(prompt),
            mean(prompt**2),
            mean(output),
            np.minimum(np.sqrt(3.0 * variance), mean(output) - 1.0),
            there / weight.sum(),
            output_edges,
            prompt_edges,
        )

    def index(self, prompt_tokens: Vec | Ints, output_tokens: Vec | Ints) -> NDArray[np.int64]:
        """Type of each request [k]."""
        group = np.searchsorted(self.output_edges, output_tokens)
        within = (prompt_tokens[:, None] > self.prompt_edges[group]).sum(axis=1)
        return np.asarray(group * PROMPT_GROUPS + within, np.int64)


def _edges(values: Vec, groups: int) -> Vec:
    return np.asarray(np.quantile(values, np.arange(1, groups) / groups), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """Requests as counts."""

    types: RequestTypes
    counts: Counts
    """[seconds, priorities, types]"""

    @staticmethod
    def of_source(source: ArrivalSource, types: RequestTypes | None = None) -> "Demand":
        """The requests of a trace or a generator; its types are those of its first block unless given."""
        seconds = int(np.ceil(source.duration_s))
        found = types
        counts = np.zeros(0, np.int32)
        for block in source.blocks():
            if found is None:
                found = RequestTypes.of(block.prompt_tokens, block.output_tokens)
            kinds = len(found.weight)
            if not counts.size:
                counts = np.zeros(seconds * len(PRIORITIES) * kinds, np.int32)
            cell = (block.arrival_s.astype(np.int64) * len(PRIORITIES) + block.priority) * kinds
            cell += found.index(block.prompt_tokens, block.output_tokens)
            first = int(cell[0]) // (len(PRIORITIES) * kinds) * len(PRIORITIES) * kinds
            added = np.bincount(cell - first)
            counts[first : first + added.size] += added.astype(np.int32)
        if found is None:
            raise ConfigError("the screening tier was given no request: choose a longer part of the trace")
        return Demand(found, counts.reshape(seconds, len(PRIORITIES), len(found.weight)))

    @staticmethod
    def of_totals(requests: Ints, prompt_tokens: Ints, output_tokens: Ints) -> "Demand":
        """Requests of each second and priority of which only totals are known [seconds, priorities].

        Those of one second are taken as alike: a prompt twice as long as the mean of its second is not seen.
        """
        requests = np.asarray(requests)
        there = np.maximum(requests, 1)
        prompt, output = (np.maximum(np.asarray(total) / there, 1.0) for total in (prompt_tokens, output_tokens))
        types = RequestTypes.of(prompt.ravel(), output.ravel(), requests.ravel())
        counts = np.zeros((requests.size, len(types.weight)), np.int32)
        counts[np.arange(requests.size), types.index(prompt.ravel(), output.ravel())] = requests.ravel()
        return Demand(types, counts.reshape(*requests.shape, -1))

    @staticmethod
    def of_rate(rate_rps: Vec, types: RequestTypes, seed: int) -> "Demand":
        """Poisson arrivals at a rate that may change every second [seconds, priorities]."""
        rng = np.random.default_rng(seed)
        counts = np.empty((*rate_rps.shape, len(types.weight)), np.int32)
        hour_s = 3_600
        for first in range(0, len(rate_rps), hour_s):
            # In parts: the generator's own numbers have twice the size of what is kept.
            part = rate_rps[first : first + hour_s]
            counts[first : first + hour_s] = rng.poisson(part[:, :, None] * types.weight)
        return Demand(types, counts)


@dataclass(frozen=True, slots=True)
class ServerClass:
    """Servers alike: same profile, same priority, always under the same caps."""

    count: int
    profile: Profile
    priority: int


@dataclass(frozen=True, slots=True, eq=False)
class FluidRun:
    """What the screening tier says."""

    drawn_w: Vec
    """Mean watts of each second [seconds, classes]."""
    outstanding: Vec
    """Requests at the end of each second [seconds, classes]."""
    waiting: Vec
    """Of these not admitted, for want of prefill time, KV cache or batch [seconds, classes]."""


def run_fluid(
    classes: Sequence[ServerClass],
    demand: Demand,
    *,
    clock_ratio: Vec | None = None,
    limit_w: Vec | None = None,
    pack_to: int = 1,
) -> FluidRun:
    """Let idle servers meet `demand`.

    Args:
        classes: the servers; requests of a priority that no class is for go to all the others.
        demand: the requests.
        clock_ratio: clock cap over full clock, 1 is none [seconds, classes].
        limit_w: power limit of a GPU, inf is none [seconds, classes].
        pack_to: as the plant's.
    """
    from sim_backend import fluid_kernel as f

    seconds, n = len(demand.counts), len(classes)
    kinds = demand.types
    types = np.stack([kinds.prompt_tokens, kinds.prompt_square, kinds.output_tokens, kinds.output_spread], axis=1)
    _check_lengths(classes, types)
    ticks = 1 << int((types[:, 2] + types[:, 3]).max() + TICKS_BESIDE_OUTPUT).bit_length()
    levels = np.zeros((n, LEVELS))
    levels[:, 0] = [each.count for each in classes]
    drawn_w, requests = np.empty((seconds, n)), np.empty((seconds, n, 2))
    f.run(
        _served(demand.counts, classes),
        types,
        _caps(seconds, n, clock_ratio, limit_w),
        pack_to,
        drawn_w,
        requests,
        np.array([_params(each) for each in classes]),
        *tables_of([each.profile for each in classes], types, kinds.weight),
        np.zeros((n, f.NSTATE)),
        levels,
        np.zeros((n, ticks, 3)),
        np.zeros((n, f.AHEAD, 2)),
        np.zeros((seconds, n)),
    )
    return FluidRun(drawn_w, requests[:, :, 0], requests[:, :, 1])


def _check_lengths(classes: Sequence[ServerClass], types: Vec) -> None:
    if not classes:
        raise InvariantViolated("the screening tier needs a class of servers")
    for each in classes:
        longest = float((types[:, 0] + types[:, 2] + types[:, 3]).max())
        if longest > each.profile.kv_tokens:
            raise ConfigError(
                f"profile '{each.profile.name}': requests of {longest:.0f} tokens and more never fit into its KV cache "
                f"of {each.profile.kv_tokens} tokens; the screening tier needs servers that hold every type of request"
            )


def _served(counts: Counts, classes: Sequence[ServerClass]) -> Counts:
    """The counts by the priority of the servers that serve them."""
    present = {each.priority for each in classes}
    if len(present) == len(PRIORITIES):
        return np.ascontiguousarray(counts)
    moved = np.zeros_like(counts)
    moved[:, present.pop()] = counts.sum(axis=1)
    return moved


def _caps(seconds: int, classes: int, clock_ratio: Vec | None, limit_w: Vec | None) -> Vec:
    rows = 1 if clock_ratio is None and limit_w is None else seconds
    caps = np.empty((rows, classes, 2))
    caps[:, :, 0] = 1.0 if clock_ratio is None else clock_ratio
    caps[:, :, 1] = np.inf if limit_w is None else limit_w
    return caps


def _params(each: ServerClass) -> Vec:
    from sim_backend import fluid_kernel as f

    profile, model = each.profile, each.profile.iteration
    vector = np.zeros(f.NCLASS)
    common = (
        float(model is None),
        each.count,
        each.priority,
        profile.gpus,
        profile.other_w,
        profile.idle_w if model is None else model.idle_w,
        profile.min_mhz / profile.max_mhz,
        profile.kv_tokens,
        profile.max_batch,
        profile.max_batch_tokens,
    )
    vector[: f.K_OWN] = common
    if model is None:
        vector[f.K_OWN :] = [getattr(profile, name) for name in f.AFFINE_FIELDS]
    return vector
