"""Instances: what layouts, engines, formats and limits do to time, power and memory of one and the same model."""

import msgspec
import numpy as np
import pytest

from policies.errors import ConfigError
from policies.models.iteration import iteration
from sim_backend.cards.engine_card import load_engine
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.instance import Layout, hottest, instance
from sim_backend.cards.llm_card import load_llm
from sim_backend.cards.saturated import Requests, at_clock, joining, saturated

H100, A100 = load_gpu("h100-sxm"), load_gpu("a100-80gb")
NEW, OLD = load_engine("vllm-0.10"), load_engine("vllm-0.5")


def decode_s(built, requests, resident=500.0):
    return iteration(built.iteration, requests, requests, 0.0, requests * resident).lasts_s


def test_a_model_that_does_not_fit_is_refused_with_its_size():
    with pytest.raises(ConfigError, match=r"llama-3.1-70b in bf16 does not fit on 1 x h100-sxm.*144 GB.*use more GPUs"):
        instance(H100, load_llm("llama-3.1-70b"), NEW)


def test_an_unknown_number_format_is_refused():
    with pytest.raises(ConfigError, match="number format 'bf17' is not known; use one of: fp32, bf16"):
        instance(H100, load_llm("llama-3.1-8b"), NEW, weights="bf17")


def test_cache_of_llama_8b_on_one_h100():
    """0.9 of 85.9 GB, less 16 GB of weights and 3 GB, at 131,072 bytes a token."""
    built = instance(H100, load_llm("llama-3.1-8b"), NEW)
    assert built.kv_tokens == pytest.approx((0.9 * 85.9e9 - 3e9 - 2 * 8.03e9) / 131_072, rel=1e-3)


def test_short_windows_leave_room_for_more_requests():
    """Half of gpt-oss's layers keep 128 tokens of each request, whatever its length."""
    llm = load_llm("gpt-oss-20b")
    whole = msgspec.structs.replace(llm, window_layers=0, window=0)
    assert instance(H100, llm, NEW).kv_tokens > 1.8 * instance(H100, whole, NEW).kv_tokens


def test_windows_longer_than_memory_save_nothing():
    llm = load_llm("gemma-3-27b")
    whole = msgspec.structs.replace(llm, window_layers=0, window=0)
    layout = Layout(tensor_parallel=2)
    assert instance(H100, llm, NEW, layout).kv_tokens == instance(H100, whole, NEW, layout).kv_tokens


def test_a_window_bounds_what_a_long_context_costs():
    llm = load_llm("gpt-oss-120b")
    whole = msgspec.structs.replace(llm, window_layers=0, window=0)
    layout = Layout(tensor_parallel=2)
    with_window, without = instance(H100, llm, NEW, layout), instance(H100, whole, NEW, layout)
    assert decode_s(with_window, 64, 100.0) == pytest.approx(decode_s(without, 64, 100.0))
    grown = decode_s(without, 64, 20_000.0) - decode_s(without, 64, 100.0)
    assert decode_s(with_window, 64, 20_000.0) - decode_s(with_window, 64, 100.0) == pytest.approx(grown / 2, rel=0.02)


def test_more_gpus_are_faster_but_not_in_proportion():
    llm = load_llm("llama-3.1-8b")
    one, two, four = (decode_s(instance(H100, llm, NEW, Layout(tensor_parallel=n)), 64) for n in (1, 2, 4))
    assert one > two > four
    assert one / four < 3.0


def test_a_cache_of_few_heads_is_not_split_further():
    """Qwen3-30B-A3B keeps four KV heads: on eight GPUs each head lies on two of them."""
    llm = load_llm("qwen3-30b-a3b")
    four, eight = (instance(H100, llm, NEW, Layout(tensor_parallel=n)).iteration for n in (4, 8))
    assert eight.attention_memory_per_context_s == four.attention_memory_per_context_s


def test_pipeline_stages_share_layers_and_hold_a_batch_each():
    llm = load_llm("llama-3.1-70b")
    flat = instance(H100, llm, NEW, Layout(tensor_parallel=4))
    staged = instance(H100, llm, NEW, Layout(tensor_parallel=4, pipeline_parallel=2))
    assert staged.stages == 2
    assert staged.iteration.linear_memory_s[0] == pytest.approx(flat.iteration.linear_memory_s[0] / 2)
    assert staged.kv_tokens > 2 * flat.kv_tokens


def test_copies_of_the_attention_share_requests_but_not_its_weights():
    llm = load_llm("deepseek-v3")
    b200 = msgspec.structs.replace(H100, memory_bytes=180e9)
    tensor = instance(b200, llm, NEW, Layout(tensor_parallel=8, expert_parallel=8)).iteration
    copies = instance(b200, llm, NEW, Layout(data_parallel=8, expert_parallel=8)).iteration
    assert copies.linear_memory_s[0] == pytest.approx(8 * tensor.linear_memory_s[0])
    # A latent vector cannot be split over tensor-parallel GPUs; copies each keep their own requests' only.
    assert copies.attention_memory_per_context_s == pytest.approx(tensor.attention_memory_per_context_s / 8)


def test_reading_experts_grows_with_the_batch_until_all_are_read():
    table = instance(H100, load_llm("mixtral-8x7b"), NEW, Layout(tensor_parallel=4)).iteration.linear_memory_s
    assert (np.diff(table) >= 0.0).all()
    experts = table - table[0]
    assert experts[1] / experts[-1] == pytest.approx(2 / 8)
    assert experts[32] / experts[-1] > 0.99


