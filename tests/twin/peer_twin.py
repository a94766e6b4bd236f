"""Splitwise's published simulator again, in plain Python: who waits for whom, event by event.

Written from its rules, to be read against docs/semantics.md. Ties between events are part of the rules: they are broken
by where `heapq` keeps an event, so events live in a `heapq` here too, those that no longer count included.
"""

import heapq
import math
from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

NONE, QUEUED, RUNNING, BLOCKED, DONE = range(5)
RETRY_S = 1.0
END_S = 86_400.0


@dataclass(eq=False)
class Job:
    index: int
    arrival_s: float
    prompt: int
    output: int
    held_bytes: int = 0
    ttft_s: float = math.nan
    e2e_s: float = math.nan
    prefill: "Work" = None  # type: ignore[assignment]
    decode: "Work" = None  # type: ignore[assignment]


@dataclass(eq=False)
class Work:
    """The prefill or the decode of a job."""

    job: Job
    prompt: bool
    tokens: int
    """Of the prompt, or still to generate after the first."""
    state: int = NONE
    passed_over: int = 0
    generated: float = 0
    generating: float = 0
    chained: bool = False
    engine: "Engine" = None  # type: ignore[assignment]

    @property
    def per_iteration(self) -> int:
        return self.tokens if self.prompt else 1

    @property
    def needs_tokens(self) -> int:
        return self.tokens + 1 if self.prompt else self.tokens


@dataclass(eq=False)
class Event:
    time_s: float
    act: Callable[[], None]
    dropped: bool = False

    def __lt__(self, other: "Event") -> bool:
        return self.time_s < other.time_s


@dataclass(frozen=True)
class Limits:
    batch: int = 512
    batch_tokens: int = 2048
    passed_over: int = 4
    prompt_queue_tokens: int = 8192
    memory_bytes: int = 85899345920 * 8
    weight_bytes: int = 329_000_000_000
    token_bytes: int = 2 * 14336 * 70 * 2
    link_bytes_per_s: float = 200 * 1024**3
    mixed_factor: float = 1.1


@dataclass(frozen=True)
class Speed:
    """Medians over points of equal batched tokens, and straight lines between and beyond them."""

    tokens: tuple[float, ...]
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]

    def at(self, values: tuple[float, ...], tokens: float) -> float:
        x = self.tokens
        low = min(max(next((i for i, each in enumerate(x) if each >= tokens), len(x)), 1), len(x) - 1) - 1
        slope = (values[low + 1] - values[low]) / (x[low + 1] - x[low])
        return slope * (tokens - x[low]) + values[low]


