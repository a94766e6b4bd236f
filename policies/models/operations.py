"""Time and watts of single operations on one GPU: matrix product, attention of prompts and of decoding, experts.

An operation is what `roofline` makes of two resources, with what a kernel adds: its launch, tiles that fill the SMs in
whole waves, and work the tiles do for nothing. Only data-sheet facts and efficiencies enter, so that another GPU's
kernels follow from its data sheet: more SMs mean more tiles per wave, more bandwidth shorter reads.

Shapes are arrays of one length; seconds are at full clock. A power limit acts last (`run`): the clock falls until the
draw fits, and what the tensor pipes do takes longer. Efficiencies and the launch times are fitted to measurements of an
H200 (`sim_backend.calibration.operations`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.models.roofline import busy_w, overlapped_s

Floats = NDArray[np.float64]

EXPONENTIALS_PER_CLOCK = 16.0
"""Of one SM, Ampere to Blackwell (CUDA C++ Programming Guide, arithmetic instructions: special functions). Attention
takes one for each pair of tokens, which costs as much as 64 channels of matrix product."""
MATRIX_TILES = ((256, 128), (128, 256), (128, 128), (64, 256), (64, 128), (64, 64), (16, 64))
"""Rows and columns of the output that one SM works on: what Hopper's matrix instructions offer (64 rows each)."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Into how many parts a product's inner dimension is cut when its tiles alone leave SMs idle."""
EXPERT_TILES = ((16, 32), (16, 64), (16, 128), (32, 128), (64, 64), (64, 128), (128, 128), (128, 256))
ROWS_PROMPT, ROWS_DECODE = 128.0, 64.0
"""Query rows of an attention tile (FlashAttention-3, forward); decoding needs few."""
PLANNED_REQUESTS = 992.0
"""Up to this batch FlashAttention-3 plans the work by request (31 warps of 32); beyond, it does not."""
LOWEST_CLOCK = 0.1
"""Where the search for a clock under a power limit ends, over full clock: 210 of 1980 MHz."""


@dataclass(frozen=True, slots=True)
class KernelGpu:
    """What the kernels need to know of a GPU: data sheet first, then what was measured."""

    sms: float
    clock_hz: float
    """Full clock of the SMs."""
    flops16: float
    """Dense tensor FLOP/s of the data sheet, two-byte types."""
    flops8: float
    memory_bytes_per_s: float
    memory_efficiency: float
    """Achieved over data-sheet bandwidth of large reads; the same for all kernels."""
    idle_w: float
    """Clocks up, nothing to do."""
    active_w: float
    compute_w: float
    memory_w: float
    exponent: float

    @property
    def read_bytes_per_s(self) -> float:
        """Bandwidth that large reads achieve."""
        return self.memory_bytes_per_s * self.memory_efficiency


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Operations before any limit: seconds at full clock."""

    fixed_s: Floats
    """Launch and what else neither resource explains."""
    compute_s: Floats
    """Of the SMs, idle ones of the last wave and padding included."""
    memory_s: Floats
    pipes_s: Floats
    """Of full tensor pipes: what of `compute_s` draws power."""
    traffic_s: Floats
    """Of full memory: `memory_s` and what of `fixed_s` is reading and writing."""
    overlap: float


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Operations under a power limit."""

    lasts_s: Floats
    drawn_w: Floats
    """Mean while the operation is repeated without gaps."""
    clock_ratio: Floats


def run(work: Work, gpu: KernelGpu, limit_w: float) -> Run:
    """Repeat each operation until clock and draw are steady.

    The clock is the highest at which the draw keeps `limit_w`; it is found by bisection, as time and draw both depend
    on it.
    """
    low, high = np.full(work.fixed_s.shape, LOWEST_CLOCK), np.ones(work.fixed_s.shape)
    lasts_s, drawn_w = at_clock(work, gpu, high)
    free = drawn_w <= limit_w
    for _ in range(16):
        middle = (low + high) / 2.0
        over = at_clock(work, gpu, middle)[1] > limit_w
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    clock_ratio = np.where(free, 1.0, low)
    lasts_s, drawn_w = at_clock(work, gpu, clock_ratio)
    return Run(lasts_s, drawn_w, clock_ratio)


def at_clock(work: Work, gpu: KernelGpu, clock_ratio: Floats) -> tuple[Floats, Floats]:
    """Seconds that each operation lasts and watts it draws at a clock; no limit acts."""
    lasts_s = work.fixed_s + overlapped_s(work.compute_s / clock_ratio, work.memory_s, work.overlap)
    drawn_w = busy_w(
        gpu.idle_w,
        clock_ratio**gpu.exponent,
        gpu.active_w + gpu.compute_w * (work.pipes_s / clock_ratio / lasts_s),
        gpu.memory_w * (work.traffic_s / lasts_s),
    )
    return lasts_s, drawn_w


@dataclass(frozen=True, slots=True)
class MatrixKernel:
    """How well matrix products of one type run."""

    launch_s: float
    compute_efficiency: float
    """Tensor pipes over data sheet, in a full wave at full clock."""
    overlap: float
    split_s: float
    """Adding up the parts of a product whose inner dimension was cut."""
    type_bytes: float
    quantise_efficiency: float
    """Bandwidth over data sheet of quantising the input first; 0: it comes in the type that is multiplied."""


def matrix_product(m: Floats, n: Floats, k: Floats, kernel: MatrixKernel, gpu: KernelGpu) -> Work:
    """`[m, k] x [k, n]`, output in two bytes: m tokens through a layer of n x k weights."""
    flops = (gpu.flops16 if kernel.type_bytes > 1.0 else gpu.flops8) * kernel.compute_efficiency
    compute_s = np.full(m.shape, np.inf)
    for rows, columns in MATRIX_TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / columns)
        for parts in SPLITS:
            depth = np.ceil(k / parts / 64.0) * 64.0
            waves = np.ceil(tiles * parts / gpu.sms)
            tiled_s = waves * (2.0 * rows * columns * depth) * gpu.sms / flops + (kernel.split_s if parts > 1 else 0.0)
            # Parts shallower than four steps of the pipeline do not get it going.
            compute_s = np.where((depth >= 256.0) | (parts == 1), np.minimum(compute_s, tiled_s), compute_s)
    memory_s = ((m * k + n * k) * kernel.type_bytes + 2.0 * m * n) / gpu.read_bytes_per_s
    pipes_s = 2.0 * m * n * k / flops
    if kernel.quantise_efficiency == 0.0:
        return Work(np.full(m.shape, kernel.launch_s), compute_s, memory_s, pipes_s, memory_s, kernel.overlap)
    narrowed = (2.0 + kernel.type_bytes) * m * k / gpu.memory_bytes_per_s
    fixed_s = kernel.launch_s + narrowed / kernel.quantise_efficiency
    return Work(fixed_s, compute_s, memory_s, pipes_s, memory_s + narrowed / gpu.memory_efficiency, kernel.overlap)


@dataclass(frozen=True, slots=True, eq=False)
class AttentionShape:
    """A batch of equal requests."""

    requests: Floats
    tokens: Floats
    """Of each request's context, the new ones included."""
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    window: Floats
    """Tokens that one attends to at most; 0: all before it."""
    cache_bytes: Floats
    """Of one number in the KV cache."""


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """How well attention runs."""

    launch_s: float
    """All kernels of one call; for prompts also writing the cache."""
    compute_efficiency: float
    """Tensor pipes over data sheet; above 1 if products hide behind exponentials, which `pair_s` adds."""
    overlap: float
    tile_s: float
    """Start and end of one tile."""
    extra_columns: float
    """Keys that a tile works on beyond those that count: what the mask cuts, the last block's padding."""
    narrow_efficiency: float
    """Of reads of a one-byte cache over those of a two-byte one: it has to be converted."""
    narrow_compute: float
    """Of products with a one-byte cache over those with a two-byte one: values have to be transposed."""
    combine_s: float = 0.0
    """Putting the parts of a context together that several SMs worked on."""
    request_s: float = 0.0
    """Planning, for each request."""
    split_tokens: float = 0.0
    """Contexts longer than this are cut if SMs would be idle."""

    def pair_s(self, shape: AttentionShape, gpu: KernelGpu) -> Floats:
        """Seconds of the whole GPU for one pair of tokens in one head: exponential, then two products."""
        exponential_s = 1.0 / (gpu.sms * EXPONENTIALS_PER_CLOCK * gpu.clock_hz)
        slower = np.where(shape.cache_bytes < 2.0, 1.0 / self.narrow_compute, 1.0)
        return exponential_s + slower * 4.0 * shape.head_dim / (gpu.flops16 * self.compute_efficiency)


