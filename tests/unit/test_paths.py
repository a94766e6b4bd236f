"""The delay lines between a command and the GPUs."""

from dataclasses import replace

import numpy as np
import pytest

from policies.arrays import ALL
from policies.topology import Constraints, Topology
from sim_backend.paths import Actuators
from sim_backend.site import IN_BAND, OUT_OF_BAND, Actuation

N = 4
MAX_MHZ = 1_410.0
FREE_W = np.full(N, np.inf)


def nested() -> Constraints:
    """A row of four servers, the last two of them in a rack with a budget of its own."""
    return Constraints.of_tree(Topology(["row", "rack"], [-1, 0], np.array([0, 0, 1, 1])), [0, 1])


def actuators_of(actuation: Actuation = OUT_OF_BAND, seed: int = 1) -> Actuators:
    return Actuators(actuation, np.full(N, MAX_MHZ), nested(), np.random.default_rng(seed))


def arrive_until(actuators: Actuators, now_s: float) -> None:
    while actuators.next_due_s <= now_s:
        actuators.arrive()


def mhz(*values: float) -> np.ndarray:
    return np.array(values)


def test_nothing_is_capped_and_nothing_is_due_at_the_start():
    actuators = actuators_of()
    assert actuators.next_due_s == np.inf
    assert actuators.clock_mhz().tolist() == [MAX_MHZ] * N
    assert np.isinf(actuators.gpu_limit_w).all()


@pytest.mark.parametrize("actuation", [OUT_OF_BAND, IN_BAND])
def test_a_cap_is_obeyed_after_the_latency_and_not_before(actuation: Actuation):
    actuators = actuators_of(actuation)
    actuators.send_caps(np.array([1, 3]), mhz(1_110.0, 1_275.0), mhz(300.0, np.inf), 100.0, reissued=False)
    assert actuators.next_due_s == 100.0 + actuation.latency_s
    arrive_until(actuators, np.nextafter(100.0 + actuation.latency_s, 0.0))
    assert actuators.clock_mhz().tolist() == [MAX_MHZ] * N
    arrive_until(actuators, 100.0 + actuation.latency_s)
    assert actuators.clock_mhz().tolist() == [MAX_MHZ, 1_110.0, MAX_MHZ, 1_275.0]
    assert actuators.gpu_limit_w.tolist() == [np.inf, 300.0, np.inf, np.inf]
    assert actuators.next_due_s == np.inf


def test_of_two_commands_to_a_server_the_later_one_stands():
    actuators = actuators_of()
    for now_s, cap_mhz in ((1.0, 1_110.0), (2.0, MAX_MHZ), (2.0, 1_275.0)):
        actuators.send_caps(ALL, np.full(N, cap_mhz), FREE_W, now_s, reissued=False)
    actuators.arrive()
    assert actuators.clock_mhz().tolist() == [1_110.0] * N
    arrive_until(actuators, 42.0)
    assert actuators.clock_mhz().tolist() == [1_275.0] * N


def test_the_brake_overtakes_caps_and_leaves_them_as_they_were():
    actuators = actuators_of()
    actuators.send_caps(ALL, np.full(N, 1_110.0), FREE_W, 0.0, reissued=False)
    actuators.send_brake(0, 288.0, 10.0)
    actuators.send_brake(0, np.inf, 60.0)
    assert actuators.next_due_s == 15.0
    arrive_until(actuators, 15.0)
    assert actuators.clock_mhz().tolist() == [288.0] * N
    arrive_until(actuators, 40.0)
    assert actuators.clock_mhz().tolist() == [288.0] * N
    arrive_until(actuators, 65.0)
    assert actuators.clock_mhz().tolist() == [1_110.0] * N
    assert (actuators.sent, actuators.failed) == (N, 0)


def test_a_released_brake_leaves_the_one_of_another_domain_engaged():
    actuators = actuators_of()
    actuators.send_brake(0, 288.0, 0.0)
    actuators.send_brake(1, 288.0, 0.0)
    actuators.send_brake(0, np.inf, 10.0)
    arrive_until(actuators, 15.0)
    assert actuators.clock_mhz().tolist() == [MAX_MHZ, MAX_MHZ, 288.0, 288.0]


def test_each_server_loses_commands_by_itself_and_they_are_counted():
    actuators = actuators_of(replace(OUT_OF_BAND, failure_probability=0.25))
    lost = [actuators.send_caps(ALL, np.full(N, 1_110.0), FREE_W, float(k), reissued=k % 2 == 1) for k in range(1_000)]
    assert actuators.sent == 4_000
    assert actuators.reissued == 2_000
    assert actuators.failed == sum(rows.size for rows in lost)
    assert actuators.failed == pytest.approx(1_000, abs=4 * np.sqrt(4_000 * 0.25 * 0.75))
    assert len({rows.size for rows in lost}) > 2
    # By four standard deviations no server is favoured.
    by_server = np.bincount(np.concatenate(lost), minlength=N)
    assert by_server == pytest.approx(250, abs=4 * np.sqrt(1_000 * 0.25 * 0.75))


def test_what_is_lost_is_not_obeyed_and_is_named():
    actuators = actuators_of(replace(OUT_OF_BAND, failure_probability=0.5), seed=3)
    lost = actuators.send_caps(np.array([0, 2, 3]), mhz(300.0, 400.0, 500.0), np.full(3, np.inf), 0.0, reissued=False)
    arrive_until(actuators, 40.0)
    expected = mhz(300.0, MAX_MHZ, 400.0, 500.0)
    expected[lost] = MAX_MHZ
    assert 0 < lost.size < 3
    assert actuators.clock_mhz().tolist() == expected.tolist()


def test_losses_follow_from_the_seed():
    def losses(seed: int) -> list[list[int]]:
        actuators = actuators_of(replace(OUT_OF_BAND, failure_probability=0.3), seed)
        return [actuators.send_caps(ALL, np.full(N, 900.0), FREE_W, 0.0, reissued=False).tolist() for _ in range(20)]

    assert losses(5) == losses(5)
    assert losses(5) != losses(6)
