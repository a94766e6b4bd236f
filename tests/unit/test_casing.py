"""Fans and power supplies around the GPUs of a simulated server."""

from dataclasses import replace

import numpy as np
import pytest

from sim_backend.cards.server_card import ServerCard, fans_w, node_w, node_with
from sim_backend.plant import Plant
from tests.twin.plant_cases import PROFILE, ListSource, plant_of, requests

CARD = ServerCard(
    name="test server",
    gpu="test GPU",
    gpus=8,
    gpus_tdp_w=5_600.0,
    rated_w=10_200.0,
    psu_rated_w=16_500.0,
    base_w=1_500.0,
    fans_full_w=900.0,
    fans_s=20.0,
    source={},
)
CASED = replace(PROFILE, server=CARD)
IDLE_W = CASED.gpus * CASED.idle_w
BUSY_W = CASED.gpus * CASED.decode_ratio * CASED.tdp_w


def test_an_idle_server_draws_its_settled_idle() -> None:
    plant = plant_of(requests([]), CASED)
    plant.advance(3.0)
    assert plant.take_mean_w()[0] == pytest.approx(node_w(CARD, IDLE_W), rel=1e-12)


def test_fans_follow_the_heat_with_their_time_constant_and_settle() -> None:
    plant = plant_of(requests([0.0], prompt=50, output=40_000), CASED)
    plant.advance(1.0)
    plant.take_mean_w()
    means_w = []
    for second in range(2, 202):
        plant.advance(float(second))
        means_w.append(plant.take_mean_w()[0])
    assert (np.diff(means_w) > -1e-9).all()
    assert means_w[-1] == pytest.approx(node_w(CARD, BUSY_W), abs=0.1)
    settled, still = fans_w(CARD, BUSY_W), fans_w(CARD, IDLE_W)
    after_one_s = still + (settled - still) * (1.0 - np.exp(-1.0))
    assert means_w[18] == pytest.approx(node_with(CARD, BUSY_W, after_one_s), abs=3.0)


def test_a_schedule_and_single_seconds_draw_the_same() -> None:
    together, apart = (plant_of(requests([0.0, 4.2], 800, 300), CASED, servers=2) for _ in range(2))
    caps = np.random.default_rng(3).uniform(0.5, 1.0, (20, 2))
    mean_w = together.run_schedule(caps)
    for row, expected_w in zip(caps, mean_w, strict=True):
        apart.set_caps(row, np.full(2, np.inf))
        apart.advance(apart.now_s + 1.0)
        assert np.array_equal(apart.take_mean_w(), expected_w)


def test_servers_without_a_card_beside_those_with_one_keep_their_constant() -> None:
    mixed = Plant([PROFILE, CASED], np.array([0, 1, 0]), np.zeros(3, int), ListSource(requests([]), 1e9), {})
    mixed.advance(1.0)
    constant_w = PROFILE.other_w + PROFILE.gpus * PROFILE.idle_w
    assert mixed.take_mean_w() == pytest.approx([constant_w, node_w(CARD, IDLE_W), constant_w], rel=1e-12)


def test_a_limiter_regulates_gpus_whatever_is_around_them() -> None:
    plant = plant_of(requests([0.0], prompt=50, output=40_000), replace(CASED, prefill_ceiling=1.0, limiter_s=1.0))
    plant.set_caps(np.ones(1), np.array([300.0]))
    plant.advance(200.0)
    plant.take_mean_w()
    drawn_w = 0.0
    for second in range(201, 401):
        plant.advance(float(second))
        drawn_w = plant.take_mean_w()[0]
    assert drawn_w == pytest.approx(node_w(CARD, 8 * 300.0), abs=1.0)