@dataclass(eq=False)
class Engine:
    site: "PeerTwin"
    speed: Speed
    home: str
    mixed: bool = False
    memory: int = 0
    booked_memory: int = 0
    booked_tokens: int = 0
    batch_tokens: int = 0
    pending: list[Work] = field(default_factory=list)
    pending_prompts: list[Work] = field(default_factory=list)
    blocked: list[Work] = field(default_factory=list)
    batch: list[Work] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    works: dict[Job, list[Work]] = field(default_factory=dict)
    event: Event | None = None
    iteration_s: float = 0.0
    iterations: float = 0
    pausing: bool = False

    def __post_init__(self) -> None:
        self.memory = self.booked_memory = self.site.limits.weight_bytes

    def bytes_of(self, work: Work) -> int:
        return work.needs_tokens * self.site.limits.token_bytes

    def fits(self, work: Work, memory: int) -> bool:
        return self.bytes_of(work) + memory <= self.site.limits.memory_bytes

    def any_prompt(self) -> bool:
        return any(work.prompt for work in self.batch)

    def release(self, size: int) -> None:
        self.memory -= size
        self.booked_memory -= size

    def enqueue(self, work: Work) -> None:
        insort(self.pending, work, key=lambda w: (w.passed_over, w.job.arrival_s))
        if work.prompt:
            self.pending_prompts.append(work)

    def arrive(self, work: Work) -> None:
        work.engine = self
        work.state = QUEUED
        job, limits = work.job, self.site.limits
        if job in self.works:
            self.works[job].append(work)
        else:
            self.jobs.insert(bisect_right(self.jobs, job.arrival_s, key=lambda j: j.arrival_s), job)
            self.works[job] = [work]
        self.enqueue(work)
        if not self.batch:
            if self.fits(work, self.memory):
                self.start()
            return
        if len(self.batch) < limits.batch and self.batch_tokens + work.per_iteration <= limits.batch_tokens:
            self.pause()
        elif work.prompt and any(not each.prompt for each in self.batch):
            decodes = sum(not each.prompt for each in self.batch)
            if self.batch_tokens - decodes + work.tokens <= limits.batch_tokens:
                self.pause()

    def choose(self) -> list[Work]:
        """The next batch, in the order in which room is given."""
        limits = self.site.limits
        chosen: list[Work] = []
        jobs: set[Job] = set()
        memory, tokens = self.memory, 0

        def full(work: Work) -> bool:
            return len(chosen) == limits.batch or (bool(chosen) and tokens + work.per_iteration > limits.batch_tokens)

        def take(work: Work, needs_memory: bool) -> None:
            nonlocal memory, tokens
            chosen.append(work)
            jobs.add(work.job)
            tokens += work.per_iteration
            memory += self.bytes_of(work) if needs_memory else 0

        for work in self.pending:
            if work.passed_over < limits.passed_over or full(work):
                break
            if work.job in jobs:
                continue
            if work.state == BLOCKED:
                take(work, needs_memory=False)
            elif self.fits(work, memory):
                take(work, needs_memory=True)
        for work in self.pending_prompts:
            if full(work):
                break
            if work.job in jobs:
                continue
            if not self.fits(work, memory):
                break
            take(work, needs_memory=True)
        for work in [*self.blocked]:
            if full(work):
                break
            if work.job not in jobs:
                take(work, needs_memory=False)
        for work in self.batch:
            if full(work):
                break
            if work.job not in jobs:
                take(work, needs_memory=False)
        for job in self.jobs:
            if len(chosen) == limits.batch:
                break
            work = self.works[job][0]
            if job in jobs:
                continue
            if full(work):
                break
            if work.state == BLOCKED:
                take(work, needs_memory=False)
            elif self.fits(work, memory):
                take(work, needs_memory=True)
            else:
                break
        self.batch_tokens = tokens
        return chosen

    def start(self) -> None:
        chosen = self.choose()
        out = [work for work in self.batch if work not in chosen]
        new = [work for work in chosen if work not in self.batch]
        for work in out:
            assert not work.prompt
            work.state = BLOCKED
            self.batch.remove(work)
            self.enqueue(work)
            self.blocked.append(work)
        for work in new:
            self.pending.remove(work)
            if work in self.blocked:
                self.blocked.remove(work)
            if work.prompt:
                self.pending_prompts.remove(work)
            self.batch.append(work)
        for job in self.jobs:
            if self.works[job][0] not in self.batch:
                self.works[job][0].passed_over += 1
        if not self.batch:
            if not self.jobs:
                self.site.on_idle(self)
            return
        prompts = sum(work.prompt for work in self.batch)
        tokens = sum(work.job.prompt if work.prompt else 1 for work in self.batch)
        if prompts == 0:
            self.iteration_s = self.speed.at(self.speed.decode_s, tokens)
        else:
            self.iteration_s = self.speed.at(self.speed.prefill_s, tokens)
            if prompts < len(self.batch):
                self.iteration_s *= self.site.limits.mixed_factor
        self.iterations = 1 if prompts else min(work.tokens - work.generated for work in self.batch)
        for work in self.batch:
            work.generating = self.iterations
            if work.state == QUEUED:
                self.memory += self.bytes_of(work)
                work.job.held_bytes += self.bytes_of(work)
            work.state = RUNNING
        self.event = self.site.after(self.iteration_s * self.iterations, self.complete)

    def pause(self) -> None:
        """Let the decode iterations end with the one in progress."""
        if self.pausing or self.any_prompt():
            return
        self.pausing = True
        assert self.event is not None, "the original fails here"
        since_s = self.site.now_s - (self.event.time_s - self.iteration_s * self.iterations)
        self.iterations = since_s // self.iteration_s + 1
        for work in self.batch:
            work.generating = self.iterations
        self.event.dropped = True
        self.event = self.site.after(self.iteration_s * self.iterations - since_s, self.complete)

    def complete(self) -> None:
        ended = []
        for work in self.batch:
            work.generated += work.generating
            if work.generated == (1 if work.prompt else work.tokens):
                ended.append(work)
        for work in ended:
            self.finish(work)
        self.pausing = False
        self.start()

    def finish(self, work: Work) -> None:
        job = work.job
        work.state = DONE
        self.booked_tokens -= work.tokens if work.prompt else 1
        if not work.prompt:
            self.release(job.held_bytes)
            job.held_bytes = 0
        self.batch.remove(work)
        self.works[job].remove(work)
        if not self.works[job]:
            self.jobs.remove(job)
            del self.works[job]
        if not work.prompt:
            job.e2e_s = self.site.now_s - job.arrival_s
            return
        job.ttft_s = self.site.now_s - job.arrival_s
        if not work.chained:
            self.site.send(job, self)

    def sent(self) -> None:
        """A transfer from here has ended."""
        if not self.pending:
            return
        if not self.batch:
            if self.fits(self.pending[0], self.memory):
                self.start()
        elif len(self.batch) < self.site.limits.batch and self.batch_tokens < self.site.limits.batch_tokens:
            self.pause()


