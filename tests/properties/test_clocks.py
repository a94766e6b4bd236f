"""Limits and clocks: what a limit leaves is within it, and more watts never cost speed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.models.clocks import PowerLaw, Work, clock_under, drawn_w, slowdown

shares = st.floats(0.0, 1.0)
laws = st.builds(
    PowerLaw,
    idle_w=st.floats(20.0, 160.0),
    active_w=st.floats(10.0, 300.0),
    compute_w=st.floats(0.0, 700.0),
    memory_w=st.floats(0.0, 300.0),
    exponent=st.floats(1.0, 4.0),
    voltage_floor=shares,
    memory_knee=shares,
    overlap=shares,
    min_ratio=st.floats(0.05, 0.3),
)
works = st.builds(Work, compute_s=st.floats(0.01, 1.0), memory_s=shares, waiting_s=shares)


@given(laws, works, st.floats(50.0, 1500.0))
def test_a_clock_keeps_its_limit_or_is_the_lowest(law: PowerLaw, work: Work, limit_w: float) -> None:
    ratio = float(clock_under(law, work, limit_w))
    assert law.min_ratio <= ratio <= 1.0
    if ratio > law.min_ratio:
        assert drawn_w(law, work, ratio) <= limit_w + 1e-6


@given(laws, works, st.lists(st.floats(50.0, 1500.0), min_size=2, max_size=20))
def test_a_higher_limit_never_slows(law: PowerLaw, work: Work, limits: list[float]) -> None:
    took = slowdown(law, work, clock_under(law, work, np.sort(limits)))
    assert (np.diff(took) <= 1e-9).all()
    assert took.min() >= 1.0 - 1e-12


@given(laws, works, st.lists(st.floats(50.0, 1500.0), min_size=1, max_size=20))
def test_many_limits_at_once_are_each_by_itself(law: PowerLaw, work: Work, limits: list[float]) -> None:
    together = clock_under(law, work, np.array(limits))
    assert together == pytest.approx([float(clock_under(law, work, limit)) for limit in limits])
