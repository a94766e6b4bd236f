"""One iteration of one engine instance: the work it is made of, and the time and watts that follow from it.

The work is stated at full clock, for the GPUs of the instance together (tensor parallel GPUs work at the same time), so
that neither the model's shape nor the GPU's data sheet is needed to evaluate it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Collectives between the instance's GPUs, per iteration."""
    link_per_token_s: float
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
    linear_c = (model.linear_compute_s + model.linear_compute_per_token_s * tokens) / clock_ratio
    table = model.linear_memory_s
    linear_m = (table[min(int(tokens), len(table) - 1)] + model.linear_memory_per_token_s * tokens) * stretch
    attention_c = (
        model.attention_compute_per_pair_s * pairs + model.attention_compute_per_context_s * context
    ) / clock_ratio
    attention_m = model.attention_memory_per_context_s * context * stretch
    host_s = model.host_s + model.host_per_request_s * requests
    kernels_s = float(
        overlapped_s(linear_c, linear_m, model.overlap) + overlapped_s(attention_c, attention_m, model.overlap)
    )
    busy_s = kernels_s + model.link_s + model.link_per_token_s * tokens
    lasts_s = host_s + busy_s
    busy, compute, memory = busy_s / lasts_s, (linear_c + attention_c) / lasts_s, (linear_m + attention_m) / lasts_s
    gpu_w = busy_w(
        model.idle_w,
        model.active_w,
        model.compute_w,
        model.memory_w,
        model.exponent,
        clock_ratio,
        busy,
        compute,
        memory,
    )
    return Iteration(lasts_s, busy, float(compute), float(memory), float(gpu_w))
