"""What one version of one serving engine adds to the kernels: host time, gaps, collectives, limits of a batch."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from sim_backend.cards.reading import Sourced, read_card

FOLDER = Path(__file__).parent / "engines"

NotNegative = Annotated[float, Meta(ge=0.0)]
Share = Annotated[float, Meta(gt=0.0, le=1.0)]
Count = Annotated[int, Meta(gt=0)]


class EngineCard(Sourced, frozen=True, kw_only=True):
    """One version of one engine: the version is part of the name, because it decides more than the GPU does."""

    # -- fitted
    host_s: NotNegative
    """Of an iteration, in which the GPU waits."""
    host_per_request_s: NotNegative
    """For a batch of one request, in which the GPU waits; grows with the batch to the power of `host_exponent`."""
    host_exponent: Share
    """Of the requests in that; below 1: outputs that the host is late with go out together."""
    host_per_rank_s: NotNegative
    """Of an iteration, for each GPU beyond the first that has to be told what to do."""
    gap_s: NotNegative
    """Of one mixing or feed-forward layer, between its kernels."""
    collective_s: NotNegative
    """Latency of one collective between GPUs."""
    link_efficiency: Share
    """Achieved over data-sheet bandwidth between GPUs."""
    sample_per_word_s: NotNegative
    """Of one request and entry of the vocabulary, to sample its token: the GPU is busy, but neither resource works."""
    expert_memory_efficiency: Share
    """Achieved bandwidth of reading experts over that of reading dense weights."""
    expert_compute_efficiency: Share
    """Achieved FLOP/s of experts over that of dense layers: their batches are small and padded."""
    expert_gap_s: NotNegative
    """Of one layer with experts, on top of `gap_s`: choosing, sorting, the kernels in between."""
    prompt_gap_s: NotNegative
    """Of one layer that is no plain transformer layer (experts, Mamba hybrids), in an iteration that holds prompts."""
    unpack_flops: NotNegative
    """What the pipes could do for a dense layer while they unpack and scale one weight of an expert that is narrower
    than bf16."""
    cache_efficiency: Share
    """Achieved bandwidth of reading the KV cache over that of reading dense weights."""
    # -- facts
    query_tile: Count
    """Rows to which the attention kernel pads the queries of one KV head; 1: it does not use the tensor pipes."""
    mixes: bool
    """Whether one iteration holds prompts and decoding requests (chunked prefill), or either."""
    max_batch: Count
    """Requests in a batch, unless the operator says otherwise."""
    max_batch_tokens: Count
    """Tokens of one iteration, unless the operator says otherwise: the budget that prompts are cut to."""
    memory_share: Share
    """Of the GPU's memory, for weights and cache, unless the operator says otherwise."""
    reserve_bytes: NotNegative
    """Of that, for activations and graphs."""


def load_engine(name: str) -> EngineCard:
    """The card called `name`, or the one in the file `name` if that ends in `.toml`.

    Raises:
        ConfigError: no such card, or a file that is not a whole and plausible one.
    """
    return read_card(name, FOLDER, EngineCard)
