"""The books against the truth: whatever is lost, late, repeated or restarted, nobody holds more than he is charged."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.agent_core import AgentCore
from policies.arrays import ALL
from policies.commands import Publish
from policies.events import Leased, LeaseVector, Measured, Restarted, Sampled, Ticked
from policies.invariants import check_agents
from policies.ledger import Ledger
from tests.cores import agent_config, fleet_of

EPOCH, LEASE_S = 1, 10.0


class Pair:
    """One agent and the books about it, with every message of the past at hand."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.agent = AgentCore(agent_config(1), np.array([rng.integers(1, 2**60)]))
        self.ledger = Ledger(fleet_of(1), settle_s=2.0)
        self.hardware_w = float(self.agent.cap_w[0])
        self.hung = False
        self.samples: list[tuple[float, Sampled]] = []
        self.leases: list[LeaseVector] = []
        self.seq = 0

    def measure(self, now_s: float) -> None:
        drawn_w = np.array([self.hardware_w * self.rng.uniform(0.2, 1.0)])
        enforced_w = np.array([self.hardware_w])
        for command in self.agent.step(Measured(ALL, drawn_w, np.array([900.0]), enforced_w), now_s):
            if isinstance(command, Publish):
                self.samples.append((now_s, command.sample))

    def take_sample(self, now_s: float) -> None:
        """Any sample of the last minute, often the latest, with its age or without."""
        if not self.samples:
            return
        latest = self.rng.random() < 0.6
        sent_s, sample = self.samples[-1 if latest else int(self.rng.integers(len(self.samples)))]
        age_s = now_s - sent_s if self.rng.random() < 0.8 else 0.0
        aged = replace(sample, age_s=age_s)
        news = self.ledger.news(aged, now_s)
        if news is not None:
            self.ledger.sampled(news, EPOCH, now_s)

    def grant(self) -> None:
        if not self.ledger.heard[0]:
            return
        self.seq += 1
        low, high = self.ledger.fleet.failsafe_w, self.ledger.fleet.nameplate_w
        keep = self.rng.random() < 0.6
        granted_w = self.ledger.granted_w if keep else self.rng.uniform(low, high)
        self.ledger.grant(granted_w, self.seq)
        self.leases.append(
            LeaseVector(
                rows=ALL,
                epoch=EPOCH,
                seq=self.seq,
                lease_s=LEASE_S,
                incarnation=self.ledger.incarnation.copy(),
                sample_seq=self.ledger.sample_seq.copy(),
                cap_w=self.ledger.granted_w.copy(),
                cap_mhz=np.array([np.inf]),
                braking=np.array([False]),
            )
        )

    def take_lease(self, now_s: float) -> None:
        if self.leases:
            latest = self.rng.random() < 0.7
            lease = self.leases[-1 if latest else int(self.rng.integers(len(self.leases)))]
            self.agent.step(Leased(lease), now_s)

    def restart(self, now_s: float) -> None:
        kept_w = np.array([self.rng.choice([np.nan, 5_000.0])])
        kept_epoch = np.array([self.rng.choice([0, EPOCH])])
        self.agent.step(Restarted(ALL, np.array([self.rng.integers(1, 2**60)]), kept_w, kept_epoch), now_s)

    def obey(self) -> None:
        if not self.hung:
            self.hardware_w = float(self.agent.cap_w[0])


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32 - 1))
def test_nobody_holds_more_than_he_is_charged(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = Pair(rng)
    now_s = 0.0
    for _ in range(120):
        now_s += float(rng.choice([0.0, 0.3, 1.0, 3.0], p=[0.3, 0.4, 0.25, 0.05]))
        pair.agent.step(Ticked(), now_s)
        act = rng.random()
        if act < 0.3:
            pair.measure(now_s)
        elif act < 0.55:
            pair.take_sample(now_s)
        elif act < 0.75:
            pair.grant()
        elif act < 0.93:
            pair.take_lease(now_s)
        elif act < 0.95:
            pair.restart(now_s)
        else:
            pair.hung = not pair.hung
        if rng.random() < 0.7:
            pair.obey()
        check_agents(pair.agent, now_s)
        in_force_w = max(pair.hardware_w, float(pair.agent.cap_w[0]))
        assert in_force_w <= float(pair.ledger.charge_w()[0]) + 1e-6


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_samples_a_charge_never_falls(seed: int) -> None:
    """Silence never lowers a charge, whatever is granted meanwhile."""
    rng = np.random.default_rng(seed)
    pair = Pair(rng)
    pair.measure(0.0)
    pair.take_sample(0.0)
    before_w = 0.0
    for _ in range(40):
        pair.grant()
        charge_w = float(pair.ledger.charge_w()[0])
        assert charge_w >= before_w
        before_w = charge_w
