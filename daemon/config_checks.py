"""How the values of a site must relate, each relation phrased as what happens otherwise."""

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

from daemon.config_derived import SAMPLE_WINDOW_S, brake_obeyed_s, carried_s, failsafe_floor_w
from daemon.toml_lines import KeyPath
from policies.errors import ConfigError
from sim_backend.site import POINTS, Breaker, Domain, Guarantee, Path, ServerGroup, Site

LEVELS = ("site", "row", "rack")
"""From the top of the electrical tree down."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a site."""

    key: KeyPath
    text: str
    hard_only: bool = False
    """Refused only where something was promised; under the reactive guarantee it is a result that a replay shows."""

    def refuses(self, guarantee: Guarantee) -> bool:
        """Whether a site under `guarantee` cannot be used."""
        return not self.hard_only or guarantee is Guarantee.HARD


def problems(site: Site) -> Iterator[Problem]:
    """Everything wrong with `site`. The later checks need a whole tree, so they wait until the first find nothing."""
    tree = [*_tree(site), *_names(site)]
    yield from tree
    for check in (_path, _times, _serving, _policies, _workload):
        yield from check(site)
    for domain in site.domains:
        yield from _domain(domain)
    if not tree:
        for place, group in enumerate(site.servers):
            yield from _failsafe(("servers", place), group)
        for domain in site.domains:
            yield from _budget(site, domain)


