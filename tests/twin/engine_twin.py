"""The plant again in plain Python: every single iteration is an event, nothing is jumped, cached or packed.

It shares with the compiled plant only the equations of `policies.models`, and is meant to be read against the
description of the engine, not against the kernel.
"""

import math
from dataclasses import dataclass, field

from policies.models import gpu_power, latency
from policies.models.clocks import dynamic_ratio
from policies.models.iteration import Iteration, iteration
from sim_backend.params import BURST, BURST_IDLE, TICK_S
from sim_backend.profile import Profile


@dataclass(eq=False)
class Request:
    index: int
    arrival_s: float
    prompt: int
    output: int
    priority: int
    ttft_s: float = math.nan
    e2e_s: float = math.nan
    tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)


@dataclass(eq=False)
class Server:
    index: int
    profile: Profile
    priority: int
    clock_cap: float = 1.0
    limit_w: float = math.inf
    queue: list[Request] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    batch: list[Request] = field(default_factory=list)
    last_chosen: int = -1
    begun_s: float = 0.0
    """When the present iteration began or was last rescaled; what is left of it then; how long all of it takes."""
    remaining: float = 1.0
    lasts_s: float = math.inf
    boundary_s: float = 0.0
    booked_s: float = 0.0
    energy_j: float = 0.0
    watched_w: float = math.inf
    """What the limiter holds, the clock it allows, and what the server has drawn since its last step."""
    allowed: float = 1.0
    stepped_s: float = 0.0
    watched_j: float = 0.0

    def __post_init__(self) -> None:
        self.watch(0.0, math.inf)

    @property
    def outstanding(self) -> int:
        return len(self.queue) + len(self.admitted) + len(self.batch)

    @property
    def working(self) -> bool:
        return bool(self.admitted or self.batch)

    @property
    def end_s(self) -> float:
        return self.begun_s + self.remaining * self.lasts_s if self.working else math.inf

    def clock(self, full_w: float, static_share: float, exponent: float) -> float:
        floor = self.profile.min_mhz / self.profile.max_mhz
        by_limit = self.allowed
        if full_w > self.limit_w and not self.profile.limiter_s:
            by_limit = float(gpu_power.clock_ratio_at(self.limit_w / full_w, static_share, exponent))
        return min(1.0, max(floor, min(self.clock_cap, by_limit)))

    def decode_clock(self) -> float:
        x = self.profile
        return self.clock(x.decode_ratio * x.tdp_w, x.decode_static_share, x.decode_exponent)

    def work(self) -> Iteration:
        """The present iteration under an iteration model."""
        model = self.profile.iteration
        assert model is not None
        requests, tokens = len(self.batch) + len(self.admitted), self.batched_tokens()
        pairs = sum(new * (new + 1) / 2 for new in (r.prompt for r in self.admitted))
        context = sum(r.prompt + r.tokens for r in self.batch)
        return iteration(model, requests, tokens, pairs, context, self.clock(0.0, 0.0, 1.0))

    def batched_tokens(self) -> int:
        return sum(r.prompt for r in self.admitted) + len(self.batch)

    def prefill_full_w(self) -> float:
        x = self.profile
        ratio = gpu_power.prefill_ratio(
            float(self.batched_tokens()), x.prefill_at_128, x.prefill_per_octave, x.prefill_ceiling
        )
        return float(ratio) * x.tdp_w

    def drawn_w(self) -> float:
        x = self.profile
        if x.iteration is not None:
            return x.other_w + x.gpus * (self.work().gpu_w if self.working else x.iteration.idle_w)
        if self.admitted:
            full_w = self.prefill_full_w()
            phi = self.clock(full_w, x.prefill_static_share, x.prefill_exponent)
            gpu_w = full_w * gpu_power.clock_factor(phi, x.prefill_static_share, x.prefill_exponent)
        elif self.batch:
            gpu_w = x.decode_ratio * x.tdp_w
            gpu_w *= gpu_power.clock_factor(self.decode_clock(), x.decode_static_share, x.decode_exponent)
        else:
            gpu_w = x.idle_w
        return x.other_w + x.gpus * max(gpu_w, x.idle_w)

    def iteration_s(self) -> float:
        x = self.profile
        if x.iteration is not None:
            return self.work().lasts_s
        decode_s = 0.0
        if self.batch:
            context = sum(r.prompt + r.tokens for r in self.batch)
            decode_s = latency.decode_s(
                float(len(self.batch)),
                float(context),
                x.decode_base_s,
                x.decode_per_request_s,
                x.decode_per_context_s,
            ) * latency.slowdown(self.decode_clock(), x.decode_clock_share)
        if not self.admitted:
            return decode_s
        prefill_s = latency.prefill_s(
            float(self.batched_tokens()), x.prefill_base_s, x.prefill_per_token_s, x.prefill_per_token2_s
        )
        phi = self.clock(self.prefill_full_w(), x.prefill_static_share, x.prefill_exponent)
        prefill_s *= latency.slowdown(phi, x.prefill_clock_share)
        return max(decode_s, prefill_s * x.mixed_batch_factor) if self.batch else prefill_s

    def book(self, now_s: float) -> None:
        joules = self.drawn_w() * (now_s - self.booked_s)
        self.energy_j += joules
        self.watched_j += joules
        self.booked_s = now_s

    def admit(self) -> None:
        x = self.profile
        reserved = sum(r.prompt + r.output for r in self.batch)
        tokens = 0
        while self.queue and len(self.batch) + len(self.admitted) < x.max_batch:
            head = self.queue[0]
            if reserved + head.prompt + head.output > x.kv_tokens:
                break
            if self.admitted and tokens + head.prompt > x.max_batch_tokens:
                break
            reserved += head.prompt + head.output
            tokens += head.prompt
            self.admitted.append(self.queue.pop(0))

    def begin(self, now_s: float) -> None:
        self.book(now_s)
        self.admit()
        self.begun_s = now_s
        self.remaining = 1.0
        self.boundary_s = now_s
        self.lasts_s = self.iteration_s() if self.working else math.inf

    def end(self, now_s: float) -> list[Request]:
        """One token for every resident and every admitted request; returns those that have all."""
        self.book(now_s)
        for request in self.batch:
            request.gaps_s.append(now_s - self.boundary_s)
        for request in self.admitted:
            request.ttft_s = now_s - request.arrival_s
        running = self.batch + self.admitted
        for request in running:
            request.tokens += 1
        done = [r for r in running if r.tokens == r.output]
        for request in done:
            request.e2e_s = now_s - request.arrival_s
        self.batch = [r for r in running if r.tokens < r.output]
        self.admitted = []
        return done

    def recap(self, now_s: float, clock_cap: float, limit_w: float) -> None:
        self.book(now_s)
        if self.working:
            self.remaining -= (now_s - self.begun_s) / self.lasts_s
            self.begun_s = now_s
        if limit_w != self.limit_w:
            self.watch(now_s, limit_w)
        self.clock_cap, self.limit_w = clock_cap, limit_w
        if self.working:
            self.lasts_s = self.iteration_s()

    def highest(self, burst: float) -> float:
        model = self.profile.iteration
        if model is None:
            return 1.0
        wanted = (burst * self.watched_w - model.idle_w - model.memory_w) / (model.active_w + model.compute_w)
        low, high = 0.0, 1.0
        for _ in range(60 if wanted < 1.0 else 0):
            middle = (low + high) / 2
            below = float(dynamic_ratio(middle, model.exponent, model.voltage_floor)) < wanted
            low, high = (middle, high) if below else (low, middle)
        return max(high, self.profile.min_mhz / self.profile.max_mhz)

    def watch(self, now_s: float, limit_w: float) -> None:
        x = self.profile
        if not x.limiter_s:
            return
        peak_w = x.tdp_w * max(x.prefill_ceiling, x.decode_ratio)
        if x.iteration is not None:
            peak_w = x.iteration.idle_w + x.iteration.active_w + x.iteration.compute_w + x.iteration.memory_w
        held_w = max(min(limit_w, x.tdp_w), x.min_limit_w)
        watched_w = held_w if held_w < peak_w else math.inf
        if watched_w == math.inf or self.watched_w == math.inf:
            self.allowed, self.stepped_s, self.watched_j = 1.0, now_s, 0.0
        self.watched_w = watched_w
        if watched_w < math.inf:
            self.allowed = min(self.allowed, self.highest(BURST))

    def step_limiter(self, now_s: float) -> None:
        x = self.profile
        if now_s - self.stepped_s < TICK_S / 2:
            return
        self.book(now_s)
        gpu_w = (self.watched_j / (now_s - self.stepped_s) - x.other_w) / x.gpus
        self.stepped_s, self.watched_j = now_s, 0.0
        over = gpu_w / self.watched_w - 1.0
        start = min(self.allowed, self.decode_clock()) if over > 0.0 else self.allowed
        allowed = start * max(1.0 - over * min(1.0 - math.exp(-TICK_S / x.limiter_s), 1 / 3), 0.75)
        highest = self.highest(BURST if self.working else BURST_IDLE)
        allowed = max(min(allowed, highest), x.min_mhz / x.max_mhz)
        if allowed != self.allowed:
            self.remaining -= (now_s - self.begun_s) / self.lasts_s if self.working else 0.0
            self.begun_s = now_s
            self.allowed = allowed
            self.lasts_s = self.iteration_s() if self.working else math.inf


