"""One engine instance under steady load: power, latencies and how much load it bears, from cards of its parts."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Vec
from policies.errors import ConfigError
from policies.models.iteration import iteration
from sim_backend.arrivals import Arrivals
from sim_backend.cards import engine_card, gpu_card, llm_card, server_card
from sim_backend.cards.instance import Instance, Layout, instance
from sim_backend.cards.reading import card_names
from sim_backend.profile import Profile

PREFERRED = {"h100": "h100-sxm", "a100": "a100-80gb", "h200": "h200-sxm", "l40": "l40s"}
"""What a short name of a GPU stands for: the kind of which servers have most."""
REQUESTS = 10_000
"""Simulated at least, as far as `LONGEST_S` allows: their 99th percentile then rests on a hundred requests."""
SHORTEST_S, LONGEST_S = 600.0, 86_400.0
SKIPPED_SHARE = 0.2
"""Start of the run that counts in no figure: the instance begins empty."""
FULL_SHARE = 0.98
"""Of what a full queue gets done; at more the queue would take hours to settle, if at all."""
TENSOR_PARALLEL = (1, 2, 4, 8)
QUICKEST_LIMITER_S = 0.02
"""Stands in for a limiter that a card calls instantaneous: the plant needs a time in which it acts."""
NO_STEP_S = 1e-3
"""Times that a profile must have and that its iteration model stands in for."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What is put together: the names of cards, and how they are used."""

    gpu: str
    gpus: int
    model: str
    engine: str
    server: str = ""
    """Empty: the one that has such GPUs."""
    weights: str = ""
    """Number format; empty: as published."""
    clock_mhz: float | None = None
    limit_w: float | None = None
    """Of one GPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Lengths of requests, each as likely as any other [k]."""

    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked of the parts."""

    command: str
    """How to ask it again."""
    rps: float
    sizes: Sizes


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """The parts, found and put together."""

    gpu: gpu_card.GpuCard
    llm: llm_card.LlmCard
    engine: engine_card.EngineCard
    server: server_card.ServerCard | None
    instance: Instance
    profile: Profile
    clock_ratio: float
    limit_w: float
    """Of one GPU; inf: as delivered."""


@dataclass(frozen=True, slots=True, eq=False)
class Steady:
    """What the simulation found; requests of the part that counts, in order of arrival [k]."""

    ttft_s: Vec
    e2e_s: Vec
    output_tokens: Vec
    prompt_tokens: Vec
    gpus_w: Vec
    """All GPUs of the instance, means of each second."""
    lasts_s: float
    largest_rps: float
    """What a queue that never ends gets served."""
    stable: bool

    @property
    def tpot_s(self) -> Vec:
        """Mean gap between the tokens of each request that has more than one."""
        several = self.output_tokens > 1
        gaps = np.maximum(self.output_tokens - 1, 1)
        return np.asarray(((self.e2e_s - self.ttft_s) / gaps)[several])

    @property
    def mean_batch(self) -> float:
        """Requests that decode at a time, by Little's law."""
        return float((self.e2e_s - self.ttft_s).sum() / self.lasts_s)


