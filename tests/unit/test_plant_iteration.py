"""The plant under an iteration model, against the model evaluated one iteration after the other."""

from dataclasses import replace

import numpy as np
import pytest

from policies.models.iteration import Iteration, IterationModel, iteration
from sim_backend.profile import Profile
from tests.twin.plant_cases import MODEL, MODELLED, plant_of, requests

ROOMY = replace(MODELLED, kv_tokens=100_000, max_batch_tokens=4_096)
WINDOWED = replace(MODEL, window_tokens=900.0, window_share=0.5)


def roomy(model: IterationModel) -> Profile:
    return replace(ROOMY, iteration=model)


def alone(model: IterationModel, prompt: int, output: int, clock_ratio: float = 1.0) -> list[Iteration]:
    """The iterations of one request that has the server to itself."""
    first = iteration(model, 1.0, float(prompt), prompt * (prompt + 1) / 2, 0.0, clock_ratio)
    rest = (iteration(model, 1.0, 1.0, 0.0, float(prompt + token), clock_ratio) for token in range(1, output))
    return [first, *rest]


def joules(iterations: list[Iteration]) -> float:
    return sum(each.lasts_s * (ROOMY.other_w + ROOMY.gpus * each.gpu_w) for each in iterations)


@pytest.mark.parametrize("clock_ratio", [1.0, 0.7, 0.4])
@pytest.mark.parametrize("output", [1, 2, 100, 1_000])
def test_a_request_alone_takes_and_draws_what_its_iterations_do(output: int, clock_ratio: float) -> None:
    plant = plant_of(requests([0.0], prompt=700, output=output), ROOMY)
    plant.set_caps(np.array([clock_ratio]), np.array([np.inf]))
    expected = alone(MODEL, 700, output, clock_ratio)
    last_s = sum(each.lasts_s for each in expected)
    plant.advance(last_s + 1.0)
    assert plant.ttft_s[0] == pytest.approx(expected[0].lasts_s, rel=1e-12)
    assert plant.e2e_s[0] == pytest.approx(last_s, rel=1e-12)
    idle_w = ROOMY.other_w + ROOMY.gpus * MODEL.idle_w
    assert plant.take_mean_w()[0] * plant.now_s == pytest.approx(joules(expected) + idle_w, rel=1e-9)


def test_prompts_of_one_batch_attend_to_themselves_alone() -> None:
    plant = plant_of(requests([0.0, 0.01, 0.01], prompt=[10, 800, 1_600], output=[2, 1, 1]), ROOMY)
    plant.advance(10.0)
    first = iteration(MODEL, 1.0, 10.0, 55.0, 0.0)
    pairs = 800 * 801 / 2 + 1_600 * 1_601 / 2
    mixed = iteration(MODEL, 3.0, 2_401.0, pairs, 11.0)
    assert plant.ttft_s[2] == pytest.approx(first.lasts_s + mixed.lasts_s - 0.01, rel=1e-12)
    assert plant.e2e_s[0] == pytest.approx(first.lasts_s + mixed.lasts_s, rel=1e-12)


def test_a_long_run_draws_more_as_its_context_grows() -> None:
    plant = plant_of(requests([0.0], prompt=50, output=30_000), ROOMY)
    means_w = []
    for _ in range(8):
        plant.advance(plant.now_s + 50.0)
        means_w.append(plant.take_mean_w()[0])
    assert (np.diff(means_w) > 1.0).all()


def test_a_window_that_fills_up_within_a_run_is_a_small_error_of_time_and_energy() -> None:
    plant = plant_of(requests([0.0], prompt=700, output=1_000), roomy(WINDOWED))
    expected = alone(WINDOWED, 700, 1_000)
    last_s = sum(each.lasts_s for each in expected)
    plant.advance(last_s)
    energy_j = plant.take_mean_w()[0] * last_s
    plant.advance(last_s + 5.0)
    assert plant.e2e_s[0] == pytest.approx(last_s, rel=2e-4)
    assert energy_j == pytest.approx(joules(expected), rel=2e-3)
