"""Measured operations of an H200 (aiconfigurator, vLLM 0.22 kernels), and what their power readings stand for.

A reading is not the draw of its operation. The collector that made the recording (`collector/helper.py` of
ai-dynamo/aiconfigurator) repeats an operation at most 3,000 times and for at most 1 s, or 0.3 s where a call takes less
than 0.1 ms, and averages NVML readings taken every 100 ms from the start. NVML itself averages over a longer window, so
a reading holds a share of the operation's draw, and the rest is what the GPU did before. Operations shorter than 0.1 ms
read mostly the past: prompt attention read twice with nearly the same duration differs by 14 to 16 % in the median.
"""

import gzip
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError
from policies.models.operations import AttentionShape, ExpertShape
from sim_backend.fidelity.check import halves

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Columns = dict[str, NDArray[np.str_]]
Shape = TypeVar("Shape", AttentionShape, ExpertShape)

FOLDER = "aiconfigurator-h200-op-power"
REPEATS, PERIOD_S = 3_000, 0.1
"""Of the collector: most repetitions of an operation, and time between two readings."""
SHORT_S, SHORT_RUN_S, LONG_RUN_S = 1e-4, 0.3, 1.0
"""Of the collector: calls faster than the first are repeated for the second, others for the third."""
IDLE_W = 131.0
"""Clocks up, nothing to do: the lowest percent of all readings."""
LIMIT_W = 692.0
"""What the limiter held: median reading of long, limited operations; 700 W is what was asked of it."""
PRODUCTS_PER_REPEAT = 6.0
"""Matrix products in bf16 are captured six at a time, each with weights of its own; all else one at a time."""
FLASH_HEAD_DIM = 256.0
"""Longest head that FlashAttention-3 takes; longer ones run in another, far slower kernel that no model here uses."""


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """What all four files have."""

    lasts_s: Floats
    drawn_w: Floats
    """As read; see the module."""
    repeated_s: Floats
    """How long the operation was repeated while readings were taken."""
    before_w: Floats
    """What the sensor still remembers: from the median of the readings just before, on the same GPUs."""
    fitted: Flags
    """The half that parameters may be fitted to."""


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Matrix products."""

    m: Floats
    n: Floats
    k: Floats
    narrow: Flags
    """FP8 with block scales; else bf16."""
    readings: Readings

    @property
    def after_narrow(self) -> Flags:
        """bf16 products that follow an FP8 one, as nearly all do: what came before them is known."""
        result: Flags = ~self.narrow & np.concatenate([[False], self.narrow[:-1]])
        return result

    @property
    def blank(self) -> Flags:
        """Weights that no one wrote: bf16 layers that were created first of their size, in memory still zero.

        Multiplying zeros draws less and is never slowed by the power limit.
        """
        result: Flags = ~self.narrow & ((self.k == 65_536.0) | (self.n * self.k > 2.6e9))
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Attentions:
    """Attention of prompts or of decoding."""

    shape: AttentionShape
    readings: Readings


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """Layers of experts."""

    shape: ExpertShape
    kinds: NDArray[np.str_]
    """`bfloat16`, `fp8` (one scale per tensor) or `fp8_block`."""
    readings: Readings

    @property
    def aligned(self) -> Flags:
        """Rows of whole 32-byte sectors in two bytes; others take two to five times as long, which no model has."""
        result: Flags = self.shape.inner % 16.0 == 0.0
        return result


def columns_of(data: Path, name: str) -> Columns:
    """The columns of one file, as text.

    Raises:
        DataError: the file is missing or is no table.
    """
    path = data / FOLDER / f"{name}.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as gzip of text: fetch the recording again (docs/data.md)") from error
    header, _, body = text.partition("\n")
    names = header.split(",")
    cells = body.replace("\n", ",").rstrip(",").split(",")
    if len(cells) % len(names):
        raise DataError(f"{path}: rows differ in length: fetch the recording again (docs/data.md)")
    return {each: np.array(cells[index :: len(names)]) for index, each in enumerate(names)}


def number(columns: Columns, name: str) -> Floats:
    """One column as numbers."""
    return columns[name].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Collected:
    """How one file was measured, as far as the readings show."""

    earlier: int
    """Rows before a row whose readings tell what the sensor remembers: as many as GPUs took turns."""
    remembered: float
    """Of that, over `IDLE_W`: while the next operation is set up the GPU does little."""
    sizing: float = 1.0
    """Time of the first three calls over that of later ones: they decide how often the operation is repeated."""


PRODUCTS = Collected(1, 1.0)
PROMPTS = Collected(8, 0.9, 3.0)
DECODING = Collected(8, 0.9)
EXPERTS = Collected(8, 1.0)


def readings_of(columns: Columns, calls: Floats | float, shapes: list[str], collected: Collected) -> Readings:
    """What a file measured.

    Args:
        columns: of the file, in the order in which the operations were measured.
        calls: operations in one repetition.
        shapes: name of each row's shape; rows of one shape fall into the same half.
        collected: how.
    """
    lasts_s, drawn_w = number(columns, "latency") / 1e3, number(columns, "power")
    repeat_s = lasts_s * calls
    planned_s = repeat_s * collected.sizing
    repeats = np.clip(np.where(planned_s < SHORT_S, SHORT_RUN_S, LONG_RUN_S) / planned_s, 6.0, REPEATS)
    padded = np.concatenate([np.full(collected.earlier, drawn_w[0]), drawn_w])
    past = np.stack([padded[shift : shift + len(drawn_w)] for shift in range(collected.earlier)])
    before_w = IDLE_W + collected.remembered * (np.median(past, axis=0) - IDLE_W)
    return Readings(lasts_s, drawn_w, repeat_s * repeats, before_w, halves(shapes))


def named(*parts: Floats | NDArray[np.str_]) -> list[str]:
    """A name for each row's shape."""
    return ["x".join(row) for row in zip(*(part.astype(np.str_).tolist() for part in parts), strict=True)]


