"""What must hold of an iteration whatever is in it: order in clock and work, shares, bounds of the draw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.models.iteration import iteration
from sim_backend.cards.engine_card import load_engine
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.instance import Layout, instance
from sim_backend.cards.llm_card import load_llm

BUILT = [
    instance(load_gpu(gpu), load_llm(llm), load_engine(engine), layout, weights).iteration
    for gpu, llm, engine, layout, weights in (
        ("h100-sxm", "llama-3.1-8b", "vllm-0.10", Layout(), "bf16"),
        ("a100-80gb", "llama-2-70b", "vllm-0.5", Layout(tensor_parallel=4), "bf16"),
        ("h100-sxm", "qwen3-235b-a22b", "vllm-0.10", Layout(tensor_parallel=8, expert_parallel=8), "fp8"),
        ("h100-sxm", "gpt-oss-20b", "vllm-0.10", Layout(), "mxfp4"),
        ("h100-sxm", "nemotron-nano-9b-v2", "vllm-0.10", Layout(), "bf16"),
    )
]

models = st.sampled_from(BUILT)
clocks = st.floats(0.1, 1.0)


@st.composite
def batches(draw):
    """Requests, tokens, pairs, context: some decode, some bring a chunk of a prompt."""
    decoding, prompts = draw(st.integers(0, 512)), draw(st.integers(0, 4))
    decoding = max(decoding, 1 - prompts)
    chunk = draw(st.integers(1, 2048)) if prompts else 0
    before = draw(st.integers(0, 8192))
    pairs = prompts * chunk * (before + (chunk + 1) / 2)
    return decoding + prompts, decoding + prompts * chunk, pairs, decoding * draw(st.floats(1.0, 8000.0))


def run(model, batch, clock_ratio=1.0):
    requests, tokens, pairs, context = batch
    return iteration(model, requests, tokens, pairs, context, clock_ratio)


@given(models, batches(), clocks, clocks)
def test_a_lower_clock_is_never_faster_and_never_draws_more(model, batch, one, other):
    slow, fast = (run(model, batch, ratio) for ratio in sorted((one, other)))
    assert slow.lasts_s >= fast.lasts_s * (1 - 1e-12)
    assert slow.gpu_w <= fast.gpu_w * (1 + 1e-12)


@given(models, batches(), clocks)
def test_no_clock_stretches_time_by_more_than_its_ratio(model, batch, ratio):
    assert run(model, batch, ratio).lasts_s <= run(model, batch).lasts_s / ratio * (1 + 1e-12)


@given(models, batches(), clocks)
def test_shares_are_shares_and_the_draw_lies_between_idle_and_everything_busy(model, batch, ratio):
    found = run(model, batch, ratio)
    for share in (found.busy, found.compute, found.memory):
        assert 0.0 <= share <= 1.0 + 1e-12
    most_w = model.idle_w + model.active_w + model.compute_w + model.memory_w
    assert model.idle_w <= found.gpu_w <= most_w


@given(models, batches(), st.floats(1.0, 10_000.0))
def test_more_context_takes_longer(model, batch, more):
    requests, tokens, pairs, context = batch
    longer = iteration(model, requests, tokens, pairs, context + more)
    assert longer.lasts_s >= run(model, batch).lasts_s


@given(models, batches())
def test_one_more_request_takes_longer(model, batch):
    requests, tokens, pairs, context = batch
    longer = iteration(model, requests + 1, tokens + 1, pairs, context + 1.0)
    assert longer.lasts_s > run(model, batch).lasts_s


@pytest.mark.parametrize("model", BUILT)
def test_attention_of_two_batches_adds(model):
    """Contexts of decoding requests add up, below a window's length."""
    base, one, two = (iteration(model, 8, 8, 0.0, context).lasts_s for context in (0.0, 400.0, 800.0))
    assert two - one == pytest.approx(one - base, rel=1e-6)
