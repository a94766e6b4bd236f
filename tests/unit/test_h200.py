"""The H200's card follows from its kernels, the B200's from the H200's by data sheet."""

import numpy as np
import pytest

from sim_backend.calibration.h200 import H200, LAYERS, batches, layer_of_kernels, of_card, summed
from sim_backend.cards.gpu_card import load_gpu

FITTED = ("compute_efficiency", "memory_efficiency", "overlap", "active_w", "compute_w", "memory_w")
GAP_S = 1.61e-05
"""Launches of the five kernels of a layer; an engine's card has them, not the GPU's."""
KERNEL_WATTS = {"active_w": 169.0, "compute_w": 536.0, "memory_w": 304.0}
"""Of the kernels alone; the card has those of the same die under serving."""


@pytest.fixture(scope="module")
def card():
    return load_gpu("h200-sxm")


def test_one_law_for_an_iteration_is_close_to_the_sum_of_kernels(card):
    """Prompts and decoding of six layers, 144 batches: 1.3 % in the median, 7 % at worst, for time and watts."""
    values = {name: getattr(card, name) for name in FITTED} | KERNEL_WATTS | {"gap_s": GAP_S}
    every = batches(H200)
    modelled = np.array([of_card(batch, values, H200.gpu) for batch in every])
    off = np.abs(modelled / np.array([(batch.lasts_s, batch.drawn_w) for batch in every]) - 1.0)
    assert len(every) == 144
    assert np.median(off, axis=0) == pytest.approx([0.0, 0.0], abs=0.013)
    assert off.max(axis=0) == pytest.approx([0.0, 0.0], abs=0.07)


def test_the_card_and_the_kernels_agree_on_facts(card):
    gpu = H200.gpu
    assert (card.flops["bf16"], card.flops["fp8"]) == (gpu.flops16, gpu.flops8)
    assert card.memory_bytes_per_s == gpu.memory_bytes_per_s
    assert card.max_mhz * 1e6 == gpu.clock_hz
    assert (card.loaded_w, card.exponent) == (gpu.idle_w, gpu.exponent)


def test_long_prompts_want_more_than_the_limit_and_decoding_less(card):
    """What a power limit is for: at full clock a long prompt would draw 837 W, one decoding request 548 W."""
    prompt = summed(layer_of_kernels(LAYERS[0], 1, 8_192, True, H200), H200.gpu)
    decoding = summed(layer_of_kernels(LAYERS[0], 1, 2_048, False, H200), H200.gpu)
    assert decoding[1] < 0.8 * card.tdp_w < card.tdp_w < prompt[1]


def test_the_b200_is_the_h200_scaled(card):
    """Watts by TDP, efficiencies as they are."""
    b200 = load_gpu("b200")
    tdp = b200.tdp_w / card.tdp_w
    for name in ("compute_efficiency", "memory_efficiency", "overlap", "memory_knee", "exponent"):
        assert getattr(b200, name) == getattr(card, name)
    for name in ("idle_w", "loaded_w", "active_w", "compute_w", "memory_w"):
        assert getattr(b200, name) == pytest.approx(getattr(card, name) * tdp, abs=0.5)
    assert all("unverified" in b200.source[name] for name in FITTED)