def read_products(data: Path) -> Products:
    """Matrix products; they were measured one after the other on one GPU."""
    columns = columns_of(data, "gemm")
    m, n, k = (number(columns, name) for name in "mnk")
    narrow = columns["gemm_dtype"] == "fp8_block"
    readings = readings_of(columns, np.where(narrow, 1.0, PRODUCTS_PER_REPEAT), named(m, n, k), PRODUCTS)
    return Products(m, n, k, narrow, readings)


def read_attentions(data: Path, name: str) -> Attentions:
    """Attention, `context_attention` or `generation_attention`; about eight rows were under way at a time.

    A decoding request's context includes its new token.
    """
    columns = columns_of(data, name)
    decoding = name == "generation_attention"
    shape = AttentionShape(
        requests=number(columns, "batch_size"),
        tokens=number(columns, "step") + 1.0 if decoding else number(columns, "isl"),
        heads=number(columns, "num_heads"),
        kv_heads=number(columns, "num_key_value_heads"),
        head_dim=number(columns, "head_dim"),
        window=number(columns, "window_size"),
        cache_bytes=np.where(columns["kv_cache_dtype"] == "fp8", 1.0, 2.0),
    )
    parts = (shape.requests, shape.tokens, shape.heads, shape.kv_heads, shape.head_dim, shape.window)
    readings = readings_of(columns, 1.0, named(*parts), DECODING if decoding else PROMPTS)
    return Attentions(shape, readings)


def read_experts(data: Path) -> Experts:
    """Layers of experts; three rows with four-bit weights are left out."""
    columns = columns_of(data, "moe")
    columns = {name: column[columns["moe_dtype"] != "int4_wo"] for name, column in columns.items()}
    experts, inner = number(columns, "num_experts"), number(columns, "inter_size")
    shape = ExpertShape(
        tokens=number(columns, "num_tokens"),
        hidden=number(columns, "hidden_size"),
        inner=inner / number(columns, "moe_tp_size"),
        per_token=number(columns, "topk"),
        experts=experts,
        held=experts / number(columns, "moe_ep_size"),
        skewed=columns["distribution"] != "balanced",
    )
    parts = (shape.tokens, shape.hidden, shape.inner, shape.per_token, shape.experts, shape.held)
    readings = readings_of(columns, 1.0, named(*parts), EXPERTS)
    return Experts(shape, columns["moe_dtype"], readings)


def chosen(shape: Shape, rows: NDArray[np.intp]) -> Shape:
    """Some rows of a shape."""
    return type(shape)(**{field.name: getattr(shape, field.name)[rows] for field in fields(shape)})


def own_share(repeated_s: Floats, window_s: float) -> Floats:
    """Share of a reading that is the operation's own: readings every `PERIOD_S`, each the mean of `window_s`."""
    total, count = np.zeros_like(repeated_s), np.zeros_like(repeated_s)
    for step in range(round(LONG_RUN_S / PERIOD_S) + 1):
        taken = repeated_s >= step * PERIOD_S
        total += np.where(taken, min(step * PERIOD_S / window_s, 1.0), 0.0)
        count += taken
    return total / count


def left_w(reading_w: Floats, drawn_w: Floats, repeated_s: Floats, window_s: float) -> Floats:
    """What the sensor shows when an operation ends: not its reading, which is the mean since it began.

    The reading and the draw tell what the sensor showed at the beginning; from there it has moved to the draw.
    """
    share = own_share(repeated_s, window_s)
    began_w = np.clip((reading_w - share * drawn_w) / (1.0 - share), IDLE_W, LIMIT_W)
    return began_w + np.minimum(repeated_s / window_s, 1.0) * (drawn_w - began_w)


def read_w(drawn_w: Floats, before_w: Floats, share: Floats) -> Floats:
    """What the collector reads of an operation that draws `drawn_w`."""
    return share * drawn_w + (1.0 - share) * before_w