class PeerTwin:
    """A cluster with one router; `homes` are "prompt" or "token", or "" for joining the shortest queue."""

    def __init__(self, speeds: list[Speed], homes: list[str], limits: Limits) -> None:
        self.limits = limits
        self.now_s = 0.0
        self.events: list[Event] = []
        self.engines = [Engine(self, speed, home) for speed, home in zip(speeds, homes, strict=True)]
        self.prompt_pool = [engine for engine in self.engines if engine.home == "prompt"]
        self.token_pool = [engine for engine in self.engines if engine.home == "token"]
        self.mixed_pool: list[Engine] = []

    def after(self, delay_s: float, act: Callable[[], None]) -> Event | None:
        if delay_s == 0:
            act()
            return None
        event = Event(self.now_s + delay_s, act)
        heapq.heappush(self.events, event)
        return event

    def run(self, arrivals: list[tuple[float, int, int]]) -> list[Job]:
        jobs = [Job(index, *arrival) for index, arrival in enumerate(arrivals)]
        for job in jobs:
            job.prefill = Work(job, True, job.prompt)
            job.decode = Work(job, False, job.output - 1)
            self.after(job.arrival_s, partial(self.arrive, job))
        while self.events and self.now_s < END_S:
            event = heapq.heappop(self.events)
            if not event.dropped:
                self.now_s = event.time_s
                event.act()
        return jobs

    def arrive(self, job: Job) -> None:
        if self.engines[0].home:
            first, second = self.split(job)
        else:
            first = second = min(self.engines, key=lambda engine: engine.booked_tokens)
        first.booked_tokens += job.prompt
        second.booked_tokens += 1
        job.prefill.engine, job.decode.engine = first, second
        job.prefill.chained = first is second
        first.arrive(job.prefill)
        if first is second:
            first.arrive(job.decode)

    def split(self, job: Job) -> tuple[Engine, Engine]:
        """An engine for the prefill and one for the decode, taken out of their pools if those are full."""
        prompt_bytes = self.limits.token_bytes * job.prefill.needs_tokens
        both_bytes = prompt_bytes + self.limits.token_bytes * job.decode.needs_tokens
        first = second = None
        for pool in (self.prompt_pool, self.mixed_pool):
            best = min(pool, key=lambda engine: engine.booked_tokens, default=None)
            if best is None:
                continue
            if not best.pending or best.booked_tokens + job.prompt <= self.limits.prompt_queue_tokens:
                first = best
                break
        for pool in (self.token_pool, self.mixed_pool):
            best = min(pool, key=lambda engine: engine.booked_memory, default=None)
            if best is not None and best.booked_memory + both_bytes < self.limits.memory_bytes:
                second = best
                break
        if first is None and self.token_pool:
            first = self.borrow(self.token_pool, min(self.token_pool, key=lambda engine: engine.booked_tokens))
        if second is None and self.prompt_pool:
            second = self.borrow(self.prompt_pool, min(self.prompt_pool, key=lambda engine: engine.booked_memory))
        if first is None or second is None:
            pools = self.prompt_pool + self.mixed_pool + self.token_pool
            first = second = min(pools, key=lambda engine: engine.booked_tokens)
        if first is second:
            first.booked_memory += both_bytes
        else:
            first.booked_memory += prompt_bytes
            second.booked_memory += both_bytes
        return first, second

    def borrow(self, pool: list[Engine], engine: Engine) -> Engine:
        pool.remove(engine)
        self.mixed_pool.append(engine)
        engine.mixed = True
        return engine

    def on_idle(self, engine: Engine) -> None:
        if engine.mixed:
            engine.mixed = False
            self.mixed_pool.remove(engine)
            (self.prompt_pool if engine.home == "prompt" else self.token_pool).append(engine)

    def send(self, job: Job, source: Engine) -> None:
        """The KV cache of the prompt moves, on a link of its own; without room at its end it tries again later."""
        goal = job.decode.engine
        if goal.memory + job.held_bytes > self.limits.memory_bytes:
            self.after(RETRY_S, lambda: self.send(job, source))
            return
        goal.memory += job.held_bytes
        lasts_s = self.limits.token_bytes * job.prompt / self.limits.link_bytes_per_s
        self.after(lasts_s, lambda: self.received(job, source, goal))

    def received(self, job: Job, source: Engine, goal: Engine) -> None:
        source.release(job.held_bytes)
        goal.arrive(job.decode)
        source.sent()
