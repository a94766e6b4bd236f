"""Many engines behind one router: who gets what, and what does not depend on how the plant is driven."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from policies.models.iteration import IterationModel
from sim_backend import params as p
from sim_backend.plant import FIRST_HEAP, FIRST_POOL, LINE_BYTES, Plant
from sim_backend.site import Slo
from sim_backend.winner_tree_kernel import leaves
from tests.twin.plant_cases import MODEL, MODELLED, PROFILE, TIGHT, ListSource, plant_of, random_requests, requests

HIGH, LOW = 1, 0


def mixed_plant(seed: int = 3, rows: int = 50) -> Plant:
    rng = np.random.default_rng(seed)
    arrivals = random_requests(rng, 600, 0.05, 700)
    sku, priority = np.array([0, 1, 0, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 1, 1])
    slo = {"high": Slo(ttft_s=1.0, tpot_s=0.1)}
    plant = Plant([PROFILE, TIGHT], sku, priority, ListSource(arrivals, 1e9, rows), slo)
    plant.keep_record()
    return plant


def fingerprint(plant: Plant) -> bytes:
    state = plant.stats
    return b"".join(array.tobytes() for array in (plant.ttft_s, plant.e2e_s, state.counts, state.bins))


def test_the_same_input_gives_the_same_bytes() -> None:
    runs = []
    for _ in range(2):
        plant = mixed_plant()
        caps = np.random.default_rng(9).uniform(0.3, 1.0, (60, plant.servers))
        runs.append(plant.run_schedule(caps).tobytes() + fingerprint(plant))
    assert runs[0] == runs[1]


def test_steps_and_block_sizes_do_not_change_what_happens() -> None:
    prints = set()
    for rows, step_s in ((50, 0.25), (1, 7.0), (1000, 80.0)):
        plant = mixed_plant(rows=rows)
        while plant.now_s < 80.0:
            plant.advance(min(plant.now_s + step_s, 80.0))
        prints.add(fingerprint(plant))
    assert len(prints) == 1


def test_a_schedule_equals_the_same_caps_set_second_by_second() -> None:
    together, apart = mixed_plant(), mixed_plant()
    limit_w = np.where(np.arange(7) % 2, 300.0, np.inf)
    caps = np.random.default_rng(5).uniform(0.3, 1.0, (40, 7))
    for plant in (together, apart):
        plant.advance(1.5)
        plant.set_caps(np.ones(7), limit_w)
    apart.take_mean_w()
    mean_w = together.run_schedule(caps)
    for row, expected_w in zip(caps, mean_w, strict=True):
        apart.set_caps(row, limit_w)
        apart.advance(apart.now_s + 1.0)
        assert np.array_equal(apart.take_mean_w(), expected_w)
    assert fingerprint(together) == fingerprint(apart)
    assert together.now_s == apart.now_s


def test_setting_the_same_caps_again_changes_nothing() -> None:
    once, often = mixed_plant(), mixed_plant()
    clock_ratio, limit_w = np.full(7, 0.8), np.full(7, 400.0)
    once.set_caps(clock_ratio, limit_w)
    for second in range(1, 60):
        often.set_caps(clock_ratio, limit_w)
        once.advance(float(second))
        often.advance(float(second))
    assert fingerprint(once) == fingerprint(often)


def test_the_router_takes_the_least_loaded_then_the_least_recently_chosen_server() -> None:
    plant = plant_of(requests([0.0, 0.0, 0.0, 0.0, 0.0], prompt=500, output=[1, 90, 90, 90, 90]), servers=3)
    plant.advance(0.0)
    assert plant.outstanding.tolist() == [2, 2, 1]


def test_after_a_completion_the_server_chosen_longest_ago_comes_first() -> None:
    # All three are empty again at 50 s; they were last chosen in the order 0, 1, 2.
    arrival_s = [0.0, 0.0, 0.0, 50.0]
    plant = plant_of(requests(arrival_s, prompt=500, output=5), servers=3)
    plant.advance(50.0)
    assert plant.outstanding.tolist() == [1, 0, 0]


def test_priorities_do_not_share_servers() -> None:
    rng = np.random.default_rng(1)
    calm = requests(np.arange(0.0, 100.0, 2.0), 400, 30, HIGH)
    flood_s = np.sort(rng.uniform(0.0, 100.0, 3000))
    order = np.argsort(np.concatenate((calm.arrival_s, flood_s)), kind="stable")
    both = requests(
        np.concatenate((calm.arrival_s, flood_s))[order], 400, 30, np.r_[np.full(50, HIGH), np.full(3000, LOW)][order]
    )
    priority = np.array([LOW, HIGH, LOW, HIGH])
    alone, flooded = plant_of(calm, servers=4, priority=priority), plant_of(both, servers=4, priority=priority)
    alone.advance(300.0)
    flooded.advance(300.0)
    assert np.array_equal(alone.stats.e2e_s[HIGH], flooded.stats.e2e_s[HIGH])
    assert flooded.stats.completed[HIGH] == 50


def test_requests_without_servers_of_their_priority_go_to_the_others() -> None:
    plant = plant_of(requests([0.0, 0.0], priority=[LOW, HIGH]), servers=2, priority=np.array([LOW, LOW]))
    plant.advance(100.0)
    assert plant.stats.completed.tolist() == [1, 1]
    assert plant.stats.tbt_s.sum(axis=1).tolist() == [19, 19]


def test_room_for_requests_depends_on_those_in_flight_not_on_the_length_of_the_run() -> None:
    count = 50 * FIRST_POOL
    plant = plant_of(requests(np.arange(count) * 0.1, 50, 1), servers=4, rows=10_000)
    plant.advance(count * 0.1 + 10.0)
    assert plant.stats.completed.sum() == count
    assert len(plant._requests) == FIRST_POOL


def test_the_pool_grows_when_requests_pile_up() -> None:
    count = 5 * FIRST_POOL
    plant = plant_of(requests(np.zeros(count), 50, 2))
    plant.advance(0.0)
    assert plant.in_flight.tolist() == [count, 0]
    plant.advance(1e6)
    assert plant.stats.completed.tolist() == [count, 0]
    assert plant.in_flight.tolist() == [0, 0]


def test_the_hour_is_taken_once() -> None:
    plant = plant_of(requests([0.0, 1.0], prompt=50, output=2))
    plant.advance(50.0)
    assert plant.stats.take_hour_e2e_s().sum() == 2
    assert plant.stats.take_hour_e2e_s().sum() == 0
    assert plant.stats.e2e_s.sum() == 2


def test_rows_fill_whole_lines_of_cache() -> None:
    # Limiters are stepped one after the other, so that theirs need not.
    assert [p.SERVER.itemsize, p.REQUEST.itemsize, p.LIMITER.itemsize] == [3 * LINE_BYTES, LINE_BYTES // 2, 48]
    plant = mixed_plant()
    assert plant._servers.ctypes.data % LINE_BYTES == 0
    assert plant._requests.ctypes.data % LINE_BYTES == 0


def test_no_number_of_an_iteration_model_is_left_out() -> None:
    named = {field.name for field in fields(IterationModel)}
    assert named - set(p.PARAMS.names or ()) == {"linear_memory_s"}
    rows, tables = p.param_rows([PROFILE, MODELLED, replace(MODELLED, name="again")])
    for name in named - {"linear_memory_s"}:
        assert rows[name][1] == rows[name][2] == getattr(MODEL, name), name
    for row in rows[1:]:
        table = tables[row["table"] : row["table"] + row["table_last"] + 1]
        assert table.tolist() == MODEL.linear_memory_s.tolist()
    assert rows["has_model"].tolist() == [0, 1, 1]


def test_a_server_takes_more_residents_than_there_was_room_for_at_the_start() -> None:
    plant = plant_of(requests(np.zeros(60), 50, 100))
    plant.advance(2.0)
    assert plant._servers["batch"][0] == 60 > FIRST_HEAP
    plant.advance(1e3)
    assert plant.stats.completed.tolist() == [60, 0]


@pytest.mark.parametrize(("count", "expected"), [(1, 2), (2, 2), (3, 4), (40, 64), (64, 64), (65, 128), (320, 512)])
def test_a_tree_has_a_leaf_for_every_value(count: int, expected: int) -> None:
    assert leaves(count) == expected


def test_compiled_code_is_kept_outside_the_sources_and_anew_for_each_version_of_them(tmp_path: Path) -> None:
    script = "from sim_backend import compiled; print(compiled.cache_folder()); print(compiled._CACHED)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
        cwd=Path(__file__).parents[2],
    )
    folder, cached = result.stdout.split()
    assert Path(folder).parent == tmp_path / "overwatt" / "numba"
    assert len(Path(folder).name) == 16
    assert cached == "True"


def test_without_a_place_to_write_the_code_is_compiled_for_this_process_alone(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file where a folder should be")
    script = "from sim_backend import compiled; print(compiled._CACHED)"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"XDG_CACHE_HOME": str(tmp_path / "occupied"), "PATH": ""},
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == "False"
