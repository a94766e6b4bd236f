"""Fits the H200's kernels to measured operations: few physical parameters, on every other shape.

Order matters: products in bf16 give the watts and the memory's efficiency, which all other kernels then share. What is
minimised is the mean of |log(model / measured)| of the time, and of the power reading by its own share of the draw
(`op_recordings`), so that rows that say nothing about their operation have no say. Search and sampling are
deterministic, results are rounded to three digits: fitting again gives the shipped numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.models.operations import (
    AttentionKernel,
    AttentionShape,
    ExpertKernel,
    KernelGpu,
    MatrixKernel,
    Run,
    Work,
    at_clock,
    decode_attention,
    expert_layer,
    matrix_product,
    prompt_attention,
    run,
)
from sim_backend.calibration.fits import rounded
from sim_backend.calibration.op_recordings import (
    FLASH_HEAD_DIM,
    IDLE_W,
    LIMIT_W,
    Attentions,
    Experts,
    Products,
    Readings,
    chosen,
    left_w,
    own_share,
    read_attentions,
    read_experts,
    read_products,
    read_w,
)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Values = dict[str, float]

EXPONENT = 2.25
"""Of the clock in the draw, from two power limits of H200 servers (`two_limits`). This recording cannot tell: its clock
is unknown, and the fit is as good for any exponent from 1.5 to 4."""
ROWS = 4_000
"""At most so many rows are fitted to, evenly spread over the file."""
FACTORS = np.exp(np.array([-1.0, -0.5, -0.25, 0.25, 0.5, 1.0]))
SWEEPS = 9
DIGITS = 3
"""To which fitted numbers are rounded."""


@dataclass(frozen=True, slots=True)
class H200Kernels:
    """All that is fitted."""

    gpu: KernelGpu
    window_s: float
    """Over which NVML averages, as far as the readings show."""
    product16: MatrixKernel
    product8: MatrixKernel
    host_s: tuple[float, float, float]
    """Least time of one eager FP8 product, which the host needs: up to 17 tokens, a multiple of 4, any other number.

    A property of the measurement, not of the GPU: in an engine these launches are captured or hidden.
    """
    prompt: AttentionKernel
    decode: AttentionKernel
    experts: Mapping[str, ExpertKernel]


BLANK_GPU = KernelGpu(
    sms=132.0,
    clock_hz=1.98e9,
    flops16=9.894e14,
    flops8=1.979e15,
    memory_bytes_per_s=4.8e12,
    memory_efficiency=0.88,
    idle_w=IDLE_W,
    active_w=144.0,
    compute_w=538.0,
    memory_w=290.0,
    exponent=EXPONENT,
)
"""H200 SXM. Data sheet: FLOP/s (dense), bandwidth, full clock, SMs."""
FIRST16 = MatrixKernel(2.9e-6, 0.8, 0.75, 3.6e-6, 2.0, 0.0)
FIRST8 = MatrixKernel(6e-6, 0.65, 0.4, 2.9e-6, 1.0, 0.36)
FIRST_PROMPT = AttentionKernel(8e-6, 1.0, 0.2, 1.7e-6, 48.0, 0.9, 1.0)
FIRST_DECODE = AttentionKernel(5.2e-6, 1.3, 0.7, 2.5e-6, 118.0, 0.7, 1.0, 5.6e-6, 2.4e-8, 200.0)
FIRST_EXPERTS = {
    "bfloat16": ExpertKernel(2.2e-5, 0.6, 0.87, 5.6e12, 0.59, 5.7e-10, 0.92, 1.31, 2.0),
    "fp8": ExpertKernel(2.2e-5, 0.55, 0.87, 5.6e12, 0.59, 5.7e-10, 0.92, 1.31, 1.0),
    "fp8_block": ExpertKernel(3.6e-5, 0.28, 0.87, 5.6e12, 0.59, 5.7e-10, 0.92, 1.31, 1.0),
}
SHARES = ("memory_efficiency", "overlap", "narrow_efficiency", "quantise_efficiency")
"""Parameters that are parts of a whole."""


def descend(loss: Callable[[Values], float], first: Values) -> Values:
    """Smallest loss by trying factors on one parameter after the other, ever closer to 1."""
    best, values = loss(first), dict(first)
    for sweep, name in product(range(SWEEPS), first):
        for factor in FACTORS ** (0.4 * 0.6**sweep):
            tried = values | {name: values[name] * float(factor)}
            at = np.inf if name in SHARES and tried[name] > 1.0 else loss(tried)
            if at < best:
                best, values = at, tried
    return {name: rounded(value, DIGITS) for name, value in values.items()}


def some(rows: Flags) -> NDArray[np.intp]:
    """At most `ROWS` of the rows, evenly spread."""
    found = np.flatnonzero(rows)
    return found[:: max(1, -(-len(found) // ROWS))]


def mismatch(result: Run, readings: Readings, rows: NDArray[np.intp], before_w: Floats, window_s: float) -> float:
    """Mean error of time and reading; of the reading by how much of it is the operation's own."""
    share = own_share(readings.repeated_s[rows], window_s)
    expected_w = read_w(result.drawn_w, before_w, share)
    time = np.abs(np.log(result.lasts_s / readings.lasts_s[rows]))
    power = np.minimum(share, 0.5) * np.abs(np.log(expected_w / readings.drawn_w[rows]))
    return float(np.mean(time) + 2.0 * np.mean(power))


