"""Our own rules in plain Python: chunked prefill, prompt and token pools, shared links; every iteration is an event.

It shares with the compiled pools only the equations of `policies.models`.
"""

import math
from dataclasses import dataclass, field

from policies.models import gpu_power, latency
from policies.models.iteration import IterationModel, iteration
from sim_backend.pools.kinds import Kind
from sim_backend.pools.setup import KvLink
from sim_backend.profile import Profile


@dataclass(eq=False)
class Ask:
    arrival_s: float
    prompt: int
    output: int
    done: int = 0
    tokens: int = 0
    held: int = 0
    ttft_s: float = math.nan
    e2e_s: float = math.nan
    source: "Engine" = None  # type: ignore[assignment]
    goal: "Engine" = None  # type: ignore[assignment]


@dataclass(eq=False)
class Engine:
    index: int
    kind: Kind
    role: str
    clock_ratio: float
    queue: list[Ask] = field(default_factory=list)
    batch: list[Ask] = field(default_factory=list)
    parts: list[tuple[Ask, int]] = field(default_factory=list)
    kv: int = 0
    outstanding: int = 0
    last_chosen: int = 0
    end_s: float = math.inf
    out_free_s: float = 0.0
    in_free_s: float = 0.0
    energy_j: float = 0.0
    idle_since_s: float | None = 0.0

    def affine(self, profile: Profile) -> tuple[float, float]:
        batch = len(self.batch)
        phi = self.clock_ratio
        context = sum(ask.prompt + ask.tokens for ask in self.batch)
        decode_s = 0.0
        if batch:
            decode_s = latency.decode_s(
                float(batch),
                float(context),
                profile.decode_base_s,
                profile.decode_per_request_s,
                profile.decode_per_context_s,
            ) * latency.slowdown(phi, profile.decode_clock_share)
        factor = gpu_power.clock_factor(phi, profile.decode_static_share, profile.decode_exponent)
        gpu_w = profile.decode_ratio * profile.tdp_w * factor
        if self.parts:
            tokens = float(sum(part for _, part in self.parts) + batch)
            cross = sum(part * ask.done for ask, part in self.parts)
            per_token2_s = profile.prefill_per_token2_s
            lasts_s = latency.prefill_s(tokens, profile.prefill_base_s, profile.prefill_per_token_s, per_token2_s)
            lasts_s = (lasts_s + 2.0 * per_token2_s * cross) * latency.slowdown(phi, profile.prefill_clock_share)
            if batch:
                lasts_s = max(lasts_s * self.kind.mixed_factor, decode_s)
            decode_s = lasts_s
            ratio = gpu_power.prefill_ratio(
                tokens, profile.prefill_at_128, profile.prefill_per_octave, profile.prefill_ceiling
            )
            factor = gpu_power.clock_factor(phi, profile.prefill_static_share, profile.prefill_exponent)
            gpu_w = float(ratio) * profile.tdp_w * factor
        return decode_s, max(gpu_w, profile.idle_w)

    def two_resources(self, model: IterationModel) -> tuple[float, float]:
        stages = self.kind.stages
        tokens = sum(part for _, part in self.parts) + len(self.batch)
        pairs = sum(part * (ask.done + (part + 1) / 2.0) for ask, part in self.parts)
        context = sum(ask.prompt + ask.tokens for ask in self.batch)
        requests = len(self.batch) + len(self.parts)
        found = iteration(model, requests / stages, tokens / stages, pairs / stages, context / stages, self.clock_ratio)
        return found.lasts_s * stages, found.gpu_w

    def start(self, now_s: float, cached_share: float) -> None:
        if self.idle_since_s is not None:
            self.energy_j += (now_s - self.idle_since_s) * self.idle_w
            self.idle_since_s = None
        self.parts = []
        if self.role == "token":
            while self.queue and len(self.batch) < self.kind.max_batch:
                self.batch.append(self.queue.pop(0))
        else:
            self.share_budget(cached_share)
        if not self.batch and not self.parts:
            self.end_s = math.inf
            self.idle_since_s = now_s
            return
        if self.kind.iteration is not None:
            lasts_s, gpu_w = self.two_resources(self.kind.iteration)
        else:
            assert self.kind.profile is not None
            lasts_s, gpu_w = self.affine(self.kind.profile)
        self.energy_j += lasts_s * (self.kind.other_w + self.kind.gpus * gpu_w)
        self.end_s = now_s + lasts_s

    @property
    def idle_w(self) -> float:
        model = self.kind.iteration or self.kind.profile
        assert model is not None
        return self.kind.other_w + self.kind.gpus * model.idle_w

    def share_budget(self, cached_share: float) -> None:
        budget = self.kind.max_batch_tokens - len(self.batch)
        for ask in self.queue[: self.kind.max_batch - len(self.batch)]:
            if budget <= 0:
                break
            if not ask.held:
                need = ask.prompt + (1 if self.role == "prompt" else ask.output)
                if self.kv + need > self.kind.kv_tokens:
                    break
                self.kv += need
                ask.held = need
                ask.done = min(int(ask.prompt * cached_share), ask.prompt - 1)
            part = min(budget, ask.prompt - ask.done)
            self.parts.append((ask, part))
            budget -= part


