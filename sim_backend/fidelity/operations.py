"""How far the models of single operations are from measured ones of an H200, shapes that were not fitted.

Three things are compared. Times need no explanation. Power readings hold what the sensor remembers of the operations
before (`sim_backend.calibration.op_recordings`), so they are compared with what the collector would have read: the
model's draw by its share, the readings before by the rest. Readings that are mostly the operation's own are a line of
their own. How well the recording repeats itself, the least that any model can reach, is in the note.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.models.operations import MatrixKernel, Work, decode_attention, matrix_product, prompt_attention, run
from sim_backend.calibration.h200 import H200
from sim_backend.calibration.op_recordings import (
    FLASH_HEAD_DIM,
    FOLDER,
    LIMIT_W,
    Attentions,
    Experts,
    Products,
    Readings,
    chosen,
    own_share,
    read_attentions,
    read_experts,
    read_products,
    read_w,
)
from sim_backend.calibration.operations import before_products, host_class, work_of_experts
from sim_backend.fidelity.check import Check, errors_of

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

GROUP = "Single operations, H200 (vLLM 0.22 kernels)"
LIMIT = 0.10
OWN = 0.54
"""A reading is mostly the operation's own if its share is at least this: the operation ran for 0.9 s or longer."""
FEWEST = 100
"""Rows that a line has at least."""
LLM_WIDTHS = (1_024, 1_536, 2_048, 2_560, 3_072, 3_584, 4_096, 5_120, 6_144, 7_168, 8_192, 10_240, 12_288, 16_384)
"""Outputs and inputs of layers of Llama, Qwen, Mixtral and DeepSeek models among the measured widths."""


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Rows of one kind, modelled."""

    name: str
    readings: Readings
    rows: NDArray[np.intp]
    fitted: int
    lasts_s: Floats
    drawn_w: Floats
    before_w: Floats
    note: str = ""

    def checks(self) -> list[Check]:
        """Time, reading, and reading of those that are mostly their own."""
        measured = self.readings
        share = own_share(measured.repeated_s[self.rows], H200.window_s)
        expected_w = read_w(self.drawn_w, self.before_w, share)
        every = np.ones(len(self.rows), dtype=np.bool_)
        found = [self._check("time", self.lasts_s, measured.lasts_s[self.rows], every)]
        found.append(self._check("power reading", expected_w, measured.drawn_w[self.rows], every, self.note))
        own = share >= OWN
        # What the limit holds is no test of a draw: those below it, as the model has it, are a line of their own.
        lines = (("run 0.9 s or longer", own), ("of them below the limit", own & (self.drawn_w < 0.95 * LIMIT_W)))
        found += [
            self._check(f"power reading, {label}", expected_w, measured.drawn_w[self.rows], which, self.note)
            for label, which in lines
            if which.sum() >= FEWEST
        ]
        return found

    def _check(self, what: str, model: Floats, measured: Floats, rows: Flags, note: str = "") -> Check:
        median, worst, bias = errors_of(model[rows], measured[rows])
        return Check(
            group=GROUP,
            quantity=f"{self.name}: {what}",
            source=FOLDER,
            fitted_points=self.fitted,
            held_out_points=int(rows.sum()),
            median_error=median,
            worst_error=worst,
            limit=LIMIT,
            bias=bias,
            note=note,
        )


def compared(
    name: str, readings: Readings, which: Flags, work_of: Callable[[NDArray[np.intp]], Work], note: str = ""
) -> Compared:
    """Rows of the half that was not fitted, under the limit that was held."""
    rows = np.flatnonzero(~readings.fitted & which)
    result = run(work_of(rows), H200.gpu, LIMIT_W)
    fitted, before_w = int((readings.fitted & which).sum()), readings.before_w[rows]
    return Compared(name, readings, rows, fitted, result.lasts_s, result.drawn_w, before_w, note)


def works_of_products(products: Products, kernel: MatrixKernel) -> Callable[[NDArray[np.intp]], Work]:
    """Work of chosen rows in one kernel."""
    return lambda rows: matrix_product(products.m[rows], products.n[rows], products.k[rows], kernel, H200.gpu)


def of_products(products: Products) -> list[Compared]:
    """bf16 and FP8, all shapes and those of known models."""
    known = np.isin(products.n, LLM_WIDTHS) & np.isin(products.k, LLM_WIDTHS) & (products.m <= 8_192.0)
    least_s = np.array(H200.host_s)[host_class(products.m)]
    slower = products.narrow & (products.readings.lasts_s > 1.2 * least_s)
    wide = products.after_narrow & ~products.blank
    blank = "weights never written, and so zero, are left out: k = 65,536 and the largest"
    host = "slower than the host, which needs 52 to 84 us for a call"
    kinds = (("bf16", wide, H200.product16, blank), ("FP8", slower, H200.product8, host))
    found = []
    for kind, every, kernel, note in kinds:
        for label, which in (("", every), (", LLM shapes", every & known)):
            work_of = works_of_products(products, kernel)
            each = compared(f"products {kind}{label}", products.readings, which, work_of, note)
            # An FP8 kernel that is compiled first leaves the GPU idle for seconds: what it began with is not known.
            before_w = each.before_w if kind == "FP8" else before_bf16(products, each.rows)
            found.append(replace(each, before_w=before_w))
    return found


def before_bf16(products: Products, rows: NDArray[np.intp]) -> Floats:
    """What the sensor remembers where bf16 products begin."""
    return before_products(products, rows, H200.product8, H200.gpu, H200.window_s)


def repeats(attentions: Attentions) -> str:
    """How well power readings repeat: the two types of cache, where they take the same time within 10 %."""
    shape, readings = attentions.shape, attentions.readings
    fields = (shape.requests, shape.tokens, shape.heads, shape.kv_heads, shape.head_dim, shape.window)
    order = np.lexsort((shape.cache_bytes, *fields))
    first, second = order[:-1], order[1:]
    same = np.all([field[first] == field[second] for field in fields], axis=0)
    same &= shape.cache_bytes[first] != shape.cache_bytes[second]
    same &= np.abs(readings.lasts_s[first] / readings.lasts_s[second] - 1.0) < 0.1
    apart = np.abs(readings.drawn_w[second] / readings.drawn_w[first] - 1.0)[same]
    return f"equally long kernels, caches of 1 and 2 bytes, read {np.median(apart):.0%} apart in the median"


def of_attentions(name: str, attentions: Attentions) -> list[Compared]:
    """Prompts or decoding, both caches, all shapes and those of known models."""
    kernel, work_of = (H200.decode, decode_attention) if "decoding" in name else (H200.prompt, prompt_attention)
    shape = attentions.shape
    note = repeats(attentions)
    narrow = shape.cache_bytes < 2.0
    flash = shape.head_dim <= FLASH_HEAD_DIM
    known = (shape.head_dim == 128.0) & (shape.window == 0.0) & (shape.heads >= 4.0 * shape.kv_heads)
    kinds = (("bf16", flash & ~narrow), ("FP8 cache", flash & narrow), ("LLM shapes", known & (shape.tokens > 100.0)))
    return [
        compared(
            f"{name}, {kind}",
            attentions.readings,
            which,
            lambda rows: work_of(chosen(shape, rows), kernel, H200.gpu),
            note,
        )
        for kind, which in kinds
    ]


def of_experts(experts: Experts) -> list[Compared]:
    """Three number formats, all shapes and those of known models."""
    known = (experts.shape.inner >= 256.0) & (experts.shape.tokens <= 8_192.0)
    kinds = [(kind, experts.kinds == kind) for kind in H200.experts] + [("LLM shapes", known)]
    note = "inner widths that are no multiple of 16 are left out"
    return [
        compared(
            f"experts, {name}",
            experts.readings,
            which & experts.aligned,
            lambda rows: work_of_experts(experts, rows, H200.experts, H200.gpu),
            note,
        )
        for name, which in kinds
    ]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One batch through a model, kernels only, as the recording's README puts it together."""

    prompt: bool
    requests: int
    tokens: int
    """Of the prompt, or of each request's context."""
    stated_s: float
    stated_w: float