def before_products(
    products: Products, rows: NDArray[np.intp], kernel: MatrixKernel, gpu: KernelGpu, window_s: float
) -> Floats:
    """What the sensor remembers where a bf16 product begins: how the FP8 product before it ended.

    Where the host was slower than the FP8 kernel, the GPU did nothing for the rest of the call.
    """
    readings, earlier = products.readings, rows - 1
    work = matrix_product(products.m[earlier], products.n[earlier], products.k[earlier], kernel, gpu)
    result = run(work, gpu, LIMIT_W)
    busy = np.minimum(result.lasts_s / readings.lasts_s[earlier], 1.0)
    drawn_w = gpu.idle_w + busy * (result.drawn_w - gpu.idle_w)
    return left_w(readings.drawn_w[earlier], drawn_w, readings.repeated_s[earlier], window_s)


def off_time(work: Work, gpu: KernelGpu, measured_s: Floats, least_s: Floats | float = 0.0) -> float:
    """Mean error of the time alone."""
    lasts_s = np.maximum(run(work, gpu, LIMIT_W).lasts_s, least_s)
    return float(np.mean(np.abs(np.log(lasts_s / measured_s))))


def fit_products16(products: Products) -> tuple[KernelGpu, MatrixKernel, float]:
    """The GPU's watts and memory, the bf16 kernel, and the window of the readings."""
    readings = products.readings
    usable = products.after_narrow & readings.fitted
    rows = some(usable & ~products.blank & (products.m < 32_768.0))
    blank = some(usable & products.blank & (products.m >= 256.0) & (products.n >= 1_024.0))

    def loss(values: Values) -> float:
        gpu, kernel = parts_of(values)
        work = matrix_product(products.m[rows], products.n[rows], products.k[rows], kernel, gpu)
        free = matrix_product(products.m[blank], products.n[blank], products.k[blank], kernel, gpu)
        free_s = at_clock(free, gpu, np.ones(len(blank)))[0]
        off = np.mean(np.abs(np.log(free_s / readings.lasts_s[blank])))
        before_w = before_products(products, rows, FIRST8, gpu, values["window_s"])
        result = run(work, gpu, LIMIT_W)
        return mismatch(result, readings, rows, before_w, values["window_s"]) + 0.5 * float(off)

    def parts_of(values: Values) -> tuple[KernelGpu, MatrixKernel]:
        of_gpu = {name: values[name] for name in ("memory_efficiency", "active_w", "compute_w", "memory_w")}
        of_kernel = {name: values[name] for name in ("launch_s", "compute_efficiency", "overlap", "split_s")}
        return replace(BLANK_GPU, **of_gpu), replace(FIRST16, **of_kernel)

    first = {name: getattr(BLANK_GPU, name) for name in ("memory_efficiency", "active_w", "compute_w", "memory_w")}
    first |= {name: getattr(FIRST16, name) for name in ("launch_s", "compute_efficiency", "overlap", "split_s")}
    values = descend(loss, first | {"window_s": 0.7})
    gpu, kernel = parts_of(values)
    return gpu, kernel, values["window_s"]


def host_class(m: Floats) -> NDArray[np.intp]:
    """Which of the three least times applies to a product of m tokens."""
    return np.where(m <= 17.0, 0, np.where(m % 4.0 == 0.0, 1, 2))


