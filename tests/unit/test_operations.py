"""Single operations: what must hold on any GPU, arithmetic done by hand, and the sensor behind the recording."""

import gzip
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import DataError
from policies.models.operations import (
    AttentionShape,
    ExpertShape,
    MatrixKernel,
    at_clock,
    decode_attention,
    expert_layer,
    matrix_product,
    prompt_attention,
    run,
)
from sim_backend.calibration.h200 import H200
from sim_backend.calibration.op_recordings import (
    FOLDER,
    PRODUCTS,
    PROMPTS,
    columns_of,
    left_w,
    own_share,
    read_products,
    read_w,
    readings_of,
)

GPU = H200.gpu
PLAIN = MatrixKernel(0.0, 1.0, 1.0, 0.0, 2.0, 0.0)
"""A kernel without launch and losses: what remains is tiles and the data sheet."""


def array(*values):
    return np.array([float(value) for value in values])


def product(m, n, k, kernel=PLAIN, gpu=GPU):
    return matrix_product(array(m), array(n), array(k), kernel, gpu)


def attention(requests=1, tokens=2_048, heads=32, kv_heads=8, window=0, cache_bytes=2):
    values = (requests, tokens, heads, kv_heads, 128, window, cache_bytes)
    return AttentionShape(*(array(value) for value in values))


def experts(tokens, held=64, skewed=False):
    tokens, hidden, inner, per_token, all_experts, held = (array(x) for x in (tokens, 4_096, 1_536, 8, 128, held))
    return ExpertShape(tokens, hidden, inner, per_token, all_experts, held, np.array([skewed]))


def seconds(work, gpu=GPU):
    return float(run(work, gpu, 1e9).lasts_s[0])


def test_a_full_wave_of_tiles_takes_what_the_data_sheet_says():
    """132 tiles of 256 x 128: 2 * 256 * 132 * 128 * 4,096 FLOP at 989.4 TFLOP/s."""
    full = product(256, 132 * 128, 4_096)
    assert full.compute_s[0] == pytest.approx(2 * 256 * 132 * 128 * 4_096 / 9.894e14)


def test_one_tile_more_than_sms_starts_another_wave():
    """Beyond a wave the smaller tiles lose less, but never nothing."""
    wave, over = product(4_096, 33 * 128, 4_096), product(4_096, 33 * 128 + 1, 4_096)
    assert over.compute_s[0] > wave.compute_s[0] * 1.005


def test_few_tiles_are_split_along_the_inner_dimension():
    whole = 2 * 256 * 128 * 65_536 / (GPU.flops16 / GPU.sms)
    assert product(128, 256, 65_536).compute_s[0] < whole / 10


def test_a_small_batch_takes_as_long_as_reading_the_weights():
    work = product(1, 8_192, 8_192)
    assert seconds(work) == pytest.approx(2 * 8_192 * 8_192 / GPU.read_bytes_per_s, rel=0.01)


def test_quantising_adds_to_the_time_and_to_the_traffic():
    plain = MatrixKernel(0.0, 1.0, 1.0, 0.0, 1.0, 0.0)
    before, after = product(4_096, 4_096, 4_096, plain), product(4_096, 4_096, 4_096, H200.product8)
    assert after.fixed_s[0] > H200.product8.launch_s
    assert after.traffic_s[0] > before.traffic_s[0]


@pytest.mark.parametrize("limit_w", [250.0, 400.0, 600.0])
def test_the_limit_holds_and_costs_time(limit_w):
    work = product(8_192, 8_192, 8_192, H200.product16)
    free, held = run(work, GPU, 1e9), run(work, GPU, limit_w)
    assert free.drawn_w[0] > 700.0
    assert held.drawn_w[0] == pytest.approx(limit_w, abs=0.5)
    assert held.lasts_s[0] > free.lasts_s[0]
    assert free.clock_ratio[0] == 1.0


def test_reading_is_slowed_less_by_a_limit_than_multiplying():
    shares = []
    for work in (product(16, 16_384, 16_384, H200.product16), product(8_192, 8_192, 8_192, H200.product16)):
        shares.append(run(work, GPU, 450.0).lasts_s[0] / run(work, GPU, 1e9).lasts_s[0])
    assert shares[0] < 1.05 < 1.3 < shares[1]


def test_work_at_full_clock_draws_idle_and_what_is_busy():
    """Weights of 537 MB, one token: the memory is busy all the time but for the launch."""
    work = product(1, 16_384, 16_384, H200.product16)
    lasts_s, drawn_w = at_clock(work, GPU, np.ones(1))
    memory = work.memory_s[0] / lasts_s[0]
    assert memory > 0.95
    assert drawn_w[0] == pytest.approx(GPU.idle_w + GPU.active_w + GPU.memory_w * memory, rel=0.01)


def test_a_prompt_of_twice_the_length_takes_four_times_as_long():
    times = [seconds(prompt_attention(attention(tokens=tokens), H200.prompt, GPU)) for tokens in (16_384, 32_768)]
    assert times[1] / times[0] == pytest.approx(4.0, rel=0.05)


def test_a_window_makes_long_prompts_linear():
    shapes = [attention(tokens=tokens, window=1_024) for tokens in (16_384, 32_768)]
    times = [seconds(prompt_attention(shape, H200.prompt, GPU)) for shape in shapes]
    assert times[1] / times[0] == pytest.approx(2.0, rel=0.1)