LLAMA_70B = (
    LayerRow(True, 1, 512, 0.030, 587.0),
    LayerRow(True, 1, 2_048, 0.108, 681.0),
    LayerRow(True, 1, 8_192, 0.444, 637.0),
    LayerRow(False, 1, 2_048, 0.0105, 466.0),
    LayerRow(False, 16, 2_048, 0.0107, 426.0),
    LayerRow(False, 64, 2_048, 0.0133, 356.0),
    LayerRow(False, 256, 2_048, 0.027, 440.0),
)
"""Llama-3-70B, bf16, a quarter of each layer on each of four GPUs; 80 layers."""
LLAMA_LAYERS = 80
LLAMA_PRODUCTS = (((2_560, 8_192),), ((8_192, 2_048),), ((12_288, 8_192), (16_384, 8_192)), ((8_192, 7_168),))
"""Outputs and inputs; gate and up together have 14,336 outputs, halfway between two measured widths."""
LLAMA_HEADS, LLAMA_KV_HEADS = 16.0, 2.0


def means(work: Work, repeated_s: Floats, before_w: Floats) -> Floats:
    """Seconds, drawn and expected watts; the mean of the rows."""
    result = run(work, H200.gpu, LIMIT_W)
    expected_w = read_w(result.drawn_w, before_w, own_share(repeated_s, H200.window_s))
    return np.array([result.lasts_s.mean(), result.drawn_w.mean(), expected_w.mean()])


