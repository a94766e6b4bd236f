"""Whatever the shape: an operation keeps its limit, is no faster than the roofline, and does not see its neighbours."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.models.operations import AttentionShape, decode_attention, matrix_product, prompt_attention, run
from sim_backend.calibration.h200 import H200

GPU = H200.gpu
FLOOR_W = 320.0
"""Above what any operation draws at the lowest clock, where the memory alone is left."""

products = st.tuples(st.integers(1, 32_768), st.integers(32, 65_536), st.integers(32, 65_536))
attentions = st.tuples(
    st.integers(1, 512),
    st.integers(1, 16_384),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 4, 8, 16]),
    st.sampled_from([64, 128, 192, 256]),
    st.sampled_from([0, 128, 1_024]),
    st.sampled_from([1, 2]),
)


def works_of(rows):
    requests, tokens, kv_heads, group, head_dim, window, width = np.array(rows, dtype=np.float64).T
    shape = AttentionShape(requests, tokens, kv_heads * group, kv_heads, head_dim, window, width)
    return [prompt_attention(shape, H200.prompt, GPU), decode_attention(shape, H200.decode, GPU)]


def product_of(rows):
    m, n, k = np.array(rows, dtype=np.float64).T
    return matrix_product(m, n, k, H200.product16, GPU)


@given(st.lists(products, min_size=1, max_size=5), st.floats(GPU.idle_w + FLOOR_W, 1_000.0))
def test_products_keep_the_limit_and_the_roofline(rows, limit_w):
    result = run(product_of(rows), GPU, limit_w)
    m, n, k = np.array(rows, dtype=np.float64).T
    assert (result.drawn_w <= limit_w + 0.1).all()
    assert (result.lasts_s >= 2.0 * m * n * k / GPU.flops16).all()
    assert (result.lasts_s >= 2.0 * n * k / GPU.memory_bytes_per_s).all()
    assert ((result.clock_ratio > 0.0) & (result.clock_ratio <= 1.0)).all()


@given(st.lists(attentions, min_size=1, max_size=5), st.floats(GPU.idle_w + FLOOR_W, 1_000.0))
def test_attention_keeps_the_limit_and_pipes_are_never_busier_than_the_sms(rows, limit_w):
    for work in works_of(rows):
        result = run(work, GPU, limit_w)
        assert (result.drawn_w <= limit_w + 0.1).all()
        assert (work.pipes_s <= work.compute_s).all()
        assert np.isfinite(result.lasts_s).all()


@given(st.lists(products, min_size=2, max_size=5))
def test_rows_are_independent(rows):
    together = run(product_of(rows), GPU, 700.0)
    alone = [run(product_of([row]), GPU, 700.0) for row in rows]
    assert np.array_equal(together.lasts_s, np.concatenate([each.lasts_s for each in alone]))
    assert np.array_equal(together.drawn_w, np.concatenate([each.drawn_w for each in alone]))


@given(attentions, st.integers(1, 4_096))
def test_a_longer_context_never_takes_less(row, more):
    """Apart from where contexts begin to be cut for idle SMs."""
    longer = (row[0], row[1] + more, *row[2:])
    assume((row[1] > H200.decode.split_tokens) == (longer[1] > H200.decode.split_tokens))
    _, work = works_of([row, longer])
    lasts_s = run(work, GPU, 1e9).lasts_s
    assert lasts_s[1] >= lasts_s[0] * (1.0 - 1e-12)