def test_the_busiest_gpu_reads_more_experts_than_an_even_share_until_all_read_all():
    """Against draws: 8 of 128 experts for each of 16 tokens, over 8 GPUs."""
    llm = load_llm("qwen3-30b-a3b")
    chance = np.random.default_rng(7)
    most = []
    for _ in range(400):
        chosen = np.unique(np.concatenate([chance.choice(128, 8, replace=False) for _ in range(16)]))
        most.append(np.bincount(chosen // 16, minlength=8).max() / (len(chosen) / 8))
    factor = hottest(llm, 8)
    assert factor[16] == pytest.approx(np.mean(most), rel=0.04)
    assert factor[-1] == pytest.approx(1.0)


def test_narrow_weights_are_read_faster_and_cost_the_pipes_time():
    llm, layout = load_llm("qwen3-235b-a22b"), Layout(tensor_parallel=8, expert_parallel=8)
    wide, narrow = (instance(H100, llm, NEW, layout, weights) for weights in ("bf16", "fp8"))
    assert narrow.iteration.linear_memory_s[-1] == pytest.approx(wide.iteration.linear_memory_s[-1] / 2)
    assert wide.iteration.unpack_ratio == 0.0
    assert 0.1 < narrow.iteration.unpack_ratio < 1.0
    assert decode_s(narrow, 64) < decode_s(wide, 64)


def test_only_ffn_of_the_published_405b_is_narrow():
    llm = load_llm("llama-3.1-405b")
    assert llm.bytes_of("linear", "fp8") == 2.0
    assert llm.bytes_of("ffn", "fp8") == 1.0


def test_an_older_gpu_multiplies_narrow_weights_as_wide_ones():
    llm, layout = load_llm("llama-3.1-70b"), Layout(tensor_parallel=4)
    fp8, bf16 = (instance(A100, llm, NEW, layout, weights).iteration for weights in ("fp8", "bf16"))
    assert fp8.linear_compute_per_token_s == bf16.linear_compute_per_token_s
    assert fp8.linear_memory_s[0] == pytest.approx(bf16.linear_memory_s[0] / 2)


def test_prompts_of_unusual_layers_leave_the_graph():
    dense, hybrid = (instance(H100, load_llm(n), NEW).iteration for n in ("llama-3.1-8b", "nemotron-nano-9b-v2"))
    assert dense.prompt_s == 0.0
    assert 0.01 < hybrid.prompt_s < 0.1
    with_prompt = iteration(hybrid, 9, 8 + 100, 100 * 101 / 2, 4000.0).lasts_s
    assert with_prompt > iteration(hybrid, 9, 9, 0.0, 4000.0).lasts_s + hybrid.prompt_s


def chat(batch):
    return Requests(batch, 300.0, 2.5, 400.0, 0.8)


def test_joining_prompts_have_the_means_they_are_asked_for():
    groups = joining(0.4, 300.0, 2.5)
    assert sum(group.chance for group in groups) == pytest.approx(1.0)
    prompts = sum(group.chance * group.prompts for group in groups)
    assert prompts == pytest.approx(0.4, rel=0.01)
    assert sum(group.chance * group.tokens for group in groups) == pytest.approx(prompts * 300.0)
    assert groups[0].tokens == 0.0
    assert groups[0].chance == pytest.approx(np.exp(-0.4))


def test_rare_prompts_join_as_often_as_they_should():
    """One prompt in a thousand steps: no draw of a thousand steps could tell."""
    assert sum(group.chance * group.prompts for group in joining(1e-3, 300.0, 2.5)) == pytest.approx(1e-3, rel=1e-3)


def test_the_mean_step_is_slower_than_the_median_where_long_prompts_join():
    found = saturated(instance(H100, load_llm("llama-3.1-8b"), NEW), chat(128.0))
    assert found.mean_step_s > 1.05 * found.median_step_s
    assert found.tokens_per_s == pytest.approx(128.0 / found.mean_step_s)


def test_an_engine_that_does_not_mix_pays_the_host_twice():
    llm = load_llm("llama-3.1-8b")
    mixing = msgspec.structs.replace(OLD, mixes=True)
    apart, mixed = (saturated(instance(A100, llm, engine), chat(64.0)) for engine in (OLD, mixing))
    assert apart.mean_step_s > mixed.mean_step_s


def test_a_power_limit_lowers_the_clock_until_the_mean_draw_keeps_it():
    built = instance(H100, load_llm("llama-3.1-8b"), NEW)
    free, limited = saturated(built, chat(256.0), 2000.0), saturated(built, chat(256.0), 400.0)
    assert free.clock_ratio == 1.0
    assert limited.clock_ratio < 1.0
    assert limited.gpu_w == pytest.approx(400.0, rel=1e-3)
    assert limited.mean_step_s > free.mean_step_s


def test_a_limit_that_does_not_bind_changes_nothing():
    built = instance(H100, load_llm("llama-3.1-8b"), NEW)
    assert saturated(built, chat(8.0)) == at_clock(built, chat(8.0), 1.0)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-14b", "nemotron-nano-9b-v2"])
def test_power_and_throughput_rise_with_the_batch_below_the_limit(name):
    built = instance(H100, load_llm(name), NEW)
    found = [saturated(built, chat(batch), 5000.0) for batch in (8.0, 16.0, 32.0, 64.0)]
    assert [each.tokens_per_s for each in found] == sorted(each.tokens_per_s for each in found)
    assert [each.gpu_w for each in found] == sorted(each.gpu_w for each in found)


def test_waiting_for_the_host_costs_no_more_than_an_idle_model():
    waiting = msgspec.structs.replace(NEW, host_s=1e3)
    found = saturated(instance(H100, load_llm("llama-3.1-8b"), waiting), chat(8.0))
    assert found.gpu_w == pytest.approx(H100.loaded_w, rel=1e-3)
