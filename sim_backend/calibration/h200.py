"""The H200: kernels as fitted, a layer put together from them, and the few numbers of its card.

An iteration of an engine is many operations; the card has one efficiency for the tensor pipes, one for the memory and
one law of watts (`policies.models.iteration`). They are fitted to the sums over a layer's operations, for models of
several sizes and both phases, so that an engine on an H200 follows from measured kernels. What is between the kernels
is the engine's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.models.iteration import IterationModel, iteration
from policies.models.operations import (
    AttentionKernel,
    AttentionShape,
    ExpertKernel,
    KernelGpu,
    MatrixKernel,
    Work,
    at_clock,
    decode_attention,
    matrix_product,
    prompt_attention,
)
from sim_backend.calibration.operations import H200Kernels, Values, descend

Floats = NDArray[np.float64]

H200 = H200Kernels(
    gpu=KernelGpu(
        sms=132.0,
        clock_hz=1980000000.0,
        flops16=989400000000000.0,
        flops8=1979000000000000.0,
        memory_bytes_per_s=4800000000000.0,
        memory_efficiency=0.869,
        idle_w=131.0,
        active_w=166.0,
        compute_w=533.0,
        memory_w=308.0,
        exponent=2.25,
    ),
    window_s=0.799,
    product16=MatrixKernel(
        launch_s=2.92e-06,
        compute_efficiency=0.8,
        overlap=0.787,
        split_s=3.27e-06,
        type_bytes=2.0,
        quantise_efficiency=0.0,
    ),
    product8=MatrixKernel(
        launch_s=1.53e-05,
        compute_efficiency=0.673,
        overlap=0.55,
        split_s=2.9e-06,
        type_bytes=1.0,
        quantise_efficiency=0.357,
    ),
    host_s=(5.22e-05, 7.47e-05, 8.38e-05),
    prompt=AttentionKernel(
        launch_s=7.43e-06,
        compute_efficiency=1.17,
        overlap=0.532,
        tile_s=1.78e-06,
        extra_columns=79.0,
        narrow_efficiency=0.523,
        narrow_compute=0.869,
        combine_s=0.0,
        request_s=0.0,
        split_tokens=0.0,
    ),
    decode=AttentionKernel(
        launch_s=4.79e-06,
        compute_efficiency=0.859,
        overlap=0.856,
        tile_s=1.77e-06,
        extra_columns=213.0,
        narrow_efficiency=0.805,
        narrow_compute=0.723,
        combine_s=5.92e-06,
        request_s=2.14e-08,
        split_tokens=200.0,
    ),
    experts={
        "bfloat16": ExpertKernel(
            launch_s=2.53e-05,
            compute_efficiency=0.589,
            overlap=0.956,
            tile_bytes_per_s=7070000000000.0,
            move_efficiency=0.568,
            pair_s=2.39e-10,
            skew_touched=0.919,
            skew_load=1.41,
            type_bytes=2.0,
        ),
        "fp8": ExpertKernel(
            launch_s=2.53e-05,
            compute_efficiency=0.613,
            overlap=0.956,
            tile_bytes_per_s=7070000000000.0,
            move_efficiency=0.568,
            pair_s=1.46e-09,
            skew_touched=0.919,
            skew_load=1.41,
            type_bytes=1.0,
        ),
        "fp8_block": ExpertKernel(
            launch_s=4.15e-05,
            compute_efficiency=0.321,
            overlap=0.956,
            tile_bytes_per_s=7070000000000.0,
            move_efficiency=0.568,
            pair_s=1.46e-09,
            skew_touched=0.919,
            skew_load=1.41,
            type_bytes=1.0,
        ),
    },
)
"""What `operations.fit` returns."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer as one GPU of a tensor parallel group sees it."""

    hidden: int
    heads: int
    kv_heads: int
    inner: int
    """Channels of the feed-forward part."""
    head_dim: int = 128

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Outputs and inputs of its products: queries, keys and values; output; gate and up; down."""
        queries = self.heads * self.head_dim
        return (
            (queries + 2 * self.kv_heads * self.head_dim, self.hidden),
            (self.hidden, queries),
            (2 * self.inner, self.hidden),
            (self.hidden, self.inner),
        )

    @property
    def weights(self) -> int:
        """Numbers."""
        return sum(n * k for n, k in self.products)


LAYERS = (
    Layer(4_096, 32, 8, 14_336),  # Llama-3.1-8B
    Layer(5_120, 40, 8, 13_824),  # Qwen2.5-14B
    Layer(5_120, 20, 4, 13_824),  # Qwen2.5-32B on two GPUs
    Layer(8_192, 16, 2, 7_168),  # Llama-3.1-70B on four
    Layer(8_192, 8, 1, 3_584),  # ... on eight
    Layer(12_288, 24, 2, 7_168),  # Mistral-Large-123B on four
)
PROMPTS = (256, 512, 1_024, 2_048, 4_096, 8_192)
BATCHES = tuple((requests, context) for requests in (1, 8, 32, 64, 128, 256) for context in (512, 2_048, 8_192))


def one(value: float) -> Floats:
    """An array of one element."""
    return np.array([float(value)])


def attention_of(layer: Layer, requests: int, context: int, prompt: bool, kernels: H200Kernels) -> Work:
    """Attention of one layer: prompts of `context` tokens, or requests that decode with so many behind them."""
    values = (requests, context, layer.heads, layer.kv_heads, layer.head_dim, 0.0, 2.0)
    shape = AttentionShape(*(one(value) for value in values))
    if prompt:
        return prompt_attention(shape, kernels.prompt, kernels.gpu)
    return decode_attention(shape, kernels.decode, kernels.gpu)


def layer_of_kernels(layer: Layer, requests: int, context: int, prompt: bool, kernels: H200Kernels) -> list[Work]:
    """The operations of one layer in bf16."""
    tokens = requests * context if prompt else requests
    products = [matrix_product(one(tokens), one(n), one(k), kernels.product16, kernels.gpu) for n, k in layer.products]
    return [*products, attention_of(layer, requests, context, prompt, kernels)]


def summed(works: list[Work], gpu: KernelGpu) -> tuple[float, float]:
    """Seconds and mean watts of operations one after the other, at full clock and without a limit."""
    lasts_s, drawn_w = zip(*(at_clock(work, gpu, np.ones(1)) for work in works), strict=True)
    total_s = float(np.sum(lasts_s))
    return total_s, float(np.sum(np.multiply(lasts_s, drawn_w))) / total_s


def layer_of_card(layer: Layer, values: Values, gpu: KernelGpu) -> IterationModel:
    """The same layer as the serving plant sees it, from a card's numbers; `gap_s` is an engine's."""
    flops = gpu.flops16 * values["compute_efficiency"]
    bytes_per_s = gpu.memory_bytes_per_s * values["memory_efficiency"]
    pair_s = 4.0 * layer.heads * layer.head_dim / flops
    return IterationModel(
        host_s=0.0,
        host_per_request_s=0.0,
        link_s=values["gap_s"],
        link_per_token_s=0.0,
        linear_compute_s=0.0,
        linear_compute_per_token_s=2.0 * layer.weights / flops,
        linear_memory_s=np.array([2.0 * layer.weights / bytes_per_s]),
        linear_memory_per_token_s=0.0,
        attention_compute_per_pair_s=pair_s,
        attention_memory_per_context_s=4.0 * layer.kv_heads * layer.head_dim / bytes_per_s,
        attention_compute_per_context_s=pair_s,
        overlap=values["overlap"],
        memory_knee=0.0,
        gpus=1,
        idle_w=gpu.idle_w,
        active_w=values["active_w"],
        compute_w=values["compute_w"],
        memory_w=values["memory_w"],
        exponent=gpu.exponent,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """One layer with one batch, and what its kernels take together."""

    layer: Layer
    requests: int
    context: int
    prompt: bool
    lasts_s: float
    drawn_w: float


def batches(kernels: H200Kernels) -> list[Batch]:
    """Every layer with prompts of several lengths and decoding batches of several sizes."""
    cases = [(1, tokens, True) for tokens in PROMPTS] + [(*each, False) for each in BATCHES]
    return [
        Batch(layer, *case, *summed(layer_of_kernels(layer, *case, kernels), kernels.gpu))
        for layer in LAYERS
        for case in cases
    ]


def of_card(batch: Batch, values: Values, gpu: KernelGpu) -> tuple[float, float]:
    """Seconds and watts of a batch as the card has them."""
    model = layer_of_card(batch.layer, values, gpu)
    tokens = batch.context if batch.prompt else batch.requests
    pairs = batch.context * (batch.context + 1) / 2.0 if batch.prompt else 0.0
    context = 0.0 if batch.prompt else float(batch.requests * batch.context)
    result = iteration(model, batch.requests, tokens, pairs, context)
    return result.lasts_s, result.gpu_w


def fit_card(kernels: H200Kernels) -> Values:
    """The card's fitted numbers, and the gap per layer that the kernels' launches amount to."""
    every = batches(kernels)

    def loss(values: Values) -> float:
        modelled = np.array([of_card(batch, values, kernels.gpu) for batch in every])
        wanted = np.array([(batch.lasts_s, batch.drawn_w) for batch in every])
        return float(np.mean(np.abs(np.log(modelled / wanted))))

    first = {
        "compute_efficiency": 0.75,
        "memory_efficiency": 0.88,
        "overlap": 0.8,
        "active_w": kernels.gpu.active_w,
        "compute_w": kernels.gpu.compute_w,
        "memory_w": kernels.gpu.memory_w,
        "gap_s": 2e-5,
    }
    return descend(loss, first)