def reading_s(bytes16: Floats, bytes_cache: Floats, shape: AttentionShape, narrow: float, gpu: KernelGpu) -> Floats:
    """Seconds for what comes in two bytes and what comes from the cache, which may be slower to take in."""
    slower = np.where(shape.cache_bytes < 2.0, 1.0 / narrow, 1.0)
    return (bytes16 + bytes_cache * slower) / gpu.read_bytes_per_s


def prompt_attention(shape: AttentionShape, kernel: AttentionKernel, gpu: KernelGpu) -> Work:
    """Prompts that attend to themselves, and the writing of their keys and values into the cache."""
    pair_s = kernel.pair_s(shape, gpu)
    group = shape.heads / shape.kv_heads
    plain = shape.heads * np.ceil(shape.tokens / ROWS_PROMPT)
    # Heads that share keys can share a tile, which saves padding where prompts are short.
    packed = shape.kv_heads * np.ceil(shape.tokens * group / ROWS_PROMPT)
    rows = np.where(packed < plain, ROWS_PROMPT / group, ROWS_PROMPT)
    block = np.minimum(rows, shape.tokens)
    reach = np.where(shape.window > 0.0, np.minimum(shape.tokens, shape.window + block), shape.tokens)
    # Along the prompt the keys to attend to grow up to the reach, then stay.
    mean = (reach * reach / 2.0 + (shape.tokens - reach) * reach) / shape.tokens + block / 2.0
    columns = np.minimum(mean, shape.tokens) + kernel.extra_columns
    tile_s = columns * ROWS_PROMPT * pair_s + kernel.tile_s / gpu.sms
    longest_s = (reach + kernel.extra_columns) * ROWS_PROMPT * pair_s * gpu.sms + kernel.tile_s
    compute_s = np.maximum(shape.requests * np.minimum(plain, packed) * tile_s, longest_s)
    all_tokens = shape.requests * shape.tokens
    channels = all_tokens * shape.kv_heads * shape.head_dim
    bytes16 = 4.0 * all_tokens * shape.heads * shape.head_dim + 4.0 * channels
    memory_s = reading_s(bytes16, 4.0 * channels * shape.cache_bytes, shape, kernel.narrow_efficiency, gpu)
    near = np.where(shape.window > 0.0, np.minimum(shape.window, shape.tokens), shape.tokens)
    pairs = near * (near + 1.0) / 2.0 + (shape.tokens - near) * near
    pipes_s = np.minimum(shape.requests * shape.heads * pairs * pair_s, compute_s)
    fixed_s = np.full(compute_s.shape, kernel.launch_s)
    return Work(fixed_s, compute_s, memory_s, pipes_s, memory_s, kernel.overlap)


