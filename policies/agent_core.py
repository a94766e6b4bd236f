"""What servers do by themselves: hold leases, fall back when one ends, refuse what is stale, brake on overdraw."""

from dataclasses import dataclass

import numpy as np

from policies.arrays import ALL, Flags, Ints, Rows, Vec
from policies.commands import Command, Publish, SetCaps
from policies.events import AgentEvent, Leased, LeaseVector, Measured, Restarted, Sampled
from policies.modes import Mode

SAMPLES_REMEMBERED = 64
"""Send times kept per server: at two samples a second more than a lease can name; older ones are refused."""
TOLERANCE_W = 1.0
"""Readings resolve about a watt: the 3090 and 4090 sweeps hold a binding cap within 1 W."""


@dataclass(frozen=True, slots=True, eq=False)
class AgentConfig:
    """What an agent knows of its server before anybody talks to it; all arrays [n]."""

    failsafe_w: Vec
    """Most the server may draw when nobody leads."""
    nameplate_w: Vec
    other_max_w: Vec
    """Non-GPU watts at their highest (fans hot, CPUs busy)."""
    gpus: Vec
    overshoot_ratio: Vec
    """By how much firmware lets a GPU exceed its power limit."""
    min_limit_w: Vec
    """Lowest power limit a GPU obeys."""
    max_mhz: Vec
    min_mhz: Vec
    reflex_s: float = 2.0
    """Overdraw lasting this long, a whole sensor window after settling, engages the local reflex."""

    def gpu_limit_w(self, cap_w: Vec, rows: Rows = ALL) -> Vec:
        """Power limit of each GPU that keeps its server inside `cap_w`, split evenly."""
        limit_w = (cap_w - self.other_max_w[rows]) / (self.gpus[rows] * self.overshoot_ratio[rows])
        return np.maximum(limit_w, self.min_limit_w[rows])

    def enforced_w(self, gpu_limit_w: Vec, rows: Rows = ALL) -> Vec:
        """Server cap that a power limit read back from the GPUs amounts to; the inverse of `gpu_limit_w`."""
        return gpu_limit_w * self.gpus[rows] * self.overshoot_ratio[rows] + self.other_max_w[rows]


