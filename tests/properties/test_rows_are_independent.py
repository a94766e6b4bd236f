"""The licence of the fast simulator: a fleet of three behaves as three fleets of one."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.agent_core import AgentCore
from policies.commands import Command, Publish, SetCaps
from policies.events import AgentEvent, Leased, LeaseVector, Measured, Restarted, Ticked
from tests.cores import NAMEPLATE_W, agent_config

N = 3
STATE = (
    "cap_w", "cap_mhz", "mode", "epoch", "lease_seq", "lease_end_s", "prior_w", "sample_seq", "over_since_s",
    "incarnation", "braking", "leased_w",
)  # fmt: skip


def fleets() -> tuple[AgentCore, list[AgentCore]]:
    failsafe_w = [3_000.0, 4_000.0, 5_000.0]
    whole = AgentCore(agent_config(N, failsafe_w=failsafe_w), np.arange(N) + 10)
    alone = [AgentCore(agent_config(1, failsafe_w=f), np.array([10 + i])) for i, f in enumerate(failsafe_w)]
    return whole, alone


def random_lease(core: AgentCore, rng: np.random.Generator, rows: np.ndarray) -> LeaseVector:
    """Mostly one that is accepted; sometimes wrong for some rows only."""
    k = rows.size
    cap_w = rng.uniform(2_000.0, 1.2 * NAMEPLATE_W, k)
    cap_w[rng.random(k) < 0.05] = np.nan
    return LeaseVector(
        rows=rows,
        epoch=int(core.epoch.max() + rng.choice([-1, 0, 0, 0, 0, 1])),
        seq=int(core.lease_seq.max() + rng.choice([0, 1, 1, 1, 5])),
        lease_s=float(rng.choice([3.0, 10.0])),
        incarnation=core.incarnation[rows] + (rng.random(k) < 0.05),
        sample_seq=core.sample_seq[rows] - (rng.random(k) < 0.3),
        cap_w=cap_w,
        cap_mhz=rng.choice([900.0, np.inf, 100.0], k),
        braking=rng.random(k) < 0.2,
    )


def random_event(core: AgentCore, rng: np.random.Generator) -> AgentEvent:
    rows = np.flatnonzero(rng.random(N) < 0.8)
    kind = rng.choice(["tick", "measure", "measure", "lease", "lease", "restart"], p=[0.2, 0.2, 0.2, 0.18, 0.18, 0.04])
    if kind == "tick" or rows.size == 0:
        return Ticked()
    if kind == "lease":
        return Leased(random_lease(core, rng, rows))
    if kind == "restart":
        kept_w = rng.choice([np.nan, 2_000.0, 9_000.0], rows.size)
        return Restarted(rows, rng.integers(100, 2**60, rows.size), kept_w, rng.integers(0, 3, rows.size))
    drawn_w = rng.choice([np.nan, 2_000.0, 6_000.0, 9_500.0], rows.size, p=[0.1, 0.5, 0.3, 0.1])
    return Measured(rows, drawn_w, np.full(rows.size, 1_500.0), core.cap_w[rows].copy())


def of_row(event: AgentEvent, row: int) -> AgentEvent | None:
    """The part of an event that concerns one server, as a fleet of one sees it; a tick if it does not."""
    if isinstance(event, Ticked):
        return event
    whole = event.lease if isinstance(event, Leased) else event
    places = np.flatnonzero(np.asarray(whole.rows) == row)
    if places.size == 0:
        return Ticked()
    arrays = {
        name: getattr(whole, name)[places]
        for name in whole.__slots__
        if name != "rows" and isinstance(getattr(whole, name), np.ndarray)
    }
    part = replace(whole, rows=np.array([0]), **arrays)
    return Leased(part) if isinstance(part, LeaseVector) else part


def told(commands: list[Command]) -> dict[int, list[tuple[object, ...]]]:
    """Commands by server."""
    by_row: dict[int, list[tuple[object, ...]]] = {}
    for command in commands:
        match command:
            case SetCaps():
                for k, row in enumerate(np.arange(N)[command.rows].tolist()):
                    text = (command.because, command.cap_w[k], command.gpu_limit_w[k], command.cap_mhz[k])
                    by_row.setdefault(row, []).append(text)
            case Publish(sample):
                for k, row in enumerate(np.arange(N)[sample.rows].tolist()):
                    by_row.setdefault(row, []).append((sample.seq[k], sample.epoch[k], sample.lease_seq[k]))
    return by_row


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(5, 60))
def test_rows_are_independent(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    whole, alone = fleets()
    now_s = 0.0
    for _ in range(steps):
        now_s += float(rng.choice([0.0, 0.2, 1.0, 4.0]))
        event = random_event(whole, rng)
        commands = told(whole.step(event, now_s))
        for row, one in enumerate(alone):
            mine = of_row(event, row)
            assert mine is not None
            assert told(one.step(mine, now_s)).get(0, []) == commands.get(row, [])
            for name in STATE:
                here, there = getattr(whole, name)[row], getattr(one, name)[0]
                assert here == there, f"{name} of row {row}: {here} in the fleet, {there} alone"


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_deadline_is_never_after_the_end_of_a_lease(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, _ = fleets()
    now_s = 0.0
    for _ in range(40):
        now_s += float(rng.choice([0.2, 1.0]))
        whole.step(random_event(whole, rng), now_s)
        ends_s = whole.lease_end_s[np.isfinite(whole.lease_end_s)]
        deadline_s = whole.next_deadline_s()
        assert ends_s.size == 0 or (deadline_s is not None and deadline_s <= ends_s.min())
