"""One iteration of one engine instance: the work it is made of, and the time and watts that follow from it.

The work is stated at full clock, for the GPUs of the instance together (tensor parallel GPUs work at the same time), so
that neither the model's shape nor the GPU's data sheet is needed to evaluate it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.models.clocks import dynamic_ratio
from policies.models.roofline import busy_w, memory_stretch, overlapped_s

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class IterationModel:
    """Seconds of work at full clock, and watts of one of the instance's GPUs.

    A batch is n tokens in the linear layers (prompt tokens and one for each decoding request), `pairs` of a prompt
    token with a token it attends to, and `context` tokens of KV cache that decoding requests read.
    """

    host_s: float
    """Per iteration, whatever is in it: scheduling, launches that the GPU waits for."""
    host_per_request_s: float
    """For each request of the batch: sampling, detokenising, bookkeeping."""
    link_s: float
    """Per iteration, in which the GPU waits too: gaps between kernels, latency of collectives."""
    link_per_token_s: float
    """Bytes of collectives between the instance's GPUs."""
    linear_compute_s: float
    """Of an iteration, whatever its size: what tiles are padded to."""
    linear_compute_per_token_s: float
    linear_memory_s: Floats
    """Reading weights, by tokens 0..m; beyond m as at m. Grows with the tokens where experts are chosen among."""
    linear_memory_per_token_s: float
    attention_compute_per_pair_s: float
    attention_memory_per_context_s: float
    attention_compute_per_context_s: float
    overlap: float
    memory_knee: float
    gpus: int
    idle_w: float
    """A GPU with the model loaded and nothing to do."""
    active_w: float
    compute_w: float
    memory_w: float
    exponent: float
    head_memory_s: float = 0.0
    """Reading the output layer's weights, once per iteration."""
    head_compute_per_request_s: float = 0.0
    """The output layer, for the last token of each request only."""
    state_memory_per_request_s: float = 0.0
    """Reading and writing the state of layers that keep no KV cache (Mamba), for each request."""
    window_tokens: float = np.inf
    """What a layer with a sliding window looks back."""
    window_share: float = 0.0
    """Share of the attention layers that have such a window."""
    busy_per_request_s: float = 0.0
    """For each request, while kernels run but neither resource works: sampling."""
    host_exponent: float = 1.0
    """Of the requests in the host's time; below 1: outputs that it is late with go out together."""
    unpack_ratio: float = 0.0
    """Time of the pipes to unpack the weights of experts over the time to read them, which is what `linear_memory_s`
    has beyond its first entry."""
    voltage_floor: float = 0.0
    """Clock ratio below which the voltage no longer falls (`clocks.dynamic_ratio`)."""
    prompt_s: float = 0.0
    """Once in an iteration that holds prompts: kernels launched one by one where decoding replays a graph."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration takes and draws."""

    lasts_s: float
    busy: float
    """Shares of the time, as `roofline.busy_w`."""
    compute: float
    memory: float
    gpu_w: float
    """Mean of one GPU."""


def windowed(attended: float, tokens: float, window_tokens: float, window_share: float) -> float:
    """Tokens attended to in the mean over layers, where a share of the layers looks back a window only.

    Args:
        attended: what a layer without a window attends to, summed over `tokens` tokens.
        tokens: that attend.
        window_tokens: what a windowed layer looks back.
        window_share: of the layers that are windowed.
    """
    if window_share == 0.0:
        return attended
    return attended * (1.0 - window_share) + window_share * min(attended, window_tokens * tokens)


def iteration(
    model: IterationModel, requests: float, tokens: float, pairs: float, context: float, clock_ratio: float = 1.0
) -> Iteration:
    """One iteration under a clock cap.

    Args:
        model: the engine instance.
        requests: in the batch, those in prefill included.
        tokens: through the linear layers: prompt tokens of this iteration and one per decoding request.
        pairs: sum over prompts of q * (c + (q + 1) / 2): new token by token it attends to.
        context: KV tokens that the decoding requests read, summed.
        clock_ratio: phi = f / f_max.
    """
    stretch = float(memory_stretch(clock_ratio, model.memory_knee))
    table = model.linear_memory_s
    read_s = table[min(int(tokens), len(table) - 1)]
    linear_c = model.linear_compute_s + model.linear_compute_per_token_s * tokens
    linear_c = (linear_c + model.unpack_ratio * (read_s - table[0])) / clock_ratio
    linear_m = (read_s + model.linear_memory_per_token_s * tokens) * stretch
    head_c = model.head_compute_per_request_s * requests / clock_ratio
    head_m = model.head_memory_s * stretch
    seen = windowed(context, requests, model.window_tokens, model.window_share)
    decode_c = model.attention_compute_per_context_s * seen / clock_ratio
    decode_m = (model.attention_memory_per_context_s * seen + model.state_memory_per_request_s * requests) * stretch
    prefill_c = model.attention_compute_per_pair_s * windowed(pairs, tokens, model.window_tokens, model.window_share)
    prefill_c /= clock_ratio
    kernels_s = prefill_c + sum(
        float(overlapped_s(compute_s, memory_s, model.overlap))
        for compute_s, memory_s in ((linear_c, linear_m), (head_c, head_m), (decode_c, decode_m))
    )
    host_s = model.host_s + model.host_per_request_s * requests**model.host_exponent
    busy_s = kernels_s + model.link_per_token_s * tokens + model.busy_per_request_s * requests
    if pairs > 0.0:
        busy_s += model.prompt_s
    lasts_s = host_s + busy_s + model.link_s
    compute = (linear_c + head_c + decode_c + prefill_c) / lasts_s
    # Below the knee the memory waits for loads: it is charged for what it moves.
    memory = (linear_m + head_m + decode_m) / (stretch * lasts_s)
    busy = busy_s / lasts_s
    gpu_w = busy_w(
        model.idle_w,
        dynamic_ratio(clock_ratio, model.exponent, model.voltage_floor),
        model.active_w * busy + model.compute_w * compute,
        model.memory_w * memory,
    )
    return Iteration(lasts_s, busy, float(compute), float(memory), float(gpu_w))