def decode_attention(shape: AttentionShape, kernel: AttentionKernel, gpu: KernelGpu) -> Work:
    """One new token of each request attends to its context in the KV cache."""
    pair_s = kernel.pair_s(shape, gpu)
    group = shape.heads / shape.kv_heads
    tiles = shape.requests * np.minimum(shape.heads, shape.kv_heads * np.ceil(group / ROWS_DECODE))
    reach = np.where(shape.window > 0.0, np.minimum(shape.tokens, shape.window), shape.tokens)
    cut = (tiles < 0.8 * gpu.sms) & (shape.tokens > kernel.split_tokens)
    waves = np.where(cut, tiles / gpu.sms, np.ceil(tiles / gpu.sms))
    compute_s = waves * ((reach + kernel.extra_columns) * ROWS_DECODE * pair_s * gpu.sms + kernel.tile_s)
    cached = 2.0 * shape.requests * shape.kv_heads * shape.head_dim * reach * shape.cache_bytes
    bytes16 = 4.0 * shape.requests * shape.heads * shape.head_dim
    memory_s = reading_s(bytes16, cached, shape, kernel.narrow_efficiency, gpu)
    planned = np.where(shape.requests <= PLANNED_REQUESTS, shape.requests, 0.0)
    fixed_s = kernel.launch_s + kernel.request_s * planned + np.where(cut, kernel.combine_s, 0.0)
    pipes_s = np.minimum(shape.requests * shape.heads * reach * pair_s, compute_s)
    return Work(fixed_s, compute_s, memory_s, pipes_s, memory_s, kernel.overlap)