def plain(name: str) -> str:
    """A name as people vary it: letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def closest(kind: str, asked: str, known: dict[str, str]) -> str:
    """The card that `asked` means: its name, a published name, a later patch of its version, or the one that begins so.

    Args:
        kind: what is looked for, for the refusal.
        asked: as written by the user; a path ending in `.toml` stands for itself.
        known: names that it may go by -> card.

    Raises:
        ConfigError: nothing fits, or several do; the text lists the cards.
    """
    if asked.endswith(".toml"):
        return asked
    short = asked.rsplit("/", 1)[-1].lower()
    wanted = plain(short)
    cards = ", ".join(sorted(set(known.values())))
    exact = {card for name, card in known.items() if plain(name) == wanted}
    patched = {card for name, card in known.items() if short.startswith(f"{name}.")}
    begun = {card for name, card in known.items() if wanted and plain(name).startswith(wanted)}
    for fitting in (exact, patched, begun):
        if len(fitting) == 1:
            return fitting.pop()
    if not begun:
        raise ConfigError(f"{kind} '{asked}' is not known; there are {cards}")
    if len({version_of(card)[0] for card in begun}) == 1:
        return max(begun, key=version_of)
    raise ConfigError(f"{kind} '{asked}' may be {', '.join(sorted(begun))}: name one of them")


def version_of(card: str) -> tuple[str, tuple[int, ...]]:
    """`vllm-0.10` as ("vllm", (0, 10)); a name without a version has an empty one."""
    name, _, version = card.rpartition("-")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)+", version):
        return card, ()
    return name, tuple(int(part) for part in version.split("."))


def assembled(parts: Parts) -> Assembled:
    """Find the cards and put the instance together.

    Raises:
        ConfigError: an unknown name, a model that does not fit, a clock or limit outside the device's range.
    """
    gpus = {name: name for name in card_names(gpu_card.FOLDER)}
    gpus |= {short: full for short, full in PREFERRED.items() if full in gpus}
    gpu = gpu_card.load_gpu(closest("GPU", parts.gpu, gpus))
    models = {name: name for name in card_names(llm_card.FOLDER)}
    models |= {
        each.rsplit("/", 1)[-1]: card.name for each, card in llm_card.published_llms().items()
    }  # fmt: skip
    llm = llm_card.load_llm(closest("model", parts.model, models))
    engines = {name: name for name in card_names(engine_card.FOLDER)}
    engine = engine_card.load_engine(closest("engine", parts.engine, engines))
    if parts.gpus not in TENSOR_PARALLEL or llm.heads % parts.gpus:
        fits = ", ".join(str(n) for n in TENSOR_PARALLEL if llm.heads % n == 0)
        raise ConfigError(f"--gpus {parts.gpus}: {llm.name} runs tensor parallel on {fits} GPUs of one server")
    whole = instance(gpu, llm, engine, Layout(tensor_parallel=parts.gpus), parts.weights)
    return Assembled(
        gpu, llm, engine, _server(parts.server, gpu, parts.gpus), whole, profile_of(gpu, whole),
        _clock_ratio(gpu, parts.clock_mhz), _limit_w(gpu, parts.limit_w),
    )  # fmt: skip


def _server(asked: str, gpu: gpu_card.GpuCard, gpus: int) -> server_card.ServerCard | None:
    names = card_names(server_card.FOLDER)
    if asked:
        card = server_card.load_server(closest("server", asked, {name: name for name in names}))
        if card.gpu != gpu.name:
            raise ConfigError(f"server '{card.name}' has GPUs of kind {card.gpu}, not {gpu.name}")
    else:
        found = [card for name in names if (card := server_card.load_server(name)).gpu == gpu.name]
        if not found:
            return None
        card = found[0]
    if gpus > card.gpus:
        raise ConfigError(f"--gpus {gpus}: a {card.name} has {card.gpus}; an instance stays within one server")
    return card


def _clock_ratio(gpu: gpu_card.GpuCard, clock_mhz: float | None) -> float:
    if clock_mhz is None:
        return 1.0
    if not gpu.min_mhz <= clock_mhz <= gpu.max_mhz:
        raise ConfigError(
            f"--clock {clock_mhz:g}: the clock of a {gpu.name} can be set from {gpu.min_mhz:g} to {gpu.max_mhz:g} MHz"
        )
    return clock_mhz / gpu.max_mhz


def _limit_w(gpu: gpu_card.GpuCard, limit_w: float | None) -> float:
    if limit_w is None:
        return math.inf
    if not gpu.min_limit_w <= limit_w <= gpu.tdp_w:
        raise ConfigError(
            f"--power-limit {limit_w:g}: a {gpu.name} accepts limits from {gpu.min_limit_w:g} to {gpu.tdp_w:g} W"
        )
    return limit_w


def profile_of(gpu: gpu_card.GpuCard, whole: Instance) -> Profile:
    """The GPUs of the instance alone, as servers that the plant can run."""
    return Profile(
        name=gpu.name,
        gpus=whole.iteration.gpus,
        tdp_w=gpu.tdp_w,
        idle_w=gpu.loaded_w,
        max_mhz=gpu.max_mhz,
        min_mhz=gpu.min_mhz,
        min_limit_w=gpu.min_limit_w,
        nameplate_w=gpu.tdp_w * whole.iteration.gpus,
        other_w=0.0,
        other_max_w=0.0,
        overshoot_ratio=gpu.overshoot_ratio,
        kv_tokens=whole.kv_tokens,
        max_batch=whole.max_batch,
        max_batch_tokens=whole.max_batch_tokens,
        mixed_batch_factor=1.0,
        prefill_base_s=NO_STEP_S,
        prefill_per_token_s=0.0,
        prefill_per_token2_s=0.0,
        prefill_clock_share=1.0,
        decode_base_s=NO_STEP_S,
        decode_per_request_s=0.0,
        decode_per_context_s=0.0,
        decode_clock_share=0.0,
        prefill_at_128=1.0,
        prefill_per_octave=0.0,
        prefill_ceiling=1.0,
        decode_ratio=1.0,
        prefill_static_share=0.0,
        prefill_exponent=1.0,
        decode_static_share=0.0,
        decode_exponent=1.0,
        iteration=whole.iteration,
        limiter_s=max(gpu.limiter_s, QUICKEST_LIMITER_S),
    )


class _Drawn:
    """Requests at given times, their lengths drawn."""

    def __init__(self, arrival_s: Vec, sizes: Sizes, duration_s: float, rng: np.random.Generator) -> None:
        chosen = rng.integers(0, len(sizes.prompt_tokens), len(arrival_s))
        self.duration_s = duration_s
        self.requests = Arrivals(
            arrival_s, sizes.prompt_tokens[chosen], sizes.output_tokens[chosen], np.zeros(len(arrival_s), np.int8)
        )

    def blocks(self) -> Iterator[Arrivals]:
        """All at once: there are few."""
        return iter([self.requests])


def simulate(parts: Assembled, rps: float, sizes: Sizes, seed: int) -> Steady:
    """Poisson arrivals to the instance until its figures have settled.

    Raises:
        ConfigError: a request that never fits.
    """
    longest = int((sizes.prompt_tokens.astype(np.int64) + sizes.output_tokens).max())
    if longest > parts.instance.kv_tokens:
        raise ConfigError(
            f"a request of {longest} tokens never fits: the KV cache of {parts.profile.gpus} x {parts.gpu.name} holds "
            f"{parts.instance.kv_tokens} tokens beside {parts.llm.name}; use more GPUs or shorter requests"
        )
    rng = np.random.default_rng(seed)
    largest_rps = _largest_rps(parts, sizes, rng)
    stable = rps <= FULL_SHARE * largest_rps
    # More than it bears is not simulated as such: the queue grows without end, and the rest is as with a full queue.
    served_rps = min(rps, largest_rps)
    duration_s = min(max(REQUESTS / served_rps, SHORTEST_S), LONGEST_S)
    count = rng.poisson(duration_s * min(rps, 1.2 * largest_rps))
    source = _Drawn(np.sort(rng.random(count)) * duration_s, sizes, duration_s, rng)
    ttft_s, e2e_s, gpus_w = _run(parts, source, duration_s)
    begins_s = SKIPPED_SHARE * duration_s
    requests = source.requests
    there = len(ttft_s)
    ends_s = requests.arrival_s[:there] + e2e_s
    counted = (ends_s > begins_s) & (ends_s <= duration_s)
    return Steady(
        ttft_s=ttft_s[counted],
        e2e_s=e2e_s[counted],
        output_tokens=requests.output_tokens[:there][counted].astype(np.float64),
        prompt_tokens=requests.prompt_tokens[:there][counted].astype(np.float64),
        gpus_w=gpus_w[int(begins_s) :],
        lasts_s=duration_s - begins_s,
        largest_rps=largest_rps,
        stable=stable,
    )


def _run(parts: Assembled, source: _Drawn, duration_s: float) -> tuple[Vec, Vec, Vec]:
    """Times to first and last token, and the GPUs' watts second by second."""
    # The compiler is loaded here: refusals come at once.
    from sim_backend.plant import Plant

    one = np.zeros(1, np.int64)
    plant = Plant([parts.profile], one, one, source, {})
    plant.keep_record()
    plant.set_caps(np.array([parts.clock_ratio]), np.array([parts.limit_w]))
    gpus_w = plant.run_schedule(np.full((int(duration_s), 1), parts.clock_ratio))
    return plant.ttft_s, plant.e2e_s, gpus_w[:, 0]