def test_short_prompts_of_grouped_heads_share_tiles():
    grouped = seconds(prompt_attention(attention(requests=256, tokens=16, kv_heads=4), H200.prompt, GPU))
    alone = seconds(prompt_attention(attention(requests=256, tokens=16, kv_heads=32), H200.prompt, GPU))
    assert grouped < 0.5 * alone


def test_decoding_reads_the_cache():
    shape = attention(requests=256, tokens=8_192)
    assert seconds(decode_attention(shape, H200.decode, GPU)) == pytest.approx(
        256 * 8_192 * 8 * 128 * 2 * 2 / GPU.read_bytes_per_s, rel=0.25
    )


def test_a_cache_of_one_byte_saves_less_than_half():
    times = [
        seconds(decode_attention(attention(requests=256, tokens=8_192, cache_bytes=width), H200.decode, GPU))
        for width in (1, 2)
    ]
    assert 0.5 < times[0] / times[1] < 0.9


def test_more_experts_touched_take_longer_until_all_are():
    times = [seconds(expert_layer(experts(tokens), H200.experts["bfloat16"], GPU)) for tokens in (1, 4, 16, 64, 128)]
    assert times == sorted(times)
    assert times[2] > 2.0 * times[0]
    assert times[4] < 1.3 * times[3]


def test_a_skewed_choice_touches_fewer_experts_and_crowds_one_gpu():
    kernel = H200.experts["bfloat16"]
    few = [seconds(expert_layer(experts(32, skewed=skewed), kernel, GPU)) for skewed in (True, False)]
    many = [seconds(expert_layer(experts(16_384, skewed=skewed), kernel, GPU)) for skewed in (True, False)]
    assert few[0] < few[1]
    assert many[0] > many[1]


def test_more_sms_and_bandwidth_make_everything_faster():
    """What lets another GPU's kernels follow from its data sheet."""
    larger = replace(GPU, sms=148.0, flops16=2.25e15, flops8=4.5e15, memory_bytes_per_s=8e12)
    for work_of in (
        lambda gpu: product(4_096, 8_192, 8_192, H200.product16, gpu),
        lambda gpu: product(8, 8_192, 8_192, H200.product16, gpu),
        lambda gpu: prompt_attention(attention(tokens=8_192), H200.prompt, gpu),
        lambda gpu: decode_attention(attention(requests=64), H200.decode, gpu),
        lambda gpu: expert_layer(experts(4_096), H200.experts["fp8"], gpu),
    ):
        assert seconds(work_of(larger), larger) < seconds(work_of(GPU), GPU)


def test_a_reading_is_all_past_at_first_and_mostly_its_own_after_a_second():
    """Eleven readings in a second, each the mean of 0.5 s: 0, 0.2, 0.4, 0.6, 0.8, and six of 1."""
    share = own_share(array(0.05, 1.0), 0.5)
    assert share[0] == 0.0
    assert share[1] == pytest.approx((0.2 + 0.4 + 0.6 + 0.8 + 6.0) / 11.0)
    assert read_w(array(700.0), array(200.0), array(0.25))[0] == 325.0


def test_a_long_operation_ends_with_the_sensor_at_its_draw():
    """Whatever the reading, which still holds what was before."""
    assert left_w(array(500.0), array(690.0), array(1.0), 0.5)[0] == pytest.approx(690.0)


def test_a_short_operation_moves_the_sensor_by_its_part_of_the_window():
    """0.2 s of a window of 0.8 s: readings at 0, 0.1 and 0.2 s own 0, 1/8 and 2/8, together 1/8; at the end 1/4."""
    reading_w = read_w(array(600.0), array(200.0), array(1.0 / 8.0))
    assert reading_w[0] == 250.0
    assert left_w(reading_w, array(600.0), array(0.2), 0.8)[0] == pytest.approx(300.0)


def columns(lasts_ms, watts):
    return {"latency": np.array(lasts_ms, dtype=str), "power": np.array(watts, dtype=str)}


def test_operations_are_repeated_as_long_as_the_collector_did():
    """3,000 times at most; 0.3 s for calls under 0.1 ms; six bf16 products are one call."""
    table = columns([0.005, 0.05, 0.2, 50.0], [200.0] * 4)
    shapes = [str(row) for row in range(4)]
    assert readings_of(table, 1.0, shapes, PRODUCTS).repeated_s == pytest.approx([0.015, 0.15, 0.6, 1.0])
    assert readings_of(table, 6.0, shapes, PRODUCTS).repeated_s == pytest.approx([0.09, 0.9, 1.0, 1.8])


def test_the_sensor_remembers_rows_before_and_never_the_row_itself():
    table = columns([1.0] * 4, [100.0, 200.0, 300.0, 400.0])
    shapes = [str(row) for row in range(4)]
    assert readings_of(table, 1.0, shapes, PRODUCTS).before_w == pytest.approx([100.0, 100.0, 200.0, 300.0])
    # Of eight rows before the last, six count as the first one's 100 W; nine tenths of what is over 131 W stay.
    assert readings_of(table, 1.0, shapes, PROMPTS).before_w[3] == pytest.approx(131.0 - 0.9 * 31.0)


def test_a_missing_recording_is_named_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"gemm\.csv\.gz cannot be read.*docs/data\.md"):
        read_products(tmp_path)


def test_a_table_with_a_broken_row_is_refused(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "gemm.csv.gz").write_bytes(gzip.compress(b"m,n,k\n1,2,3\n4,5\n"))
    with pytest.raises(DataError, match="rows differ in length"):
        columns_of(tmp_path, "gemm")