def fit_products8(products: Products, gpu: KernelGpu) -> tuple[MatrixKernel, tuple[float, float, float]]:
    """The FP8 kernel with its quantisation, and the host's share of eager calls."""
    fitted = products.narrow & products.readings.fitted
    small = fitted & (products.n <= 2_048.0) & (products.k <= 2_048.0) & (products.m <= 512.0)
    classes = host_class(products.m)
    host = [
        rounded(float(np.median(products.readings.lasts_s[small & (classes == each)])), DIGITS) for each in range(3)
    ]
    # Where the host is the slower one, the time says nothing about the kernel.
    least_s = np.array(host)[classes]
    rows = some(fitted & (products.readings.lasts_s > 1.2 * least_s))

    def loss(values: Values) -> float:
        work = matrix_product(products.m[rows], products.n[rows], products.k[rows], replace(FIRST8, **values), gpu)
        return off_time(work, gpu, products.readings.lasts_s[rows], least_s[rows])

    names = ("launch_s", "compute_efficiency", "overlap", "quantise_efficiency")
    kernel = replace(FIRST8, **descend(loss, {name: getattr(FIRST8, name) for name in names}))
    return kernel, (host[0], host[1], host[2])


def fit_attention(
    attentions: Attentions,
    first: AttentionKernel,
    work_of: Callable[[AttentionShape, AttentionKernel, KernelGpu], Work],
    gpu: KernelGpu,
) -> AttentionKernel:
    """One kind of attention; parameters that are 0 in `first` stay so."""
    readings = attentions.readings
    rows = some(readings.fitted & (attentions.shape.head_dim <= FLASH_HEAD_DIM))
    shape = chosen(attentions.shape, rows)

    def loss(values: Values) -> float:
        return off_time(work_of(shape, replace(first, **values), gpu), gpu, readings.lasts_s[rows])

    names = [field.name for field in fields(first) if getattr(first, field.name) > 0.0]
    return replace(first, **descend(loss, {name: getattr(first, name) for name in names}))


def kernels_of(values: Values) -> dict[str, ExpertKernel]:
    """The three kinds of experts: one-byte types are quantised on the way, block scales take further launches."""
    shared = {name: value for name, value in values.items() if name in FIRST_EXPERTS["fp8"].__slots__}
    result = {}
    for kind, kernel in FIRST_EXPERTS.items():
        own = shared | {"compute_efficiency": values[kind]}
        if kernel.type_bytes < 2.0:
            own["pair_s"] = values["narrow_pair_s"]
        if kind == "fp8_block":
            own["launch_s"] = rounded(values["launch_s"] + values["blocks_s"], DIGITS)
        result[kind] = replace(kernel, **own)
    return result


def work_of_experts(
    experts: Experts, rows: NDArray[np.intp], kernels: Mapping[str, ExpertKernel], gpu: KernelGpu
) -> Work:
    """Experts of all kinds, row by row."""
    shape, kinds = chosen(experts.shape, rows), experts.kinds[rows]
    parts = {kind: expert_layer(shape, kernel, gpu) for kind, kernel in kernels.items()}
    picked = {
        name: np.select([kinds == kind for kind in parts], [getattr(work, name) for work in parts.values()])
        for name in ("fixed_s", "compute_s", "memory_s", "pipes_s", "traffic_s")
    }
    return Work(**picked, overlap=next(iter(kernels.values())).overlap)


def fit_experts(experts: Experts, gpu: KernelGpu) -> dict[str, ExpertKernel]:
    """Layers of experts, all three kinds together."""
    readings = experts.readings
    rows = some(readings.fitted & experts.aligned)

    def loss(values: Values) -> float:
        return off_time(work_of_experts(experts, rows, kernels_of(values), gpu), gpu, readings.lasts_s[rows])

    names = ("launch_s", "overlap", "tile_bytes_per_s", "move_efficiency", "pair_s", "skew_touched", "skew_load")
    first = {name: getattr(FIRST_EXPERTS["fp8"], name) for name in names}
    first |= {kind: kernel.compute_efficiency for kind, kernel in FIRST_EXPERTS.items()}
    first |= {"blocks_s": 1.4e-5, "narrow_pair_s": FIRST_EXPERTS["fp8"].pair_s}
    return kernels_of(descend(loss, first))


def fit(data: Path) -> H200Kernels:
    """All kernels of the H200, fitted to one half of the shapes in `data`.

    Raises:
        DataError: the recording is missing or broken.
    """
    products = read_products(data)
    gpu, product16, window_s = fit_products16(products)
    product8, host_s = fit_products8(products, gpu)
    prompt = fit_attention(read_attentions(data, "context_attention"), FIRST_PROMPT, prompt_attention, gpu)
    decode = fit_attention(read_attentions(data, "generation_attention"), FIRST_DECODE, decode_attention, gpu)
    experts = fit_experts(read_experts(data), gpu)
    return H200Kernels(gpu, window_s, product16, product8, host_s, prompt, decode, experts)