class ChunkTwin:
    """Servers with roles "mixed", or "prompt" and "token"."""

    def __init__(
        self, kinds: list[Kind], roles: list[str], link: KvLink | None, clock_ratio: float, cached_share: float
    ) -> None:
        self.engines = [
            Engine(i, kind, role, clock_ratio) for i, (kind, role) in enumerate(zip(kinds, roles, strict=True))
        ]
        for engine in self.engines:
            engine.last_chosen = engine.index
        self.chosen = len(self.engines)
        self.link = link
        self.cached_share = cached_share
        self.sent: list[tuple[float, int, Ask]] = []
        self.waiting: list[Ask] = []
        self.count = 0
        self.highest_kv = 0

    def run(self, rows: list[tuple[float, int, int]]) -> list[Ask]:
        asks = [Ask(*row) for row in rows]
        coming = [*asks]
        now_s = 0.0
        while True:
            engine = min(self.engines, key=lambda each: (each.end_s, each.index))
            sent_s = min((each[:2] for each in self.sent), default=(math.inf, 0))
            next_s = coming[0].arrival_s if coming else math.inf
            now_s = min(engine.end_s, sent_s[0], next_s)
            if now_s == math.inf:
                return asks
            if engine.end_s == now_s:
                self.end(engine, now_s)
            elif sent_s[0] == now_s:
                arrived = min(self.sent, key=lambda each: each[:2])
                self.sent.remove(arrived)
                self.received(arrived[2], now_s)
            else:
                self.arrive(coming.pop(0), now_s)

    def wake(self, engine: Engine, now_s: float) -> None:
        if engine.end_s == math.inf:
            engine.start(now_s, self.cached_share)

    def arrive(self, ask: Ask, now_s: float) -> None:
        able = [engine for engine in self.engines if engine.role != "token"]
        engine = min(able, key=lambda each: (each.outstanding, each.last_chosen))
        engine.outstanding += 1
        engine.last_chosen = self.chosen
        self.chosen += 1
        ask.source = engine
        engine.queue.append(ask)
        self.wake(engine, now_s)

    def end(self, engine: Engine, now_s: float) -> None:
        for ask in [*engine.batch]:
            ask.tokens += 1
            if ask.tokens == ask.output:
                engine.batch.remove(ask)
                self.finish(engine, ask, now_s)
        for ask, part in engine.parts:
            ask.done += part
            if ask.done < ask.prompt:
                continue
            engine.queue.remove(ask)
            ask.ttft_s = now_s - ask.arrival_s
            ask.tokens = 1
            if ask.output == 1:
                self.finish(engine, ask, now_s)
            elif engine.role == "prompt":
                engine.outstanding -= 1
                self.waiting.append(ask)
            else:
                engine.batch.append(ask)
        self.send(now_s)
        engine.start(now_s, self.cached_share)

    def finish(self, engine: Engine, ask: Ask, now_s: float) -> None:
        ask.e2e_s = now_s - ask.arrival_s
        engine.kv -= ask.held
        engine.outstanding -= 1

    def send(self, now_s: float) -> None:
        while self.waiting:
            ask = self.waiting[0]
            pool = [engine for engine in self.engines if engine.role == "token"]
            goal = max(pool, key=lambda each: (int(each.kind.kv_tokens) - each.kv, -each.index))
            if goal.kv + ask.prompt + ask.output > goal.kind.kv_tokens:
                return
            self.waiting.pop(0)
            goal.kv += ask.prompt + ask.output
            self.highest_kv = max(self.highest_kv, goal.kv)
            goal.outstanding += 1
            ask.goal = goal
            assert self.link is not None
            lasts_s = self.link.kv_bytes_per_token * ask.prompt / self.link.bytes_per_s
            begin_s = max(now_s, ask.source.out_free_s, goal.in_free_s)
            ask.source.out_free_s = goal.in_free_s = begin_s + lasts_s
            self.sent.append((begin_s + lasts_s + self.link.latency_s, self.count, ask))
            self.count += 1

    def received(self, ask: Ask, now_s: float) -> None:
        ask.source.kv -= ask.held
        ask.held = ask.prompt + ask.output
        ask.goal.queue.append(ask)
        self.wake(ask.goal, now_s)
        if ask.source.queue:
            self.wake(ask.source, now_s)
