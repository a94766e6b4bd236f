"""Times and watts that follow from a site: what `overwatt check-config` prints and what the checks compare."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sim_backend.profile import Profile, load_profile
from sim_backend.site import Domain, Guarantee, Path, ServerGroup, Site

SAMPLE_WINDOW_S = 1.0
"""A server's sample is the mean over this (docs/replay-json.md: 1 s power)."""


@dataclass(frozen=True, slots=True)
class Derived:
    """One figure; the unit is the last word of its name."""

    name: str
    value: float | None
    """None: not known before a run, or without bound."""
    meaning: str


def meter_seen_s(site: Site) -> float:
    """From the start of an overload to the tick that acts on it, at worst: a meter window, its delay, a tick."""
    return site.actuation.meter_window_s + site.actuation.meter_delay_s + site.tick_s


def brake_waits_s(site: Site) -> float:
    """How long an excess must last before the brake: where caps keep the guarantee they get their time first."""
    by_caps = site.guarantee is Guarantee.HARD and site.actuation.path is Path.IN_BAND
    return site.settle_s if by_caps else 0.0


def brake_obeyed_s(site: Site) -> float:
    """From the start of an overload to all GPUs at the brake clock, worst case."""
    return meter_seen_s(site) + brake_waits_s(site) + site.actuation.brake_latency_s


def other_max_w(group: ServerGroup, profile: Profile) -> float:
    """Most that a server of the group draws beside its GPUs; an overridden `other_w` keeps the profile's margin."""
    if group.other_w is None:
        return profile.other_max_w
    return group.other_w + profile.other_max_w - profile.other_w


def failsafe_floor_w(group: ServerGroup, profile: Profile) -> float:
    """The lowest cap a server can keep: everything else at its most, GPUs at their lowest limit and clock."""
    return other_max_w(group, profile) + profile.gpus * profile.lowest_gpu_w


def nameplate_sum_w(site: Site, domain: Domain) -> float:
    """Nameplates of all servers below a domain."""
    return sum(group.count * load_profile(group.profile).nameplate_w for group in site.below(domain.name))


def carried_s(site: Site, domain: Domain) -> tuple[float | None, float]:
    """Worst load over a protection's rating, and the shortest time that any of the domain's carries it.

    The worst load is every server at its nameplate. While the budget is derived it is unknown (None); then the least
    time of the curves answers.
    """
    if domain.budget_w is None:
        return None, min(device.edge.hold_s(math.inf) for device in domain.protections)
    worst_w = nameplate_sum_w(site, domain)
    loads = [worst_w / (device.derated_ratio * domain.budget_w) for device in domain.protections]
    holds = [device.edge.hold_s(load) for device, load in zip(domain.protections, loads, strict=True)]
    tightest = min(range(len(loads)), key=lambda k: (holds[k], -loads[k]))
    return loads[tightest], holds[tightest]


def derived(site: Site) -> list[Derived]:
    """All figures, times first, then watts per domain and per group of servers."""
    rows = [*_times(site)]
    for domain in site.domains:
        rows += _domain(site, domain)
    for place, group in enumerate(site.servers):
        rows += _servers(f"servers[{place}]", group)
    return rows


def _times(site: Site) -> Iterator[Derived]:
    a = site.actuation
    meter = f"meter_window_s {a.meter_window_s} + meter_delay_s {a.meter_delay_s} + tick_s {site.tick_s:g}"
    cap_s = meter_seen_s(site) + a.latency_s
    yield Derived("cap_obeyed_s", cap_s, f"overload begins -> caps obeyed: {meter} + latency_s {a.latency_s:g}")
    waits = f" + settle_s {site.settle_s:g}" if brake_waits_s(site) > 0.0 else ""
    braked = f"overload begins -> brake obeyed: {meter}{waits} + brake_latency_s {a.brake_latency_s:g}"
    yield Derived("brake_obeyed_s", brake_obeyed_s(site), braked)
    if a.path is Path.OUT_OF_BAND:
        return
    sample_s = SAMPLE_WINDOW_S + a.sample_delay_s + site.tick_s + a.latency_s
    yield Derived(
        "cap_obeyed_by_samples_s",
        sample_s,
        f"the same through the servers' own samples: {SAMPLE_WINDOW_S:g} s mean + sample_delay_s {a.sample_delay_s} "
        f"+ tick_s {site.tick_s:g} + latency_s {a.latency_s:g}",
    )
    if site.guarantee is Guarantee.HARD:
        failsafe_s = site.lease_s + site.enforce_s
        yield Derived(
            "failsafe_s", failsafe_s, "controller silent -> every server at its failsafe cap: lease_s + enforce_s"
        )
        lost = math.floor(site.lease_s / site.tick_s) - 1
        yield Derived("renewals_spare", lost, "lease messages in a row that may be lost before that")
    yield Derived("raise_all_s", 1.0 / site.raise_share_per_s, "shortest time to hand out a whole budget again")


def _domain(site: Site, domain: Domain) -> Iterator[Derived]:
    at = f"domains.{domain.name}"
    failsafe_w = site.failsafe_sum_w(domain.name)
    nameplate_w = nameplate_sum_w(site, domain)
    budget_w = domain.budget_w
    later = f"known after the reference run: its peak / {domain.peak_ratio}"
    yield Derived(f"{at}.budget_w", budget_w, later if budget_w is None else "given")
    yield Derived(f"{at}.failsafe_sum_w", failsafe_w, "all leases ended; the lowest budget this domain can be given")
    yield Derived(
        f"{at}.pool_w",
        None if budget_w is None else budget_w - failsafe_w,
        "watts that can move between servers: budget_w - failsafe_sum_w"
        + ("; must not be negative, which cannot be checked before the run" if _unchecked(site, domain) else ""),
    )
    yield Derived(f"{at}.nameplate_sum_w", nameplate_w, "all servers at their nameplate")
    ratio = None if budget_w is None else nameplate_w / budget_w
    yield Derived(f"{at}.oversubscription_ratio", ratio, "nameplate_sum_w / budget_w, before servers are added")
    for name, device in (("breaker", domain.breaker), ("ups", domain.ups)):
        if device is not None and device.derated_ratio != device.rating_ratio:
            why = f"rating over the budget at {device.ambient_c:g} C instead of {device.reference_c:g} C"
            yield Derived(f"{at}.{name}_derated_ratio", device.derated_ratio, why)
    load_ratio, carried = carried_s(site, domain)
    rating = "any overload" if load_ratio is None else f"{load_ratio:.2f} x the rating (all at nameplate)"
    seconds = carried if math.isfinite(carried) else None
    yield Derived(f"{at}.breaker_carries_s", seconds, f"{rating}{'' if seconds is not None else ', without end'}")
    margin_s = None if seconds is None else seconds - brake_obeyed_s(site)
    yield Derived(f"{at}.brake_margin_s", margin_s, "breaker_carries_s - brake_obeyed_s; below 0 it may trip first")


def _unchecked(site: Site, domain: Domain) -> bool:
    return domain.budget_w is None and site.guarantee is Guarantee.HARD


def _servers(at: str, group: ServerGroup) -> Iterator[Derived]:
    profile = load_profile(group.profile)
    other_w = other_max_w(group, profile)
    yield Derived(
        f"{at}.failsafe_floor_w",
        failsafe_floor_w(group, profile),
        "lowest failsafe_w that can be kept with this profile",
    )
    limit_w = (group.failsafe_w - other_w) / (profile.gpus * profile.overshoot_ratio)
    yield Derived(f"{at}.gpu_limit_at_failsafe_w", limit_w, "power limit of each GPU under the failsafe cap")