def suggestion(name: str, known: Collection[str]) -> str:
    """'; did you mean ...?' where one of `known` is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    listed = ", ".join(known) if known else "none"
    return f"{what} '{name}' is not known{suggestion(name, known) or f'; there are {listed}'}"


def _tree(site: Site) -> Iterator[Problem]:
    by_name = {domain.name: domain for domain in site.domains}
    if not site.domains:
        yield Problem(("domains",), "at least one domain is needed: without a budget there is nothing to hold")
    if not site.servers:
        yield Problem(("servers",), "at least one server is needed: there would be nothing to replay on")
    for domain in site.domains:
        key = ("domains", domain.name)
        if domain.parent is None:
            continue
        if domain.parent not in by_name:
            yield Problem((*key, "parent"), _unknown("domain", domain.parent, by_name))
        elif LEVELS.index(by_name[domain.parent].level) >= LEVELS.index(domain.level):
            yield Problem(
                (*key, "parent"),
                f"a {domain.level} cannot be fed by '{domain.parent}', which is a {by_name[domain.parent].level}: "
                f"levels go down from {' to '.join(LEVELS)}, otherwise feeds could form a circle",
            )
    fed = {group.domain for group in site.servers}
    for name in sorted(fed & by_name.keys()):
        at = by_name[name].parent
        # A circle ends at its first domain seen twice; it has been reported above by its levels.
        while at is not None and at in by_name and at not in fed:
            fed.add(at)
            at = by_name[at].parent
    for name in by_name.keys() - fed:
        yield Problem(("domains", name), "no servers in this domain or below it: its budget would hold nothing")


def _names(site: Site) -> Iterator[Problem]:
    from sim_backend.profile import load_profile, shipped_names

    names = [domain.name for domain in site.domains]
    for place, group in enumerate(site.servers):
        key = ("servers", place)
        if group.domain not in names:
            yield Problem((*key, "domain"), _unknown("domain", group.domain, names))
        composed = group.profile.count("__") >= 2
        if not (composed or group.profile.endswith(".toml") or group.profile in shipped_names()):
            yield Problem((*key, "profile"), _unknown("profile", group.profile, shipped_names()))
            continue
        try:
            load_profile(group.profile)
        except ConfigError as error:
            yield Problem((*key, "profile"), str(error))


def _serving(site: Site) -> Iterator[Problem]:
    key, roles = ("serving",), {group.role for group in site.servers}
    if len(roles & {"prompt", "token"}) == 1:
        alone = (roles & {"prompt", "token"}).pop()
        yield Problem(("servers",), f"there are {alone} servers only: they need servers for the other phase")
    if site.pooled and site.serving.kv_bytes_per_token is None:
        text = "is missing: with prompt and token servers caches move, and nobody knows how large they are"
        yield Problem((*key, "kv_bytes_per_token"), text)
    if site.serving.cached_share > 0.0 and not (site.serving.chunked or site.pooled):
        text = 'needs batching = "chunked": whole prompts are prefilled whole'
        yield Problem((*key, "cached_share"), text)


def _path(site: Site) -> Iterator[Problem]:
    if site.actuation.path is Path.OUT_OF_BAND and site.guarantee is Guarantee.HARD:
        yield Problem(
            ("actuation", "path"),
            f"out-of-band cannot keep the hard guarantee: {site.actuation.latency_s:g} s commands cannot carry leases; "
            f'set guarantee = "reactive" in [site], or path = "in-band"',
        )


def _times(site: Site) -> Iterator[Problem]:
    if site.tick_s != 1.0:
        text = f"{site.tick_s:g} must be 1: a replay advances by the second, and the controller with it"
        yield Problem(("timing", "tick_s"), text)
    a = site.actuation
    if a.path is Path.OUT_OF_BAND:
        return  # no leases on that path, so nothing that the other times could break
    drops = "two lost messages drop the fleet to its failsafe caps"
    stale = "every sample is stale before the next one comes"
    early = "a lowering is confirmed by watts read before it took hold, and they are handed out twice"
    slow = "servers still draw their old caps when their watts are handed out again"
    next_s = site.tick_s + a.sample_period_s + a.sample_delay_s
    read_s = a.latency_s + SAMPLE_WINDOW_S + a.sample_delay_s
    relations: tuple[tuple[str, float, str, float, str], ...] = (
        ("lease_s", site.lease_s, "3 x tick_s", 3 * site.tick_s, drops),
        ("stale_s", site.stale_s, "tick_s + sample_period_s + sample_delay_s", next_s, stale),
        ("settle_s", site.settle_s, f"latency_s + {SAMPLE_WINDOW_S:g} s sample + sample_delay_s", read_s, early),
        ("enforce_s", site.enforce_s, "latency_s", a.latency_s, slow),
    )
    for name, value, bound, least, otherwise in relations:
        if value < least:
            text = f"{value:g} must be at least {bound} = {least:g}: otherwise {otherwise}"
            yield Problem(("timing", name), text, hard_only=True)


def _curve(key: KeyPath, device: Breaker) -> Iterator[Problem]:
    points = device.points
    if device.curve != POINTS:
        if points != Breaker().points:
            text = f'curve = "{device.curve}" brings its own times: leave out points, or set curve = "points"'
            yield Problem((*key, "points"), text)
        return
    for (load0, time0), (load1, time1) in pairwise(points):
        if load1 <= load0:
            text = f"loads must rise, but {load1:g} follows {load0:g}: otherwise one load has two times"
            yield Problem((*key, "points"), text)
        if time1 > time0:
            yield Problem(
                (*key, "points"),
                f"times must not rise, but {time1:g} s at {load1:g} follows {time0:g} s at {load0:g}: "
                "a breaker does not carry more for longer",
            )
    if points[0][0] < 1.0:
        text = f"{points[0][0]:g} is below the rating, which is carried for ever: loads start at 1"
        yield Problem((*key, "points"), text)


def _domain(domain: Domain) -> Iterator[Problem]:
    key = ("domains", domain.name)
    yield from _curve((*key, "breaker"), domain.breaker)
    if domain.ups is not None:
        yield from _curve((*key, "ups"), domain.ups)
    for device in domain.protections:
        if device.derated_ratio <= 0.0:
            text = f"derating_per_k leaves nothing of its rating at {device.ambient_c:g} C: per kelvin it is below 0.1"
            yield Problem((*key, "breaker"), text)
    if domain.budget_w is None and domain.peak_ratio is None:
        yield Problem(("domains", domain.name), "neither budget_w nor peak_ratio is given: there is nothing to hold")
    if domain.budget_w is not None and domain.peak_ratio is not None:
        text = "budget_w is given as well: keep one, otherwise it is unclear which budget holds"
        yield Problem(("domains", domain.name, "peak_ratio"), text)


def _failsafe(key: KeyPath, group: ServerGroup) -> Iterator[Problem]:
    from sim_backend.profile import load_profile

    profile = load_profile(group.profile)
    floor_w = failsafe_floor_w(group, profile)
    if group.failsafe_w < floor_w:
        yield Problem(
            (*key, "failsafe_w"),
            f"{group.failsafe_w:g} W cannot be reached: {profile.gpus} GPUs may draw {profile.lowest_gpu_w:.0f} W each "
            f"at their lowest limit and clock, {floor_w:.0f} W with the rest of the server; give at least that",
            hard_only=True,
        )
    if group.failsafe_w > profile.nameplate_w:
        yield Problem(
            (*key, "failsafe_w"),
            f"{group.failsafe_w:g} W is above the server's nameplate of {profile.nameplate_w:g} W: "
            "it would never lower anything",
        )
    if group.other_w is not None and group.other_w + profile.gpus * profile.idle_w > profile.nameplate_w:
        yield Problem(
            (*key, "other_w"),
            f"{group.other_w:g} W and {profile.gpus} idle GPUs exceed the server's nameplate of "
            f"{profile.nameplate_w:g} W: the nameplate is what an unseen server is charged",
        )


def _budget(site: Site, domain: Domain) -> Iterator[Problem]:
    key = ("domains", domain.name)
    failsafe_w = site.failsafe_sum_w(domain.name)
    if domain.budget_w is not None and failsafe_w > domain.budget_w:
        yield Problem(
            (*key, "budget_w"),
            f"the failsafe caps below add up to {failsafe_w:.0f} W, {failsafe_w - domain.budget_w:.0f} W above this "
            f"budget of {domain.budget_w:g} W: if the controller fell silent the domain would stay over it; "
            "lower failsafe_w or raise budget_w",
            hard_only=True,
        )
    load_ratio, carried = carried_s(site, domain)
    if (brake_s := brake_obeyed_s(site)) > carried:
        load = "an overload" if load_ratio is None else f"{load_ratio:.2f} x its rating"
        yield Problem(
            (*key, "breaker"),
            f"carries {load} for {carried:.1f} s, but a brake is obeyed {brake_s:g} s after an overload begins: "
            "it may trip first",
            hard_only=True,
        )


def _policies(site: Site) -> Iterator[Problem]:
    from policies import POLICIES, make_policy

    for name, given in site.policy.items():
        if name not in POLICIES:
            yield Problem(("policy", name), _unknown("policy", name, POLICIES))
            continue
        defaults, _ = POLICIES[name]
        unknown = [parameter for parameter in given if parameter not in defaults]
        for parameter in unknown:
            yield Problem(("policy", name, parameter), _unknown("parameter", parameter, defaults))
        if unknown:
            continue
        try:
            make_policy(name, given)
        except ConfigError as error:
            yield Problem(("policy", name), str(error))
        yield from _parameters(name, {**defaults, **given}, given)


def _parameters(name: str, values: dict[str, float], given: dict[str, float]) -> Iterator[Problem]:
    for parameter, value in given.items():
        if parameter.endswith(("_mhz", "_s")):
            allowed, bounds = value >= 0.0, "at least 0"
        else:
            allowed, bounds = 0.0 <= value <= 1.0, "a fraction of the budget, 0 to 1"
        if not allowed:
            yield Problem(("policy", name, parameter), f"{value:g} must be {bounds}")
    for lower, upper, otherwise in _ORDER:
        if lower in values and upper in values and not values[lower] < values[upper]:
            key = lower if lower in given else upper
            text = f"{lower} = {values[lower]:g} must be below {upper} = {values[upper]:g}: otherwise {otherwise}"
            yield Problem(("policy", name, key), text)


_ORDER = (
    ("uncap_at", "cap_at", "caps are lifted at once where they are set, and the fleet swings"),
    ("uncap_at", "cap_to", "caps bring power to where they are lifted again, and the fleet swings"),
    ("hysteresis", "cap_at", "a cap is never lifted"),
    ("hysteresis", "t1", "a cap is never lifted"),
    ("low_t2_mhz", "low_t1_mhz", "the upper threshold raises the clocks of the lower one"),
)
"""(lower, upper, what happens otherwise) among parameters of one policy."""


def _workload(site: Site) -> Iterator[Problem]:
    if not site.workload:
        return
    from sim_backend.six_weeks import SixWeeksParams

    key = ("workload", "six-weeks")
    known = [field.name for field in fields(SixWeeksParams)]
    unknown = [name for name in site.workload if name not in known]
    for name in unknown:
        advice = suggestion(name, known) or "; docs/configuration.md lists all there are"
        yield Problem((*key, name), f"unknown parameter{advice}")
    if unknown:
        return
    try:
        SixWeeksParams().with_overrides(site.workload)
    except ConfigError as error:
        # Its text names the parameter; several may be set, so the line is that of the one it names.
        named = [name for name in site.workload if name in str(error)]
        yield Problem((*key, *named[:1]), str(error))
