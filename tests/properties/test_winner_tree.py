"""A tree that is changed leaf by leaf equals one that is played anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim_backend.winner_tree_kernel import play, replace, replay

# In its own right a kernel function is compiled as it is called from Python.
KEYS = st.sampled_from([0.0, 1.0, 1.0, 2.5, 7.0, np.inf])


@given(
    levels=st.integers(1, 5),
    trees=st.integers(1, 3),
    changes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 31), KEYS), max_size=60),
)
def test_the_winner_is_the_first_of_the_least(levels: int, trees: int, changes: list[tuple[int, int, float]]) -> None:
    size = 1 << levels
    keys, winners = np.full(trees * size, np.inf), np.tile(play(np.full(size, np.inf)), trees)
    for tree, leaf, key in changes:
        base = tree % trees * size
        replace(keys, winners, base, size, leaf % size, key)
        mine = keys[base : base + size]
        assert mine[leaf % size] == key
        assert winners[base + 1] == np.argmin(mine)
        assert np.array_equal(winners[base + 1 : base + size], play(mine)[1:])


@given(levels=st.integers(1, 6), data=st.data())
def test_replayed_whole_it_is_the_tree_played_anew(levels: int, data: st.DataObject) -> None:
    size = 1 << levels
    keys = np.array(data.draw(st.lists(KEYS, min_size=size, max_size=size)))
    winners = np.zeros(size, np.int32)
    replay(keys, winners)
    assert np.array_equal(winners[1:], play(keys)[1:])
