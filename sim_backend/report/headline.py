"""The finding in sentences: how many more servers each policy holds, against none of control at all."""

from collections.abc import Mapping

from sim_backend.report.verdict import Held, figure, held
from sim_backend.result import ReplayResult

_SPACE = "\N{NO-BREAK SPACE}"


def sentences(result: ReplayResult) -> list[str]:
    """The finding, the most telling sentence first."""
    answers = held(result)
    without = uncontrolled(result.header)
    paths = dict.fromkeys((one.guarantee, one.actuation) for one in answers)
    return [
        finding(answers),
        *([] if without is None else [without]),
        *(
            f"{capital(actuation)}, {guarantee}: {all_carried(answers, guarantee, actuation)}"
            for guarantee, actuation in paths
        ),
    ]


def all_carried(answers: list[Held], guarantee: str, actuation: str) -> str:
    """What each policy held on one path."""
    here = [one for one in answers if (one.guarantee, one.actuation) == (guarantee, actuation)]
    return f"{'; '.join(f'{one.policy} {carried(one)}' for one in here)}."


def best(answers: list[Held]) -> list[Held]:
    """All who held the largest addition, in the order in which they were asked for."""
    most = max((_pct(one) for one in answers), default=-1.0)
    return [] if most < 0.0 else [one for one in answers if _pct(one) == most]


def _pct(one: Held) -> float:
    return -1.0 if one.add_servers_pct is None else one.add_servers_pct


def carried(one: Held) -> str:
    """What `one` held, in words."""
    if one.add_servers_pct is None:
        return "holds none of the numbers tested"
    most = ", the most tested" if one.is_most_tested and one.add_servers_pct > 0.0 else ""
    return f"holds {one.add_servers_pct:g}{_SPACE}% ({one.servers} servers{most})"


def uncontrolled(header: Mapping[str, object]) -> str | None:
    """How many servers fit with no control at all, if the replay found out."""
    servers = figure(header, ("uncontrolled", "servers"))
    if servers is None:
        return None
    added_pct = figure(header, ("uncontrolled", "add_servers_pct"))
    more = "" if added_pct is None else f" ({round(added_pct, 1):+g}{_SPACE}%)"
    return (
        f"With no control at all, {servers:.0f} servers fit{more}: their uncapped peak plus the largest rise within "
        f"40{_SPACE}s stays under the budget."
    )


def finding(answers: list[Held]) -> str:
    """The most servers anyone held, in one sentence."""
    if not answers:
        return "Nothing was run."
    leaders = best(answers)
    if not leaders:
        return "No policy stayed within the limits at any number of servers tested."
    names, first = _names(leaders, answers), leaders[0]
    hold = "holds" if len({one.policy for one in leaders}) == 1 else "hold"
    if first.add_servers_pct == 0.0:
        return f"Nothing held more servers within every limit; {names} {hold} the {first.servers} there were."
    most = " No larger number was tested." if first.is_most_tested else ""
    more = f"{first.add_servers_pct:g}{_SPACE}% more servers, {first.servers} in all"
    return f"{names} {hold} {more}, within every limit.{most}"


def _names(leaders: list[Held], answers: list[Held]) -> str:
    tried = {(one.actuation, one.guarantee) for one in answers}
    by_policy: dict[str, list[str]] = {}
    for one in leaders:
        by_policy.setdefault(one.policy, []).append(f"{one.actuation} {one.guarantee}")
    names = [policy if len(tried) == 1 else f"{policy} ({', '.join(paths)})" for policy, paths in by_policy.items()]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def capital(text: str) -> str:
    """`text` with its first letter large."""
    return text[:1].upper() + text[1:]
