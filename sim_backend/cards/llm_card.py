"""What a language model is made of, and what follows from it: parameters, bytes and FLOPs of a token."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from policies.errors import ConfigError
from sim_backend.cards.reading import Sourced, card_names, read_card

FOLDER = Path(__file__).parent / "llms"

Count = Annotated[int, Meta(gt=0)]
CountOrNone = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0.0)]
Kind = Literal["linear", "ffn", "experts"]
"""Attention and Mamba layers; feed-forward layers; what is chosen among."""

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "mxfp4": 4.25 / 8.0, "fp4": 4.5 / 8.0, "int4": 4.25 / 8.0}
"""Of one weight; narrow floats and integers carry a scale for each 16 or 32 of them."""


class LlmCard(Sourced, frozen=True, kw_only=True):
    """Shape of one decoder-only model. Layers may be of several kinds; the counts say how many there are of each."""

    published: list[str]
    """Names under which models of this shape are published."""
    total_params: Positive
    """As published."""
    activated_params: Positive
    """Of them, those that one token uses, as published."""
    hidden: Count
    vocab: Count
    tied: bool = False
    """Whether the output layer is the embedding."""
    # -- attention
    attention_layers: CountOrNone
    heads: Count
    kv_heads: Count
    head_dim: Count
    window_layers: CountOrNone = 0
    """Attention layers that look back `window` tokens only."""
    window: CountOrNone = 0
    # -- multi-head latent attention; 0: none
    kv_rank: CountOrNone = 0
    q_rank: CountOrNone = 0
    rope_dim: CountOrNone = 0
    """Of a head, what carries the position, beside `head_dim`."""
    # -- feed-forward layers
    dense_layers: CountOrNone = 0
    ffn: CountOrNone = 0
    ffn_matrices: Count = 3
    """3 with a gate, 2 without."""
    moe_layers: CountOrNone = 0
    experts: CountOrNone = 0
    experts_per_token: CountOrNone = 0
    expert_ffn: CountOrNone = 0
    shared_ffn: CountOrNone = 0
    """Width of what every token uses beside its experts."""
    # -- Mamba-2 layers
    mamba_layers: CountOrNone = 0
    mamba_heads: CountOrNone = 0
    mamba_head_dim: CountOrNone = 0
    mamba_state: CountOrNone = 0
    mamba_groups: CountOrNone = 0
    # -- number formats
    weights: str = "bf16"
    """As published."""
    narrowed: Kind = "linear"
    """Which weights have a type narrower than bf16, where such a type is used; the rest stays bf16."""

    @property
    def blocks(self) -> int:
        """Mixing and feed-forward layers: each ends in a collective where GPUs share it."""
        return self.attention_layers + self.mamba_layers + self.dense_layers + self.moe_layers

    @property
    def unusual_blocks(self) -> int:
        """Layers that hold experts, or all of a hybrid of attention and Mamba."""
        return self.blocks if self.mamba_layers else self.moe_layers

    @property
    def attention_params(self) -> float:
        """Weights of all attention layers."""
        if self.kv_rank:
            query = self.hidden * self.q_rank + self.q_rank * self.heads * (self.head_dim + self.rope_dim)
            keys = self.hidden * (self.kv_rank + self.rope_dim) + self.kv_rank * self.heads * 2 * self.head_dim
            return float(self.attention_layers * (query + keys + self.heads * self.head_dim * self.hidden))
        wide = 2 * self.heads + 2 * self.kv_heads
        return float(self.attention_layers * self.hidden * wide * self.head_dim)

    @property
    def mamba_params(self) -> float:
        """Weights of all Mamba-2 layers: projections in (gate, input, B, C, steps) and out."""
        inner = self.mamba_heads * self.mamba_head_dim
        into = 2 * inner + 2 * self.mamba_groups * self.mamba_state + self.mamba_heads
        return float(self.mamba_layers * self.hidden * (into + inner))

    @property
    def dense_ffn_params(self) -> float:
        """Weights of feed-forward layers that every token passes through, shared experts and routers included."""
        shared = self.moe_layers * self.hidden * (self.ffn_matrices * self.shared_ffn + self.experts)
        return float(self.dense_layers * self.ffn_matrices * self.hidden * self.ffn + shared)

    @property
    def expert_params(self) -> float:
        """Weights of one expert in every layer that has experts."""
        return float(self.moe_layers * self.ffn_matrices * self.hidden * self.expert_ffn)

    @property
    def head_params(self) -> float:
        """Weights of the output layer."""
        return float(self.vocab * self.hidden)

    @property
    def params(self) -> float:
        """All weights, from the shape; to compare with `total_params`."""
        embeddings = self.head_params * (1 if self.tied else 2)
        linear = self.attention_params + self.mamba_params + self.dense_ffn_params
        return linear + self.experts * self.expert_params + embeddings

    @property
    def linear_flops_per_token(self) -> float:
        """Of all layers except the output layer: two for each weight used."""
        dense = self.attention_params + self.mamba_params + self.dense_ffn_params
        return 2.0 * (dense + self.experts_per_token * self.expert_params)

    @property
    def activation_bytes_per_token(self) -> float:
        """What linear layers read and write of one token: inputs and outputs of each matrix."""
        heads = 2 * (self.heads + self.kv_heads) * self.head_dim
        inner = 2 * (self.mamba_heads * self.mamba_head_dim + self.mamba_groups * self.mamba_state)
        width = self.attention_layers * (2 * self.hidden + heads)
        width += self.mamba_layers * (2 * self.hidden + inner + self.mamba_heads * self.mamba_head_dim)
        width += self.dense_layers * (2 * self.hidden + self.ffn_matrices * self.ffn)
        used = self.experts_per_token * self.expert_ffn + self.shared_ffn
        width += self.moe_layers * (2 * self.hidden * (self.experts_per_token + 1) + self.ffn_matrices * used)
        return width * BYTES["bf16"]

    @property
    def head_flops_per_token(self) -> float:
        """Of the output layer."""
        return 2.0 * self.head_params

    @property
    def attention_flops_per_pair(self) -> float:
        """Of one token that attends to one other, in all attention layers: scores, softmax, values (DuetServe)."""
        return self.attention_layers * self.heads * (4.0 * self.head_dim + 2.0)

    @property
    def attention_flops_per_context(self) -> float:
        """The same while decoding: latent attention works on the latent vector itself, which is wider than a head."""
        if self.kv_rank:
            return 2.0 * self.attention_layers * self.heads * (2 * self.kv_rank + self.rope_dim)
        return self.attention_flops_per_pair

    @property
    def window_share(self) -> float:
        """Of the attention layers, those with a window."""
        return self.window_layers / self.attention_layers if self.attention_layers else 0.0

    def kv_bytes_per_token(self, kv: str) -> float:
        """What one token leaves in the KV cache of all attention layers, windows not taken into account.

        Args:
            kv: number format of the cache.
        """
        width = self.kv_rank + self.rope_dim if self.kv_rank else 2 * self.kv_heads * self.head_dim
        return self.attention_layers * width * BYTES[kv]

    @property
    def state_bytes(self) -> float:
        """State that the Mamba-2 layers keep for one request (fp32 state of the scan)."""
        return self.mamba_layers * self.mamba_heads * self.mamba_head_dim * self.mamba_state * BYTES["fp32"]

    def bytes_of(self, kind: Kind, weights: str) -> float:
        """Bytes of one weight of a kind of layer if the model is held in the number format `weights`.

        Raises:
            ConfigError: a number format that is not known.
        """
        if weights not in BYTES:
            raise ConfigError(f"number format '{weights}' is not known; use one of: {', '.join(BYTES)}")
        order = ("linear", "ffn", "experts")
        return BYTES[weights] if order.index(kind) >= order.index(self.narrowed) else BYTES["bf16"]

    def dense_bytes(self, weights: str) -> float:
        """Weights that every iteration reads: all but experts, embedding and output layer."""
        mixers = (self.attention_params + self.mamba_params) * self.bytes_of("linear", weights)
        return mixers + self.dense_ffn_params * self.bytes_of("ffn", weights)

    def total_bytes(self, weights: str) -> float:
        """What the weights occupy in memory."""
        experts = self.experts * self.expert_params * self.bytes_of("experts", weights)
        embeddings = self.head_params * (1 if self.tied else 2) * BYTES["bf16"]
        return self.dense_bytes(weights) + experts + embeddings


def load_llm(name: str) -> LlmCard:
    """The card called `name`, or the one in the file `name` if that ends in `.toml`.

    Raises:
        ConfigError: no such card, or a file that is not a whole and plausible one.
    """
    return read_card(name, FOLDER, LlmCard)


def published_llms() -> dict[str, LlmCard]:
    """The shipped cards by each of the names under which their models are published."""
    cards = (load_llm(name) for name in card_names(FOLDER))
    return {published: card for card in cards for published in card.published}
