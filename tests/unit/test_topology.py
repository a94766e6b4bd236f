"""The electrical tree and the budgets over it."""

import numpy as np
import pytest

from policies.errors import ConfigError
from policies.topology import Constraints, Topology


def tree() -> Topology:
    """A site with two rows, the first with two racks; five servers."""
    return Topology(["site", "row-a", "row-b", "rack-1", "rack-2"], [-1, 0, 0, 1, 1], np.array([3, 3, 4, 2, 2]))


def test_watts_roll_up_to_every_ancestor() -> None:
    assert tree().roll_up(np.array([1.0, 2.0, 4.0, 8.0, 16.0])).tolist() == [31.0, 7.0, 24.0, 3.0, 4.0]


def test_servers_below_are_found_at_any_depth() -> None:
    topology = tree()
    assert topology.servers_below(0).tolist() == [0, 1, 2, 3, 4]
    assert topology.servers_below(1).tolist() == [0, 1, 2]
    assert topology.servers_below(4).tolist() == [2]


def test_a_domain_may_have_no_servers() -> None:
    topology = Topology(["site", "empty"], [-1, 0], np.array([0]))
    assert topology.servers_below(1).size == 0
    assert topology.roll_up(np.array([5.0])).tolist() == [5.0, 0.0]


def test_two_trees_side_by_side_do_not_mix() -> None:
    topology = Topology(["feed-a", "feed-b"], [-1, -1], np.array([0, 1, 1]))
    assert topology.roll_up(np.array([1.0, 2.0, 4.0])).tolist() == [1.0, 6.0]


@pytest.mark.parametrize("parents", [[1, -1], [-1, 1], [-2, 0]])
def test_a_child_before_its_parent_is_refused(parents: list[int]) -> None:
    with pytest.raises(ConfigError, match="list parents first"):
        Topology(["a", "b"], parents, np.array([0]))


@pytest.mark.parametrize("domain", [-1, 2])
def test_a_server_on_no_domain_is_refused(domain: int) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Topology(["a", "b"], [-1, 0], np.array([0, domain]))


def test_constraints_sum_their_servers() -> None:
    constraints = Constraints.of_tree(tree(), [0, 1, 3])
    assert constraints.names == ("site", "row-a", "rack-1")
    assert constraints.total(np.array([1.0, 2.0, 4.0, 8.0, 16.0])).tolist() == [31.0, 7.0, 3.0]
    assert constraints.servers(1).tolist() == [0, 1, 2]


def test_one_constraint_sums_like_several() -> None:
    watts = np.random.default_rng(3).uniform(0.0, 1e4, 5)
    alone = Constraints.of_tree(tree(), [0]).total(watts)
    assert alone == pytest.approx(Constraints.of_tree(tree(), [0, 1]).total(watts)[:1])
    part = Constraints.of_tree(tree(), [2])
    assert part.total(watts).tolist() == [watts[3] + watts[4]]


def test_shares_weigh_what_counts() -> None:
    """Two feeds that share a server's watts, and each alone after the other has failed."""
    constraints = Constraints(
        ("a", "b after failover"), np.array([0, 2, 4]), np.array([0, 1, 0, 1]), np.array([0.5, 0.5, 1.0, 1.0])
    )
    assert constraints.total(np.array([100.0, 60.0])).tolist() == [80.0, 160.0]
    assert constraints.shares(0).tolist() == [0.5, 0.5]


def test_a_budget_without_servers_is_refused() -> None:
    topology = Topology(["site", "empty"], [-1, 0], np.array([0]))
    with pytest.raises(ConfigError, match="'empty' has a budget and no servers"):
        Constraints.of_tree(topology, [0, 1])


def test_the_tightest_factor_of_a_servers_constraints_counts() -> None:
    constraints = Constraints.of_tree(tree(), [0, 1, 2])
    assert constraints.tightest(np.array([0.9, 0.5, 2.0]), 5).tolist() == [0.5, 0.5, 0.5, 0.9, 0.9]
    lonely = Constraints.of_tree(tree(), [2])
    assert lonely.tightest(np.array([0.2]), 5).tolist() == [1.0, 1.0, 1.0, 0.2, 0.2]
