"""An engine instance: GPU, model, engine and the way the model is spread, put together into one iteration model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.errors import ConfigError
from policies.models.iteration import IterationModel
from policies.models.roofline import experts_loaded
from sim_backend.cards.engine_card import EngineCard
from sim_backend.cards.gpu_card import GpuCard
from sim_backend.cards.llm_card import BYTES, Kind, LlmCard

TABLE_TOKENS = 2_048
"""How far the table of weights read goes: with so many tokens every expert of every known model is read."""
LARGEST_OF_NORMAL = {1: 0.0, 2: 0.564, 4: 1.029, 8: 1.424, 16: 1.766, 32: 2.070, 64: 2.344}
"""Expected largest of n standard normal draws (order statistics), by n."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one instance is spread over GPUs."""

    tensor_parallel: int = 1
    """GPUs that share each layer; where experts are parallel too, those of the attention."""
    pipeline_parallel: int = 1
    """Stages, each with its share of the layers."""
    expert_parallel: int = 1
    """GPUs over which whole experts are spread; 1: experts are cut like the other layers."""
    data_parallel: int = 1
    """Copies of the attention layers, each with its share of the requests; experts are spread over all of them."""

    @property
    def gpus(self) -> int:
        """All GPUs of the instance."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """What the plant needs to know of one engine instance."""

    iteration: IterationModel
    """Of one stage: a token passes `stages` of them, and `stages` batches are under way at a time."""
    stages: int
    kv_tokens: int
    """Tokens that the KV cache holds."""
    max_batch: int
    max_batch_tokens: int
    mixes: bool
    """Whether prompts and decoding requests share iterations."""
    limit_w: float
    """Power limit of one GPU as delivered."""


def hottest(llm: LlmCard, ranks: int) -> NDArray[np.float64]:
    """Experts that the GPU with most of them reads, over an even share, by tokens 0..TABLE_TOKENS.

    Each of the E / g experts of a GPU is touched with probability p = 1 - (1 - K / E)**m; the largest of g such counts
    is taken as the expected largest of g normal draws with their mean and variance.
    """
    tokens = np.arange(TABLE_TOKENS + 1.0)
    touched = experts_loaded(float(llm.experts), float(llm.experts_per_token), tokens) / llm.experts
    each = llm.experts / ranks
    draws = min(LARGEST_OF_NORMAL, key=lambda n: abs(n - ranks))
    most = each * touched + LARGEST_OF_NORMAL[draws] * np.sqrt(each * touched * (1.0 - touched))
    return np.divide(np.minimum(most, each), each * touched, out=np.ones_like(most), where=touched > 0.0)


def weights_read_bytes(llm: LlmCard, layout: Layout, weights: str, expert_efficiency: float) -> NDArray[np.float64]:
    """Bytes of linear layers that one GPU reads in an iteration of 0..n tokens, all stages together.

    Experts count for more bytes than they have if their kernels read more slowly.
    """
    dense = llm.dense_bytes(weights) / layout.tensor_parallel
    if not llm.experts:
        return np.array([dense])
    tokens = np.arange(TABLE_TOKENS + 1.0)
    loaded = experts_loaded(float(llm.experts), float(llm.experts_per_token), tokens)
    each = llm.expert_params * llm.bytes_of("experts", weights) / expert_efficiency
    share = 1.0 / (layout.tensor_parallel * layout.data_parallel)
    spread = hottest(llm, layout.expert_parallel) if layout.expert_parallel > 1 else 1.0
    result: NDArray[np.float64] = dense + loaded * each * share * spread
    return result


def multiplied_as(gpu: GpuCard, weights: str) -> str:
    """Number format of the products: that of the weights if the GPU multiplies it, else bf16."""
    return weights if weights in gpu.flops else "bf16"


def linear_compute_s(gpu: GpuCard, llm: LlmCard, engine: EngineCard, weights: str) -> float:
    """Seconds of one token in all linear layers on one whole GPU; each kind of layer in its number format."""
    kinds: tuple[tuple[Kind, float], ...] = (
        ("linear", llm.attention_params + llm.mamba_params),
        ("ffn", llm.dense_ffn_params),
        ("experts", llm.experts_per_token * llm.expert_params / engine.expert_compute_efficiency),
    )
    narrow = multiplied_as(gpu, weights)
    total_s = 0.0
    for kind, params in kinds:
        used = narrow if llm.bytes_of(kind, weights) == BYTES[weights] else "bf16"
        total_s += 2.0 * params / (gpu.flops[used] * gpu.compute_efficiency)
    return total_s


def unpack_ratio(gpu: GpuCard, llm: LlmCard, engine: EngineCard, weights: str) -> float:
    """Time of the pipes to unpack an expert's weight over that of the memory to read it; 0 if nothing is packed."""
    weight_bytes = llm.bytes_of("experts", weights)
    if not llm.experts or weight_bytes >= BYTES["bf16"]:
        return 0.0
    unpack_s = engine.unpack_flops / (gpu.flops["bf16"] * gpu.compute_efficiency)
    bytes_per_s = gpu.memory_bytes_per_s * gpu.memory_efficiency * engine.expert_memory_efficiency
    return unpack_s * bytes_per_s / weight_bytes