class TwinPlant:
    def __init__(self, servers: list[Server], requests: list[Request]) -> None:
        self.servers = servers
        self.coming = list(requests)
        self.requests = requests
        self.rejected: list[Request] = []
        self.completed: list[Request] = []
        self.choices = 0
        self.pack_to = 1
        self.now_s = 0.0
        self.taken_s = 0.0
        self.tick = 1

    def advance(self, until_s: float) -> None:
        while True:
            server = min(self.servers, key=lambda s: (s.end_s, s.index))
            arrival_s = self.coming[0].arrival_s if self.coming else math.inf
            watched = [s for s in self.servers if s.watched_w < math.inf]
            tick_s = self.tick * TICK_S if watched else math.inf
            if min(server.end_s, tick_s, arrival_s) > until_s:
                break
            if tick_s < server.end_s and tick_s <= arrival_s:
                for each in watched:
                    each.step_limiter(tick_s)
                self.tick += 1
            elif server.end_s <= arrival_s:
                now_s = server.end_s
                self.completed += server.end(now_s)
                server.begin(now_s)
            else:
                self.arrive(self.coming.pop(0))
        self.now_s = until_s

    def rank(self, outstanding: int) -> int:
        return self.pack_to - 1 - outstanding if outstanding < self.pack_to else outstanding

    def arrive(self, request: Request) -> None:
        same = [s for s in self.servers if s.priority == request.priority]
        fits = [s for s in same or self.servers if s.profile.kv_tokens >= request.prompt + request.output]
        if not fits:
            self.rejected.append(request)
            return
        server = min(fits, key=lambda s: (self.rank(s.outstanding), s.last_chosen, s.index))
        server.last_chosen = self.choices
        self.choices += 1
        server.queue.append(request)
        if not server.working:
            server.begin(request.arrival_s)

    def set_caps(self, clock_ratio: list[float], limit_w: list[float]) -> None:
        if all(s.watched_w == math.inf for s in self.servers):
            self.tick = int(self.now_s / TICK_S) + 1
        for server, clock, limit in zip(self.servers, clock_ratio, limit_w, strict=True):
            server.recap(self.now_s, clock, limit)

    def take_mean_w(self) -> list[float]:
        mean_w = []
        for server in self.servers:
            server.book(self.now_s)
            mean_w.append(server.energy_j / (self.now_s - self.taken_s))
            server.energy_j = 0.0
        self.taken_s = self.now_s
        return mean_w
