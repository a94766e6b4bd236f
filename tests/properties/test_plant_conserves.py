"""What a plant may neither make nor lose: requests, tokens, joules."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_backend import params as p
from sim_backend.plant import Plant
from tests.properties.test_plant_twin import SLO, random_caps
from tests.twin.plant_cases import MODELLED, PROFILE, REGULATED, TIGHT, ListSource, random_requests

KINDS = [PROFILE, TIGHT, MODELLED, REGULATED]


def check_books(plant: Plant) -> None:
    """Sums over the packed state that hold between any two events."""
    servers, requests, heap = plant._servers, plant._requests, plant._heap
    free, slot = set(), int(plant._control[p.C_FREE])
    while slot >= 0:
        assert slot not in free
        free.add(slot)
        slot = int(requests["behind"][slot])
    held: set[int] = set()
    for server, row in enumerate(servers):
        batch = [int(key) for key in heap[server, : row["batch"]]]
        residents = [key & p.SLOT_MASK for key in batch]
        queue, slot = [], int(row["head"])
        for _ in range(row["queue"]):
            queue.append(slot)
            slot = int(requests["behind"][slot])
        assert all(batch[(i - 1) // 2] <= key for i, key in enumerate(batch) if i)
        assert row["outstanding"] == len(queue) + len(residents)
        assert row["batch_high"] == sum(requests["priority"][s] for s in residents)
        reserved = residents + queue[: row["admitted"]]
        assert row["kv"] == sum(requests["prompt"][s] + requests["output"][s] for s in reserved)
        limits = plant._params[row["profile"]]
        assert row["kv"] <= limits["kv_tokens"]
        assert len(reserved) <= limits["max_batch"]
        assert row["context"] <= row["kv"]
        assert (row["mode"] == p.IDLE) == (not queue and not residents)
        held.update(residents, queue)
    assert not held & free
    assert len(held) == plant.in_flight.sum() == plant.outstanding.sum()
    assert len(held) + len(free) == len(requests)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    servers=st.integers(1, 9),
    count=st.integers(0, 300),
    mean_gap_s=st.sampled_from([0.0, 0.01, 0.1]),
)
def test_requests_tokens_and_joules_are_conserved(seed: int, servers: int, count: int, mean_gap_s: float) -> None:
    rng = np.random.default_rng(seed)
    arrivals = random_requests(rng, count, mean_gap_s, 800)
    sku, priority = rng.integers(0, len(KINDS), servers), rng.integers(0, 2, servers)
    plant = Plant(KINDS, sku, priority, ListSource(arrivals, 1e9, 40), SLO)
    plant.keep_record()
    whole = Plant(KINDS, sku, priority, ListSource(arrivals, 1e9, 40), SLO)
    energy_j = np.zeros(servers)
    for _ in range(30):
        caps = random_caps(rng, servers)
        plant.set_caps(*caps)
        whole.set_caps(*caps)
        now_s = plant.now_s + rng.exponential(0.7)
        for until_s in np.linspace(plant.now_s, now_s, 4)[1:]:
            before_s = plant.now_s
            plant.advance(until_s)
            energy_j += plant.take_mean_w() * (until_s - before_s)
        whole.advance(now_s)
        check_books(plant)
    assert np.allclose(whole.take_mean_w() * whole.now_s, energy_j, rtol=1e-9)
    # Without limits nothing steps ten times a second until all is done.
    plant.set_caps(np.ones(servers), np.full(servers, np.inf))
    plant.advance(1e6)
    check_books(plant)
    finished = ~np.isnan(plant.e2e_s)
    for code in (0, 1):
        mine = finished & (arrivals.priority == code)
        assert plant.stats.arrived[code] == np.sum(arrivals.priority == code)
        assert plant.stats.completed[code] == mine.sum()
        assert plant.stats.prompt_tokens[code] == arrivals.prompt_tokens[mine].sum()
        assert plant.stats.generated_tokens[code] == arrivals.output_tokens[mine].sum()
        assert plant.stats.tbt_s[code].sum() == (arrivals.output_tokens[mine] - 1).sum()
    assert plant.stats.completed.sum() + plant.stats.rejected.sum() == count


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_watts_stay_between_idle_and_the_ceiling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plant = Plant(
        [PROFILE], np.zeros(3, int), np.zeros(3, int), ListSource(random_requests(rng, 200, 0.05, 900), 1e9), {}
    )
    mean_w = plant.run_schedule(rng.uniform(0.0, 1.0, (30, 3)))
    assert mean_w.min() >= (PROFILE.other_w + PROFILE.gpus * PROFILE.idle_w) * (1 - 1e-12)
    assert mean_w.max() <= (PROFILE.other_w + PROFILE.gpus * PROFILE.prefill_ceiling * PROFILE.tdp_w) * (1 + 1e-12)