def cache_tokens(gpu: GpuCard, llm: LlmCard, engine: EngineCard, layout: Layout, weights: str, kv: str) -> int:
    """Tokens whose keys and values fit beside the weights.

    Layers with a window keep no more than it for each request of a full batch, where that saves memory.

    Raises:
        ConfigError: the weights alone do not fit.
    """
    experts = llm.experts * llm.expert_params * llm.bytes_of("experts", weights)
    held = (llm.total_bytes(weights) - experts) / layout.tensor_parallel
    held += experts / (layout.tensor_parallel * layout.data_parallel)
    left_bytes = gpu.memory_bytes * engine.memory_share - engine.reserve_bytes - held / layout.pipeline_parallel
    if left_bytes <= 0.0:
        raise ConfigError(
            f"{llm.name} in {weights} does not fit on {layout.gpus} x {gpu.name}: it needs "
            f"{(held / layout.pipeline_parallel + engine.reserve_bytes) / 1e9:.0f} GB of each, "
            f"{gpu.memory_bytes * engine.memory_share / 1e9:.0f} GB are free; use more GPUs or a narrower number format"
        )
    left_bytes *= kv_split(llm, layout) * layout.pipeline_parallel * layout.data_parallel
    each_bytes = llm.kv_bytes_per_token(kv)
    windows_bytes = engine.max_batch * llm.window * llm.window_share * each_bytes
    beside_windows = (
        (left_bytes - windows_bytes) / (each_bytes * (1.0 - llm.window_share)) if 0.0 < llm.window_share < 1.0 else 0.0
    )
    return int(max(left_bytes / each_bytes, beside_windows))


def kv_split(llm: LlmCard, layout: Layout) -> int:
    """GPUs among which the cache of one request is split; heads are whole, a latent vector is on each GPU."""
    return 1 if llm.kv_rank else min(layout.tensor_parallel, llm.kv_heads)


def instance(
    gpu: GpuCard, llm: LlmCard, engine: EngineCard, layout: Layout | None = None, weights: str = "", kv: str = "bf16"
) -> Instance:
    """Put an engine instance together.

    Args:
        gpu: kind of its GPUs.
        llm: the model.
        engine: version of the engine.
        layout: how it is spread; default: one GPU.
        weights: number format of the weights; default: as published.
        kv: number format of the KV cache.

    Raises:
        ConfigError: a number format that is not known, or a model that does not fit.
    """
    layout = layout or Layout()
    weights = weights or llm.weights
    return Instance(
        iteration=iteration_model(gpu, llm, engine, layout, weights, kv),
        stages=layout.pipeline_parallel,
        kv_tokens=cache_tokens(gpu, llm, engine, layout, weights, kv),
        max_batch=engine.max_batch,
        max_batch_tokens=engine.max_batch_tokens,
        mixes=engine.mixes,
        limit_w=gpu.tdp_w,
    )


def iteration_model(
    gpu: GpuCard, llm: LlmCard, engine: EngineCard, layout: Layout, weights: str, kv: str
) -> IterationModel:
    """Work of one stage in seconds at full clock: bytes and FLOPs of one GPU over what it achieves."""
    stage = 1.0 / layout.pipeline_parallel
    flops = gpu.flops["bf16"] * gpu.compute_efficiency
    memory_bytes_per_s = gpu.memory_bytes_per_s * gpu.memory_efficiency
    cache_bytes_per_s = memory_bytes_per_s * engine.cache_efficiency
    sharing = layout.tensor_parallel * layout.data_parallel
    per_context = llm.kv_bytes_per_token(kv) / (kv_split(llm, layout) * layout.data_parallel)
    collectives = llm.blocks if sharing > 1 else 0
    weights_bytes = weights_read_bytes(llm, layout, weights, engine.expert_memory_efficiency)
    padding = max(1.0, engine.query_tile * llm.kv_heads / llm.heads)
    gaps_s = engine.gap_s * llm.blocks + engine.expert_gap_s * llm.moe_layers
    ring = 2.0 * (sharing - 1) / sharing * llm.hidden * BYTES["bf16"] / (gpu.link_bytes_per_s * engine.link_efficiency)
    return IterationModel(
        host_s=engine.host_s + engine.host_per_rank_s * (sharing - 1),
        host_per_request_s=engine.host_per_request_s,
        host_exponent=engine.host_exponent,
        link_s=stage * (gaps_s + engine.collective_s * collectives),
        link_per_token_s=stage * collectives * ring,
        linear_compute_s=0.0,
        linear_compute_per_token_s=stage * linear_compute_s(gpu, llm, engine, weights) / sharing,
        linear_memory_s=stage * weights_bytes / memory_bytes_per_s,
        linear_memory_per_token_s=stage * llm.activation_bytes_per_token / (sharing * memory_bytes_per_s),
        attention_compute_per_pair_s=stage * llm.attention_flops_per_pair / (flops * sharing),
        attention_memory_per_context_s=stage * per_context / cache_bytes_per_s,
        attention_compute_per_context_s=stage * padding * llm.attention_flops_per_context / (flops * sharing),
        overlap=gpu.overlap,
        memory_knee=gpu.memory_knee,
        gpus=layout.gpus,
        idle_w=gpu.loaded_w,
        active_w=gpu.active_w,
        compute_w=gpu.compute_w,
        memory_w=gpu.memory_w,
        exponent=gpu.exponent,
        voltage_floor=gpu.voltage_floor,
        head_memory_s=stage * llm.head_params * BYTES["bf16"] / (layout.tensor_parallel * memory_bytes_per_s),
        head_compute_per_request_s=stage * llm.head_flops_per_token / (flops * sharing),
        state_memory_per_request_s=stage * 2.0 * llm.state_bytes / (sharing * memory_bytes_per_s),
        window_tokens=float(llm.window) if llm.window_layers else np.inf,
        window_share=llm.window_share,
        busy_per_request_s=stage * engine.sample_per_word_s * llm.vocab,
        unpack_ratio=unpack_ratio(gpu, llm, engine, weights),
        prompt_s=stage * engine.prompt_gap_s * llm.unusual_blocks,
    )
