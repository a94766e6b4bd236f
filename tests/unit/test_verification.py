"""Lost commands are noticed by what busy GPUs do."""

import numpy as np
import pytest

from policies.events import Sampled
from policies.readings import Readings
from policies.verification import GRACE_S, Verification
from tests.cores import NAMEPLATE_W, fleet_of, one_tree, spread

LATENCY_S = 40.0
SETTLED_S = LATENCY_S + GRACE_S


def looked_at(
    clock_mhz: float, cap_mhz: float, *, drawn_w: float = 5_000.0, cap_w: float = NAMEPLATE_W, read_s: float = SETTLED_S
) -> list[int]:
    """What is lost of a command sent at 0 s to one server, seen in a reading taken at `read_s`."""
    fleet = fleet_of(1, cap_latency_s=LATENCY_S)
    readings = Readings(fleet, one_tree(1), 5.0, trust_samples=False)
    none = np.zeros(1, dtype=np.int64)
    readings.sampled(
        Sampled(slice(None), none, none, 0.0, spread(drawn_w, 1), spread(clock_mhz, 1), spread(np.nan, 1), none, none),
        read_s,
    )
    verification = Verification(fleet, 10.0)
    verification.sent(np.array([0]), 0.0)
    return verification.lost(readings, spread(cap_w, 1), spread(cap_mhz, 1)).tolist()


def test_a_busy_gpu_faster_than_its_cap_has_not_heard() -> None:
    assert looked_at(1_400.0, 1_200.0) == [0]


def test_a_busy_gpu_slower_than_an_uncapped_server_allows_has_an_older_cap() -> None:
    assert looked_at(1_000.0, 1_980.0) == [0]


def test_slower_says_nothing_where_a_power_cap_may_be_why() -> None:
    assert looked_at(1_000.0, 1_980.0, cap_w=6_000.0) == []


def test_a_draw_far_above_the_power_cap_has_not_heard() -> None:
    assert looked_at(np.nan, 1_980.0, drawn_w=6_700.0, cap_w=6_000.0) == [0]
    assert looked_at(np.nan, 1_980.0, drawn_w=6_500.0, cap_w=6_000.0) == []


def test_a_step_of_the_clock_table_is_obedience() -> None:
    assert looked_at(1_215.0, 1_200.0) == []


def test_an_idle_gpu_says_nothing_about_its_clock() -> None:
    assert looked_at(np.nan, 1_200.0) == []


def test_a_reading_from_before_the_effect_says_nothing() -> None:
    assert looked_at(1_980.0, 1_200.0, read_s=LATENCY_S - 1.0) == []


def test_a_reading_whose_window_saw_the_effect_begin_says_nothing() -> None:
    assert looked_at(1_980.0, 1_200.0, read_s=SETTLED_S - 0.1) == []
    assert looked_at(1_980.0, 1_200.0, read_s=SETTLED_S) == [0]


def test_nothing_is_said_where_nothing_was_sent() -> None:
    fleet = fleet_of(1, cap_latency_s=LATENCY_S)
    readings = Readings(fleet, one_tree(1), 5.0, trust_samples=False)
    readings.clock_mhz[0], readings.read_at_s[0] = 1_980.0, 99.0
    assert Verification(fleet, 10.0).lost(readings, spread(6_000.0, 1), spread(1_200.0, 1)).size == 0


@pytest.mark.parametrize(("now_s", "due"), [(0.0, True), (9.9, False), (10.0, True)])
def test_it_looks_every_period(now_s: float, due: bool) -> None:
    verification = Verification(fleet_of(1), 10.0)
    if now_s > 0.0:
        assert verification.due(0.0)
    assert verification.due(now_s) == due
