"""The plant against results of queueing theory."""

from dataclasses import replace

import numpy as np
import pytest

from policies.models import latency
from tests.twin.plant_cases import PROFILE, plant_of, requests

COUNT = 400_000


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_a_prefill_queue_waits_as_an_m_d_1_queue(utilisation: float) -> None:
    # No two prompts fit into one batch and every output is one token: a single server of fixed service time.
    prompt = 1100
    profile = replace(PROFILE, max_batch_tokens=2 * prompt - 1)
    service_s = latency.prefill_s(
        float(prompt), profile.prefill_base_s, profile.prefill_per_token_s, profile.prefill_per_token2_s
    )
    rng = np.random.default_rng(20)
    arrival_s = np.cumsum(rng.exponential(service_s / utilisation, COUNT))
    plant = plant_of(requests(arrival_s, prompt, 1), profile, rows=100_000)
    plant.advance(float(arrival_s[-1]) + 1000.0)
    waits_s = plant.ttft_s - service_s
    # Pollaczek and Khinchine for a fixed service time.
    expected_s = utilisation * service_s / (2.0 * (1.0 - utilisation))
    assert waits_s.min() == pytest.approx(0.0, abs=1e-8)
    assert waits_s.mean() == pytest.approx(expected_s, rel=0.02)