def _largest_rps(parts: Assembled, sizes: Sizes, rng: np.random.Generator) -> float:
    """Requests per second that are served while more are waiting than ever run together."""
    mean_tokens = float(np.mean(sizes.prompt_tokens.astype(np.float64) + sizes.output_tokens))
    together = min(parts.instance.max_batch, parts.instance.kv_tokens / mean_tokens)
    count = int(6 * together) + 2_000
    duration_s = SHORTEST_S
    while True:
        source = _Drawn(np.linspace(0.0, 1.0, count), sizes, duration_s, rng)
        _, e2e_s, _ = _run(parts, source, duration_s)
        ended_s = np.sort(e2e_s[np.isfinite(e2e_s)] + source.requests.arrival_s[: len(e2e_s)][np.isfinite(e2e_s)])
        # The middle half: neither the first batch, which begins together, nor the last, which thins out.
        if len(ended_s) >= 0.75 * count or duration_s >= LONGEST_S:
            break
        duration_s *= 4.0
    first, last = len(ended_s) // 4, 3 * len(ended_s) // 4
    if last <= first:
        raise ConfigError(
            f"{parts.llm.name} on {parts.profile.gpus} x {parts.gpu.name} ends none of {count} requests in a day: "
            "use more GPUs or shorter requests"
        )
    return (last - first) / float(ended_s[last] - ended_s[first])


