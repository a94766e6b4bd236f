"""Cards: shapes that give the published totals, errors that name what is wrong, and a published roofline vector."""

import msgspec
import pytest

from policies.models.iteration import iteration
from sim_backend.cards.engine_card import load_engine
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.instance import instance
from sim_backend.cards.llm_card import load_llm, published_llms

CARDS = {card.name: card for card in published_llms().values()}


@pytest.mark.parametrize("name", sorted(CARDS))
def test_shape_gives_the_published_parameters(name):
    card = CARDS[name]
    assert card.params == pytest.approx(card.total_params, rel=0.02)


@pytest.mark.parametrize("name", [name for name in sorted(CARDS) if CARDS[name].experts])
def test_shape_gives_the_activated_parameters(name):
    """Publishers count the embedding or do not."""
    card = CARDS[name]
    with_head = card.linear_flops_per_token / 2 + card.head_params
    assert min(
        abs(with_head / card.activated_params - 1), abs((with_head + card.head_params) / card.activated_params - 1)
    ) == pytest.approx(0.0, abs=0.02)


def test_latent_attention_keeps_one_narrow_vector():
    """DeepSeek-V3: 512 + 64 numbers per layer and token."""
    assert load_llm("deepseek-v3").kv_bytes_per_token("bf16") == 61 * 576 * 2


def test_grouped_queries_keep_eight_heads_of_sixty_four():
    assert load_llm("llama-3.1-70b").kv_bytes_per_token("bf16") == 2 * 80 * 8 * 128 * 2


def ideal():
    """Qwen3-8B on 989 TFLOP/s and 3.35 TB/s at efficiency 1, without host, gaps and output layer's activations."""
    gpu = msgspec.structs.replace(
        load_gpu("h100-sxm"), flops={"bf16": 989e12}, compute_efficiency=1.0, memory_efficiency=1.0, overlap=1.0
    )
    engine = msgspec.structs.replace(
        load_engine("vllm-0.10"),
        host_s=0.0,
        host_per_request_s=0.0,
        sample_per_word_s=0.0,
        gap_s=0.0,
        cache_efficiency=1.0,
    )
    return instance(gpu, load_llm("qwen3-8b"), engine).iteration


@pytest.mark.parametrize(
    ("requests", "tokens", "pairs", "context", "published_ms"),
    [
        (1, 8192, 8192 * 8192, 0, 155.6),
        (64, 64, 0, 64 * 4096, 16.18),
        (65, 8192 + 64, 8192 * 8192, 64 * 4096, 168.1),
    ],
)
def test_duetserves_roofline_at_full_efficiency(requests, tokens, pairs, context, published_ms):
    """DuetServe counts a prompt's pairs as if no token were masked."""
    assert iteration(ideal(), requests, tokens, pairs, context).lasts_s * 1e3 == pytest.approx(published_ms, abs=0.1)
