"""What servers do by themselves: hold leases, fall back when one ends, refuse what is stale, brake on overdraw."""

from dataclasses import dataclass, replace

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
        self.leased_mhz = config.max_mhz.copy()
        self.lease_end_s = np.full(n, np.inf)
        self.braking = np.zeros(n, dtype=np.bool_)
        self.epoch = np.zeros(n, dtype=np.int64)
        self.lease_seq = np.zeros(n, dtype=np.int64)
        self.prior_w = np.full(n, np.inf)
        self.prior_mhz = np.full(n, np.inf)
        self.prior_end_s = np.full(n, -np.inf)
        """Until when what stood before the present epoch caps it."""
        self._held_back = False
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
        if lease.cap_w.size == 0 or not 0.0 < lease.lease_s < np.inf:
            # A lease that never ends is none.
            self.refused += lease.cap_w.size
            return []
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
        if not accepted.all():
            self.refused += int(accepted.size - accepted.sum())
            if not accepted.any():
                return []
            lease, end_s = _part(lease, index, accepted), end_s[accepted]
        return self._accept(lease, end_s, now_s)

    def _accept(self, lease: LeaseVector, end_s: Vec, now_s: float) -> list[Command]:
        rows = lease.rows
        if lease.epoch > int(self.epoch[rows].min()):
            self._hold_back(rows, lease, now_s)
        self.epoch[rows] = lease.epoch
        self.lease_seq[rows] = lease.seq
        self.lease_end_s[rows] = end_s
        self.mode[rows] = Mode.LEASED
        leased_w = np.minimum(lease.cap_w, self.config.nameplate_w[rows])
        mhz = np.clip(lease.cap_mhz, self.config.min_mhz[rows], self.config.max_mhz[rows])
        self.leased_w[rows] = leased_w
        self.leased_mhz[rows] = mhz
        self.braking[rows] = lease.braking
        cap = leased_w
        if self._held_back:
            held = self.prior_end_s[rows] > now_s
            cap = np.where(held, np.minimum(leased_w, self.prior_w[rows]), leased_w)
            mhz = np.where(held, np.minimum(mhz, self.prior_mhz[rows]), mhz)
        reflexive = now_s - self.over_since_s[rows] >= self.config.reflex_s
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

    def _hold_back(self, rows: Rows, lease: LeaseVector, now_s: float) -> None:
        """A new epoch raises nothing until it has seen what stands.

        An unexpired lease of an older epoch caps it until it would have ended; and its own first leases may answer
        samples from before, which report more than stands by now, so what stands caps them until the last of those
        has ended.
        """
        index = self.row_index[rows]
        row = index[self.epoch[index] < lease.epoch]
        leased = np.isfinite(self.lease_end_s[row])
        standing_w = np.maximum(self.cap_w[row], self.config.failsafe_w[row])
        end_s = np.maximum(self.prior_end_s[row], now_s + lease.lease_s)
        self.prior_w[row] = np.where(leased, self.cap_w[row], standing_w)
        self.prior_mhz[row] = np.where(leased, self.leased_mhz[row], np.inf)
        self.prior_end_s[row] = np.where(leased, np.maximum(end_s, self.lease_end_s[row]), end_s)
        self._held_back = True

    def _end_leases(self, now_s: float) -> list[Command]:
        """A lease that ends never raises anything: min(cap in force, failsafe)."""
        commands: list[Command] = []
        ended = np.flatnonzero((self.mode != Mode.FAILSAFE) & (self.lease_end_s <= now_s))
        if ended.size:
            self._fall_back(ended)
            commands += self._set(ended, "lease ended")
        over = np.flatnonzero((self.prior_end_s <= now_s) & np.isfinite(self.prior_w)) if self._held_back else ended[:0]
        if over.size:
            self.prior_w[over] = np.inf
            self._held_back = bool(np.isfinite(self.prior_w).any())
            held = over[np.isfinite(self.lease_end_s[over])]
            mhz = np.where(self.mode[held] == Mode.REFLEX, self.cap_mhz[held], self.leased_mhz[held])
            changed = (self.cap_w[held] != self.leased_w[held]) | (self.cap_mhz[held] != mhz)
            self.cap_w[held] = self.leased_w[held]
            self.cap_mhz[held] = mhz
            if changed.any():
                commands += self._set(held[changed], "older epoch ended")
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
        self.epoch[index] = event.kept_epoch
        self.lease_seq[index] = 0
        self.sample_seq[index] = 0
        self.sent_s[index] = -np.inf
        self.prior_w[index] = np.inf
        self.prior_end_s[index] = -np.inf
        self._held_back = bool(np.isfinite(self.prior_w).any())
        self.over_since_s[index] = np.inf
        return self._set(index, "restarted")

    def _next_end_s(self, now_s: float) -> float:
        earliest = self.lease_end_s.min()
        if self._held_back:
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
        # A reading that is missing is no proof that the server obeys again.
        obeys = event.drawn_w <= self.cap_w[rows] + TOLERANCE_W
        since_s = np.where(over, np.minimum(self.over_since_s[index], now_s), self.over_since_s[index])
        since_s[obeys] = np.inf
        calm = index[obeys & (self.mode[index] == Mode.REFLEX)]
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


def _part(lease: LeaseVector, index: Ints, keep: Flags) -> LeaseVector:
    """The entries of `lease` that are to be kept."""
    return replace(
        lease,
        rows=index[keep],
        incarnation=lease.incarnation[keep],
        sample_seq=lease.sample_seq[keep],
        cap_w=lease.cap_w[keep],
        cap_mhz=lease.cap_mhz[keep],
        braking=lease.braking[keep],
    )