def phase_w(parts: Assembled, steady: Steady, sizes: Sizes) -> dict[str, float]:
    """Watts of one GPU in an iteration of each phase, with the mean batch beside a prompt."""
    batch = max(steady.mean_batch, 1.0)
    prompt, output = float(sizes.prompt_tokens.mean()), float(sizes.output_tokens.mean())
    context = batch * (prompt + 0.5 * output)
    beside, read = (batch, context) if parts.instance.mixes else (0.0, 0.0)
    pairs = 0.5 * float((sizes.prompt_tokens.astype(np.float64) ** 2 + sizes.prompt_tokens).mean())
    model, clock_ratio = parts.instance.iteration, parts.clock_ratio
    prefill = iteration(model, 1.0 + beside, prompt + beside, pairs, read, clock_ratio)
    decode = iteration(model, batch, batch, 0.0, context, clock_ratio)
    limit_w = min(parts.limit_w, parts.gpu.tdp_w)
    return {
        "idle": parts.gpu.loaded_w,
        "prefill": min(prefill.gpu_w, limit_w),
        "decode": min(decode.gpu_w, limit_w),
    }


def server_w(parts: Assembled, gpus_w: Vec) -> Vec | None:
    """Draw of the whole server from the mains, its other GPUs without work; None where its kind is not known."""
    card = parts.server
    if card is None:
        return None
    all_w = gpus_w + (card.gpus - parts.profile.gpus) * parts.gpu.idle_w
    # Fans follow within half a minute at best: within a second they stay where the mean load has them.
    fans_w = server_card.fans_w(card, float(all_w.mean()))
    return np.asarray(server_card.node_with(card, all_w, np.full_like(all_w, fans_w)))


def sizes_of_trace(path: Path) -> Sizes:
    """Lengths of the requests of a trace."""
    from telemetry.request_trace import read_request_trace

    with read_request_trace(path) as trace:
        rows = trace.read(0, trace.rows)
        return Sizes(rows["prompt_tokens"].copy(), rows["output_tokens"].copy())
