import numpy as np
import pytest

from sim_backend.sensor import KINDS, SensorBank, SensorKind, kind_of


def bank(*kinds: SensorKind, step_s: float = 0.005) -> SensorBank:
    """Exact boards that refresh at full multiples of their interval."""
    made = SensorBank(kinds, step_s, np.random.default_rng(1))
    made.gain[:] = 1.0
    made.phase_s[:] = [kind.refresh_s for kind in kinds]
    return made


def run(made: SensorBank, watts: np.ndarray) -> np.ndarray:
    """What polling after each step reads: [power.draw, instantaneous, energy, age] by step and GPU."""
    seen = []
    for row in watts:
        made.advance(np.atleast_1d(row))
        now = made.read()
        seen.append([now.power_w, now.instant_w, now.energy_j, now.age_s])
    return np.array(seen)


def test_polling_more_often_than_the_refresh_reads_the_same_again() -> None:
    power_w = run(bank(KINDS["a100"]), np.linspace(100.0, 400.0, 200))[:, 0, 0]
    changes = np.flatnonzero(np.diff(power_w)) + 1
    assert (np.diff(changes) == 20).all()


def test_an_a100_does_not_see_a_pulse_between_two_windows_and_a_3090_does() -> None:
    watts = np.full(100, 100.0)
    watts[41:55] = 400.0  # 70 ms from 5 ms after one refresh until 25 ms before the next
    a100 = run(bank(KINDS["a100"]), watts)
    rtx = run(bank(KINDS["rtx"]), watts)
    assert a100[30:, 1, 0] == pytest.approx(100.0)
    assert rtx[:, 1, 0].max() == pytest.approx(100.0 + 300.0 * 0.7)
    assert a100[-1, 2, 0] == pytest.approx(rtx[-1, 2, 0] - 300.0 * 0.07)


def test_the_average_follows_a_step_within_a_second_in_ten_equal_parts() -> None:
    watts = np.concatenate([np.full(400, 100.0), np.full(400, 400.0)])
    power_w = run(bank(KINDS["rtx"]), watts)[:, 0, 0]
    after = power_w[399::20]
    assert np.diff(after[:11]) == pytest.approx(np.full(10, 30.0))
    assert power_w[-1] == pytest.approx(400.0)


def test_the_counter_sums_what_was_read() -> None:
    seen = run(bank(KINDS["h100"]), np.full(400, 250.0))
    assert seen[-1, 2, 0] == pytest.approx(250.0 * 2.0)


def test_the_age_says_how_stale_a_reading_is() -> None:
    age_s = run(bank(KINDS["h100"]), np.full(100, 250.0))[30:, 3, 0]
    assert age_s.max() == pytest.approx(0.095)
    assert age_s.min() == pytest.approx(0.0, abs=1e-9)


def test_kinds_side_by_side_read_as_each_does_alone() -> None:
    rng = np.random.default_rng(7)
    watts = rng.uniform(80.0, 700.0, (300, 3))
    kinds = [KINDS["a100"], KINDS["v100"], KINDS["rtx"]]
    together = run(bank(*kinds), watts)
    for column, kind in enumerate(kinds):
        alone = run(bank(kind), watts[:, column])
        assert together[:, :, column] == pytest.approx(alone[:, :, 0])


def test_steps_longer_than_a_refresh_take_several() -> None:
    coarse = run(bank(KINDS["v100"], step_s=0.1), np.full(50, 200.0))
    assert coarse[-1, 2, 0] == pytest.approx(200.0 * 5.0, rel=0.01)
    assert coarse[-1, 0, 0] == pytest.approx(200.0)


def test_long_steps_read_what_short_ones_read() -> None:
    rng = np.random.default_rng(11)
    seconds_w = rng.uniform(80.0, 700.0, (8, 4))
    kinds = [KINDS["a100"], KINDS["v100"], KINDS["rtx"], KINDS["h100"]]
    phase_s = np.array([0.013, 0.007, 0.051, 0.099])
    short, long = bank(*kinds, step_s=0.01), bank(*kinds, step_s=1.0)
    short.phase_s[:] = long.phase_s[:] = phase_s
    by_short = run(short, np.repeat(seconds_w, 100, axis=0))[99::100]
    by_long = run(long, seconds_w)
    assert by_long == pytest.approx(by_short)


def test_boards_differ_within_their_tolerance_and_a_seed_gives_the_same_again() -> None:
    one, two = (SensorBank([KINDS["h100"]] * 500, 0.1, np.random.default_rng(3)) for _ in range(2))
    assert (one.gain == two.gain).all()
    assert 0.95 <= one.gain.min() < 0.96
    assert 1.04 < one.gain.max() <= 1.05


def test_cards_find_their_sensor_by_generation() -> None:
    assert kind_of("a100-40gb") is KINDS["a100"]
    assert kind_of("rtx-4090") is KINDS["rtx"]
    assert kind_of("b200-sxm") is KINDS["h100"]
