"""A site's servers as arrays: sizes of groups, failsafe caps that still fit, facts per server."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config_derived import failsafe_floor_w
from sim_backend.fleet import build_servers, enlarged
from sim_backend.plant import Plant
from sim_backend.profile import load_profile
from sim_backend.site import IN_BAND, Breaker, Domain, ServerGroup
from tests.twin.plant_cases import ListSource, requests
from tests.twin.small_site import A100, FAILSAFE_W, site_of

H100 = "dgx-h100__bloom-176b"


def groups_of(*counts: int) -> tuple[ServerGroup, ...]:
    return tuple(ServerGroup("row", A100, count, "high", FAILSAFE_W) for count in counts)


def counts(groups: tuple[ServerGroup, ...]) -> list[int]:
    return [group.count for group in groups]


@pytest.mark.parametrize(
    ("before", "add_pct", "after"),
    [
        ((20, 20), 0.0, [20, 20]),
        ((20, 20), 30.0, [26, 26]),
        ((20, 20), 12.5, [23, 22]),  # 45 servers: equal remainders, the first group comes first
        ((30, 10), 10.0, [33, 11]),
        ((1, 1, 1), 34.0, [2, 1, 1]),
        ((7, 2, 1), 50.0, [11, 3, 1]),  # 10.5, 3, 1.5: one more server for two equal remainders
        ((40,), 25.0, [50]),
        ((3,), 1000.0, [33]),
    ],
)
def test_added_servers_are_shared_out_by_largest_remainder(before: tuple[int, ...], add_pct: float, after: list[int]):
    assert counts(enlarged(groups_of(*before), add_pct)) == after


@given(before=st.lists(st.integers(1, 60), min_size=1, max_size=6), add_pct=st.floats(0.0, 200.0))
def test_no_group_is_off_its_share_by_a_server_and_none_shrinks(before: list[int], add_pct: float):
    after = counts(enlarged(groups_of(*before), add_pct))
    total = sum(before)
    assert sum(after) == round(total * (1.0 + add_pct / 100.0))
    for was, now in zip(before, after, strict=True):
        assert now >= was
        assert abs(now - was * sum(after) / total) < 1.0


def test_failsafe_caps_stay_as_given_while_they_fit():
    servers = build_servers(site_of(100_000.0), 50.0)
    assert servers.count == 9
    assert servers.failsafe_w.tolist() == [FAILSAFE_W] * 9


@pytest.mark.parametrize("add_pct", [0.0, 50.0, 100.0])
def test_failsafe_caps_become_the_lesser_of_given_and_an_even_share(add_pct: float):
    budget_w = 16_000.0  # a share of 2667 W for 6 servers, 1778 for 9, 1333 for 12
    servers = build_servers(site_of(budget_w), add_pct)
    assert servers.failsafe_w == pytest.approx(min(FAILSAFE_W, budget_w / servers.count))
    assert servers.constraints.total(servers.failsafe_w)[0] <= budget_w + 1e-6
    assert servers.budget_w.tolist() == [budget_w]


def test_every_domain_above_a_server_lowers_its_failsafe_cap():
    domains = (
        Domain("site", "site", None, 20_000.0),
        Domain("row", "row", "site", 14_000.0),
        Domain("cold", "row", "site", 3_000.0, None, Breaker()),
    )
    site = site_of(1.0, domains=domains)
    site = replace(site, servers=(*site.servers, replace(site.servers[0], domain="cold", count=2)))
    servers = build_servers(site, 0.0)
    assert servers.failsafe_w.tolist() == pytest.approx([14_000.0 / 6] * 6 + [1_500.0] * 2)
    assert (servers.constraints.total(servers.failsafe_w) <= servers.budget_w + 1e-6).all()


def test_each_server_has_the_facts_of_its_own_group():
    site = site_of(60_000.0)
    warm = replace(site.servers[1], other_w=2_000.0)
    other_sku = ServerGroup("row", H100, 1, "low", 5_000.0)
    servers = build_servers(replace(site, servers=(site.servers[0], warm, other_sku)), 0.0)
    assert servers.priority.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert servers.field("other_w").tolist()[:6] == [1_200.0] * 3 + [2_000.0] * 3
    margin_w = load_profile(A100).other_max_w - load_profile(A100).other_w
    assert servers.field("other_max_w").tolist()[3] == 2_000.0 + margin_w
    assert servers.field("max_mhz").tolist() == [1_410.0] * 6 + [1_980.0]
    assert len(servers.profiles) == 3


def test_the_lowest_cap_that_can_be_kept_is_the_one_that_check_config_prints():
    site = site_of(60_000.0)
    site = replace(site, servers=(*site.servers, ServerGroup("row", H100, 1, "low", 5_000.0, 1_900.0)))
    servers = build_servers(site, 0.0)
    expected_w = [failsafe_floor_w(g, load_profile(g.profile)) for g in site.servers for _ in range(g.count)]
    assert servers.failsafe_floor_w() == pytest.approx(np.array(expected_w))


@pytest.mark.parametrize("name", [A100, H100])
def test_no_load_draws_more_than_the_lowest_cap_that_can_be_kept(name: str):
    # Long prompts one after the other are the hungriest work there is.
    profile = load_profile(name)
    arrivals = requests(np.arange(0.0, 120.0, 0.05), prompt=6_000, output=2)
    plant = Plant([profile], np.zeros(1, np.int64), np.zeros(1, np.int64), ListSource(arrivals, 120.0), {})
    plant.set_caps(np.ones(1), np.full(1, profile.min_limit_w))
    drawn_w = [float(plant.take_mean_w()[0]) for _ in _seconds(plant, 120)]
    assert max(drawn_w) == pytest.approx(profile.other_w + profile.gpus * profile.lowest_gpu_w)


def _seconds(plant: Plant, count: int) -> Iterator[None]:
    for second in range(1, count + 1):
        plant.advance(float(second))
        yield


def test_a_policy_is_told_when_the_effect_of_a_command_stands_in_what_it_reads():
    out_of_band, in_band = site_of(60_000.0), site_of(60_000.0, IN_BAND)
    fleet = build_servers(out_of_band, 0.0).fleet(out_of_band)
    assert (fleet.cap_latency_s, fleet.effect_s) == (40.0, 44.0)
    fleet = build_servers(in_band, 0.0).fleet(in_band)
    assert (fleet.cap_latency_s, fleet.effect_s) == (0.05, 1.05)


def test_what_the_cores_get_is_theirs_alone():
    servers = build_servers(site_of(60_000.0), 0.0)
    servers.agent_config().failsafe_w[:] = 0.0
    servers.fleet(site_of(60_000.0)).failsafe_w[:] = 0.0
    assert servers.failsafe_w.min() == FAILSAFE_W
