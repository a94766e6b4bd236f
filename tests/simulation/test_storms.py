"""Storms against the cores; a failure names its seed and the command that makes it again."""

from collections import Counter

import pytest

from tests.simulation.storm import Storm, StormFailed, main

SUITE = (*range(60), 92, 263, 329)
"""The last ones fail when an agent forgets whom it obeyed, which is rare."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The suite, or the one storm that `--seed` asks for."""
    if "storm_seed" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--seed")
        metafunc.parametrize("storm_seed", SUITE if asked is None else [asked])


def test_no_storm_breaks_a_promise_and_everything_recovers(storm_seed: int) -> None:
    Storm(storm_seed).run()


def test_storms_are_not_calm() -> None:
    """A suite in which nothing happens proves nothing."""
    seen: Counter[str] = Counter()
    for seed in (14, 19, 31, 38, 40):
        seen += Storm(seed).run()
    wanted = {"raised", "lowered", "refused", "fell back", "reflex", "restarts", "taken over", "both alive", "brakes"}
    assert not wanted - set(seen)


def test_a_storm_is_the_same_every_time() -> None:
    assert Storm(5).run() == Storm(5).run()


def test_a_broken_promise_names_the_seed_and_how_to_see_it_again() -> None:
    storm = Storm(3)
    storm.site.budget_w[:] = 1.0
    with pytest.raises(StormFailed, match=r"storm 3, [\s\S]*I1[\s\S]*make sim SEED=3"):
        storm.run()


def test_many_storms_run_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0-1"]) == 0
    assert "2 storms, 0 failed" in capsys.readouterr().out
