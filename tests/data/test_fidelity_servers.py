from pathlib import Path

import pytest

from sim_backend.calibration.servers import fit
from sim_backend.cards.server_card import load_server
from sim_backend.fidelity.servers import checks

pytestmark = pytest.mark.data


def test_shipped_cards_are_what_the_fit_finds(recordings: Path) -> None:
    for name, (base_w, fans_full_w, fans_s) in fit(recordings).items():
        card = load_server(name)
        assert (card.base_w, card.fans_full_w) == (base_w, fans_full_w), name
        assert fans_s != fans_s or card.fans_s == fans_s, name


def test_node_power_is_within_five_percent_where_gpus_are_at_a_known_limit(recordings: Path) -> None:
    measured = [check for check in checks(recordings) if check.source != "acme-a100-power-cdf"]
    assert len(measured) == 9
    for check in measured:
        assert check.within, check


def test_a_training_cluster_with_busy_processors_draws_more_than_the_card_says(recordings: Path) -> None:
    (check,) = (check for check in checks(recordings) if check.source == "acme-a100-power-cdf")
    assert -0.20 < check.bias < -0.16
