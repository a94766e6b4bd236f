import pytest

from policies.models.clocks import PowerLaw, Work, clock_under, drawn_w
from sim_backend.cards.gpu_card import load_gpu
from sim_backend.cards.power_law import power_law


def test_a_card_says_what_its_law_is() -> None:
    card = load_gpu("rtx-3090")
    law = power_law(card)
    assert law == PowerLaw(113.0, 61.5, 664.0, 0.0, 3.0, law.voltage_floor, 0.456, 0.0, 0.1)
    assert law.idle_w == card.loaded_w > card.idle_w


def test_lowest_clock_of_a_card_bounds_what_a_limit_can_do() -> None:
    law = power_law(load_gpu("rtx-3090"))
    prompt = Work(compute_s=0.6, memory_s=0.4)
    lowest_w = float(drawn_w(law, prompt, 0.1))
    assert clock_under(law, prompt, lowest_w - 5.0) == pytest.approx(0.1)
    assert clock_under(law, prompt, lowest_w + 5.0) > 0.1