@dataclass(frozen=True, slots=True, eq=False)
class ExpertShape:
    """Tokens through one layer of experts, of which this GPU holds a part."""

    tokens: Floats
    hidden: Floats
    inner: Floats
    """Channels of one expert on this GPU."""
    per_token: Floats
    experts: Floats
    """Of the layer."""
    held: Floats
    """Of them on this GPU."""
    skewed: NDArray[np.bool_]
    """Some experts are chosen far more often than others."""


@dataclass(frozen=True, slots=True)
class ExpertKernel:
    """How well experts run (two grouped matrix products and what moves tokens between them)."""

    launch_s: float
    compute_efficiency: float
    overlap: float
    tile_bytes_per_s: float
    """At which all SMs together take in the operands of their tiles from the L2 cache."""
    move_efficiency: float
    """Bandwidth over data sheet of what goes between the products: activation, weighting, adding up."""
    pair_s: float
    """For each choice of an expert by a token: sorting."""
    skew_touched: float
    """Experts touched per choice while choices are few, if the choice is skewed; 1 if it were by lot."""
    skew_load: float
    """Choices that the busiest GPU gets over its share, if skewed."""
    type_bytes: float


def expert_layer(shape: ExpertShape, kernel: ExpertKernel, gpu: KernelGpu) -> Work:
    """Gated experts: `[tokens, hidden]` up to twice `inner`, activation, down again, added up per token."""
    choices = shape.tokens * shape.per_token
    local = np.maximum(choices * shape.held / shape.experts, 1.0)
    crowded = shape.skewed & (shape.held < shape.experts) & (local > shape.held)
    local = np.where(crowded, np.minimum(local * kernel.skew_load, choices), local)
    by_lot = shape.held * -np.expm1(-kernel.skew_touched * local / shape.held)
    touched = np.clip(np.where(shape.skewed, by_lot, np.minimum(shape.held, local)), 1.0, shape.held)
    flops = (gpu.flops16 if kernel.type_bytes > 1.0 else gpu.flops8) * kernel.compute_efficiency
    up_s = np.full(choices.shape, np.inf)
    down_s = up_s
    for rows, columns in EXPERT_TILES:
        step_s = max(2.0 * rows * columns / flops, (rows + columns) * kernel.type_bytes / kernel.tile_bytes_per_s)
        row_tiles = touched * np.ceil(local / touched / rows)
        # Experts end at different times: half a wave is lost, not what is missing from a whole one.
        up = np.maximum(row_tiles * np.ceil(2.0 * shape.inner / columns) + gpu.sms / 2.0, gpu.sms)
        down = np.maximum(row_tiles * np.ceil(shape.hidden / columns) + gpu.sms / 2.0, gpu.sms)
        up_s = np.minimum(up_s, up * shape.hidden * step_s)
        down_s = np.minimum(down_s, down * np.ceil(shape.inner / 64.0) * 64.0 * step_s)
    weights = 3.0 * touched * shape.hidden * shape.inner * kernel.type_bytes
    quantised = 3.0 if kernel.type_bytes < 2.0 else 0.0
    moved = shape.tokens * shape.hidden * (5.0 + kernel.type_bytes)
    moved = moved + choices * (shape.inner * (10.0 + quantised) + 4.0 * shape.hidden)
    moved_s = moved / gpu.memory_bytes_per_s
    weights_s = weights / gpu.read_bytes_per_s
    return Work(
        fixed_s=kernel.launch_s + kernel.pair_s * choices + moved_s / kernel.move_efficiency,
        compute_s=up_s + down_s,
        memory_s=weights_s,
        # Tiles that are mostly padding cost the pipes as much as full ones.
        pipes_s=up_s + down_s,
        traffic_s=weights_s + moved_s / gpu.memory_efficiency,
        overlap=kernel.overlap,
    )