def llama_layer(row: LayerRow, products: Products, attentions: Attentions) -> Floats:
    """Seconds of one layer, and watts drawn and expected to be read, each operation by its time."""
    tokens = float(row.tokens if row.prompt else row.requests)
    parts = []
    for widths in LLAMA_PRODUCTS:
        found = np.zeros(len(products.m), dtype=np.bool_)
        for n, k in widths:
            found |= (products.m == tokens) & (products.n == n) & (products.k == k) & ~products.narrow
        rows = np.flatnonzero(found)
        work = matrix_product(products.m[rows], products.n[rows], products.k[rows], H200.product16, H200.gpu)
        parts.append(means(work, products.readings.repeated_s[rows], before_bf16(products, rows)))
    shape = attentions.shape
    wanted = (shape.requests == row.requests) & (shape.tokens == row.tokens) & (shape.window == 0.0)
    wanted &= (shape.heads == LLAMA_HEADS) & (shape.kv_heads == LLAMA_KV_HEADS)
    rows = np.flatnonzero(wanted & (shape.head_dim == 128.0) & (shape.cache_bytes == 2.0))
    kernel, work_of = (H200.prompt, prompt_attention) if row.prompt else (H200.decode, decode_attention)
    work, readings = work_of(chosen(shape, rows), kernel, H200.gpu), attentions.readings
    parts.append(means(work, readings.repeated_s[rows], readings.before_w[rows]))
    lasts_s, drawn_w, expected_w = np.array(parts).T
    total_s = lasts_s.sum()
    return np.array([total_s, (lasts_s * drawn_w).sum() / total_s, (lasts_s * expected_w).sum() / total_s])


def llama_checks(products: Products, prompts: Attentions, decoding: Attentions) -> list[Check]:
    """A whole model's layers against the table in the recording's README."""
    rows = [llama_layer(row, products, prompts if row.prompt else decoding) for row in LLAMA_70B]
    lasts_s, drawn_w, expected_w = np.array(rows).T
    stated_s = np.array([row.stated_s for row in LLAMA_70B])
    stated_w = np.array([row.stated_w for row in LLAMA_70B])
    draws = ", ".join(f"{watts:.0f}" for watts in drawn_w)
    pairs = (
        ("time", lasts_s * LLAMA_LAYERS, stated_s, "also of shapes that were fitted to"),
        ("mean power reading", expected_w, stated_w, f"the model's own draw: {draws} W"),
    )
    return [
        Check(GROUP, f"Llama-3-70B on four, 3 prompts and 4 decoding batches: {what}", FOLDER, 0, len(rows),
              *errors_of(model, stated)[:2], limit=LIMIT, bias=errors_of(model, stated)[2], note=note)
        for what, model, stated, note in pairs
    ]  # fmt: skip


def checks(data: Path) -> list[Check]:
    """All comparisons, on the half of the shapes that no parameter was fitted to.

    Raises:
        DataError: the recording is missing or broken.
    """
    products, experts = read_products(data), read_experts(data)
    prompts, decoding = (read_attentions(data, name) for name in ("context_attention", "generation_attention"))
    every = [
        *of_products(products),
        *of_attentions("attention of prompts", prompts),
        *of_attentions("attention of decoding", decoding),
        *of_experts(experts),
    ]
    return [check for each in every for check in each.checks()] + llama_checks(products, prompts, decoding)
