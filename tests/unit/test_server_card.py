import numpy as np
import pytest

from policies.errors import ConfigError
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.reading import card_names
from sim_backend.cards.server_card import FOLDER, dc_w, fans_after, fans_w, load_server, node_w, node_with, wall_w


@pytest.fixture
def air():
    return load_server("hgx-h200")


def test_supplies_lose_what_titanium_allows() -> None:
    for load, efficiency in ((0.1, 0.90), (0.2, 0.94), (0.5, 0.96)):
        assert 1000.0 * load / wall_w(1000.0 * load, 1000.0) == pytest.approx(efficiency, abs=0.001)


def test_what_goes_in_comes_out_again() -> None:
    delivered = np.array([50.0, 500.0, 1000.0])
    assert dc_w(wall_w(delivered, 1000.0), 1000.0) == pytest.approx(delivered)


def test_fans_go_with_the_third_power_of_the_heat(air) -> None:
    assert fans_w(air, air.gpus_tdp_w) == air.fans_full_w
    assert fans_w(air, air.gpus_tdp_w / 2.0) == pytest.approx(air.fans_full_w / 8.0)
    assert fans_w(load_server("smc-h100"), 5600.0) == 0.0


def test_fans_follow_the_heat_with_their_time_constant(air) -> None:
    after = fans_after(air, 0.0, air.gpus_tdp_w, air.fans_s)
    assert after == pytest.approx(air.fans_full_w * (1.0 - np.exp(-1.0)))
    in_two = fans_after(air, fans_after(air, 0.0, 4000.0, 30.0), 4000.0, 30.0)
    assert in_two == pytest.approx(fans_after(air, 0.0, 4000.0, 60.0))


def test_a_node_is_its_parts_and_the_loss_of_their_sum(air) -> None:
    parts_w = air.base_w + 4000.0 + fans_w(air, 4000.0)
    assert node_w(air, 4000.0) == pytest.approx(wall_w(parts_w, air.psu_rated_w))
    assert node_with(air, 4000.0, 0.0) < node_w(air, 4000.0)


@pytest.mark.parametrize("name", card_names(FOLDER))
def test_no_server_draws_more_than_its_rating_with_all_gpus_at_their_limit(name: str) -> None:
    card = load_server(name)
    assert card.base_w < node_w(card, card.gpus_tdp_w) <= card.rated_w


@pytest.mark.parametrize("name", card_names(FOLDER))
def test_a_servers_gpus_have_a_card_and_its_tdp(name: str) -> None:
    card = load_server(name)
    assert card.name == name
    assert card.gpus * load_gpu(card.gpu).tdp_w == card.gpus_tdp_w


def test_an_unknown_server_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'dgx-z1' cannot be read.*dgx-a100"):
        load_server("dgx-z1")