class AgentCore:
    """A fleet of agents that know nothing of each other; the live agent is a fleet of one.

    Every rule is row-wise. Time is `now_s`, monotonic, of the agent's own host.
    """

    def __init__(self, config: AgentConfig, incarnation: Ints) -> None:
        """Start at failsafe, with no lease.

        Args:
            config: of the servers [n].
            incarnation: 64 random bits for each process, so that a lease to a predecessor is recognised [n].
        """
        n = config.failsafe_w.size
        self.config = config
        self.n = n
        self.row_index = np.arange(n)
        self.incarnation = np.array(incarnation, dtype=np.int64)
        self.mode = np.full(n, Mode.FAILSAFE, dtype=np.int8)
        self.cap_w = config.failsafe_w.copy()
        self.cap_mhz = config.max_mhz.copy()
        self.leased_w = config.failsafe_w.copy()
        self.lease_end_s = np.full(n, np.inf)
        self.braking = np.zeros(n, dtype=np.bool_)
        self.epoch = np.zeros(n, dtype=np.int64)
        self.lease_seq = np.zeros(n, dtype=np.int64)
        self.prior_w = np.full(n, np.inf)
        self.prior_end_s = np.full(n, -np.inf)
        self.sample_seq = np.zeros(n, dtype=np.int64)
        self.sent_s = np.full((n, SAMPLES_REMEMBERED), -np.inf)
        self.over_since_s = np.full(n, np.inf)
        self.refused = 0
        """Lease entries turned down: other incarnation, not newer, unknown sample, or already over."""
        self._earliest_s = np.inf

    def step(self, event: AgentEvent, now_s: float) -> list[Command]:
        """Take one event and say what is to be done."""
        commands = self._end_leases(now_s) if now_s >= self._earliest_s else []
        match event:
            case Measured():
                commands += self._measured(event, now_s)
            case Leased(lease):
                commands += self._leased(lease, now_s)
            case Restarted():
                commands += self._restarted(event)
        return commands

    def next_deadline_s(self) -> float | None:
        """When the next lease, or the shadow of an older epoch's, ends."""
        return None if np.isinf(self._earliest_s) else float(self._earliest_s)

    def set_initial(self) -> list[Command]:
        """The failsafe caps that are written before anything else happens."""
        return self._set(ALL, "start")

    # -- leases ---------------------------------------------------------------------------------------------------

    def _leased(self, lease: LeaseVector, now_s: float) -> list[Command]:
        rows = lease.rows
        index = self.row_index[rows]
        age = self.sample_seq[rows] - lease.sample_seq
        sent_s = self.sent_s[index, lease.sample_seq % SAMPLES_REMEMBERED]
        end_s = sent_s + lease.lease_s
        accepted = (
            (lease.incarnation == self.incarnation[rows])
            & (lease.epoch >= self.epoch[rows])
            & ((lease.seq > self.lease_seq[rows]) | (lease.epoch > self.epoch[rows]))
            & (age >= 0)
            & (age < SAMPLES_REMEMBERED)
            & (end_s > now_s)
            & (lease.cap_w > 0.0)
            & (lease.cap_mhz > 0.0)
        )
        if accepted.all():
            return self._accept(rows, lease, end_s, lease.cap_w, lease.cap_mhz, lease.braking, now_s)
        self.refused += int(accepted.size - accepted.sum())
        some = index[accepted]
        if some.size == 0:
            return []
        return self._accept(
            some,
            lease,
            end_s[accepted],
            lease.cap_w[accepted],
            lease.cap_mhz[accepted],
            lease.braking[accepted],
            now_s,
        )

    def _accept(
        self, rows: Rows, lease: LeaseVector, end_s: Vec, cap_w: Vec, cap_mhz: Vec, braking: Flags, now_s: float
    ) -> list[Command]:
        if lease.epoch > int(self.epoch[rows].min()):
            self._shadow_older_epoch(rows, lease.epoch)
        self.epoch[rows] = lease.epoch
        self.lease_seq[rows] = lease.seq
        self.lease_end_s[rows] = end_s
        self.mode[rows] = Mode.LEASED
        leased_w = np.minimum(cap_w, self.config.nameplate_w[rows])
        mhz = np.clip(cap_mhz, self.config.min_mhz[rows], self.config.max_mhz[rows])
        self.leased_w[rows] = leased_w
        self.braking[rows] = braking
        cap = np.where(self.prior_end_s[rows] > now_s, np.minimum(leased_w, self.prior_w[rows]), leased_w)
        reflexive = np.isfinite(self.over_since_s[rows]) & (now_s - self.over_since_s[rows] >= self.config.reflex_s)
        if reflexive.any():
            mhz = np.where(reflexive, self.config.min_mhz[rows], mhz)
            self.mode[rows] = np.where(reflexive, Mode.REFLEX, Mode.LEASED)
        changed = (cap != self.cap_w[rows]) | (mhz != self.cap_mhz[rows])
        self.cap_w[rows] = cap
        self.cap_mhz[rows] = mhz
        self._earliest_s = self._next_end_s(now_s)
        if not changed.any():
            return []
        return self._set(self.row_index[rows][changed], "leased")

    def _shadow_older_epoch(self, rows: Rows, epoch: int) -> None:
        """An unexpired lease of an older epoch caps the new one until it would have ended."""
        index = self.row_index[rows]
        older = index[(self.epoch[index] < epoch) & (self.mode[index] != Mode.FAILSAFE)]
        self.prior_w[older] = self.cap_w[older]
        self.prior_end_s[older] = self.lease_end_s[older]

    def _end_leases(self, now_s: float) -> list[Command]:
        """A lease that ends never raises anything: min(cap in force, failsafe)."""
        commands: list[Command] = []
        ended = np.flatnonzero((self.mode != Mode.FAILSAFE) & (self.lease_end_s <= now_s))
        if ended.size:
            self._fall_back(ended)
            commands += self._set(ended, "lease ended")
        shadows = np.flatnonzero((self.prior_end_s <= now_s) & np.isfinite(self.prior_w))
        if shadows.size:
            self.prior_w[shadows] = np.inf
            held = shadows[self.mode[shadows] != Mode.FAILSAFE]
            risen = held[self.cap_w[held] != self.leased_w[held]]
            self.cap_w[risen] = self.leased_w[risen]
            if risen.size:
                commands += self._set(risen, "older epoch ended")
        self._earliest_s = self._next_end_s(now_s)
        return commands

    def _fall_back(self, rows: Ints) -> None:
        self.mode[rows] = Mode.FAILSAFE
        self.cap_w[rows] = np.minimum(self.cap_w[rows], self.config.failsafe_w[rows])
        self.leased_w[rows] = self.cap_w[rows]
        self.lease_end_s[rows] = np.inf
        self.braking[rows] = False

    def _restarted(self, event: Restarted) -> list[Command]:
        index = self.row_index[event.rows]
        failsafe_w = self.config.failsafe_w[index]
        self.cap_w[index] = np.where(np.isnan(event.kept_w), failsafe_w, np.minimum(event.kept_w, failsafe_w))
        self.incarnation[index] = event.incarnation
        self._fall_back(index)
        self.cap_mhz[index] = self.config.max_mhz[index]
        self.epoch[index] = 0
        self.lease_seq[index] = 0
        self.sample_seq[index] = 0
        self.sent_s[index] = -np.inf
        self.prior_w[index] = np.inf
        self.over_since_s[index] = np.inf
        return self._set(index, "restarted")

    def _next_end_s(self, now_s: float) -> float:
        earliest = self.lease_end_s.min()
        if np.isfinite(self.prior_w).any():
            earliest = min(earliest, self.prior_end_s[np.isfinite(self.prior_w)].min())
        return float(max(earliest, now_s)) if np.isfinite(earliest) else np.inf

    # -- own readings ---------------------------------------------------------------------------------------------

    def _measured(self, event: Measured, now_s: float) -> list[Command]:
        rows = event.rows
        commands = self._reflex(event, now_s)
        seq = self.sample_seq[rows] + 1
        self.sample_seq[rows] = seq
        self.sent_s[self.row_index[rows], seq % SAMPLES_REMEMBERED] = now_s
        sample = Sampled(
            rows=rows,
            incarnation=self.incarnation[rows].copy(),
            seq=seq,
            age_s=0.0,
            drawn_w=event.drawn_w,
            clock_mhz=event.clock_mhz,
            enforced_w=event.enforced_w,
            epoch=self.epoch[rows].copy(),
            lease_seq=self.lease_seq[rows].copy(),
        )
        commands.append(Publish(sample))
        return commands

    def _reflex(self, event: Measured, now_s: float) -> list[Command]:
        """Lowest clocks on a server that keeps drawing more than its cap; back to its lease when it obeys again."""
        rows = event.rows
        over = event.drawn_w > self.cap_w[rows] + TOLERANCE_W
        if not over.any() and not np.isfinite(self.over_since_s[rows]).any():
            return []
        index = self.row_index[rows]
        since_s = np.where(over, np.minimum(self.over_since_s[index], now_s), np.inf)
        calm = index[~over & (self.mode[index] == Mode.REFLEX)]
        self.over_since_s[index] = since_s
        engaged = index[over & (now_s - since_s >= self.config.reflex_s) & (self.mode[index] != Mode.REFLEX)]
        commands: list[Command] = []
        if engaged.size:
            self.mode[engaged] = Mode.REFLEX
            self.cap_mhz[engaged] = self.config.min_mhz[engaged]
            commands += self._set(engaged, "overdraw")
        if calm.size:
            # The clock stays low until the next lease: without one nobody answers for a raise.
            self.mode[calm] = np.where(np.isfinite(self.lease_end_s[calm]), Mode.LEASED, Mode.FAILSAFE)
        return commands

    def _set(self, rows: Rows, because: str) -> list[Command]:
        cap_w = self.cap_w[rows].copy()
        limit_w = self.config.gpu_limit_w(cap_w, rows)
        return [SetCaps(rows, cap_w, limit_w, self.cap_mhz[rows].copy(), False, because)]
