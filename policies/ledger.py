"""Who may draw what: caps granted, caps possibly still in force, and what proves that a lowering has happened."""

from dataclasses import replace

import numpy as np

from policies.arrays import ALL, Flags, Ints, Rows, Vec
from policies.events import Sampled
from policies.policy import Fleet

TOLERANCE_W = 1.0
"""A limit read back or a reading this much above the cap still counts as obeyed: device resolution."""
UNANSWERED = int(np.iinfo(np.int64).max)
"""A lease sequence that none reaches: the next grant sets the real one."""


class Ledger:
    """The books of one controller epoch; all arrays [n].

    A server counts for the largest cap possibly in force. That falls only when a sample proves that the last grant
    stands: its lease accepted, its limit read back, its power below the cap over a whole sensor window, and not before
    `settle_s`. Silence and time prove nothing.
    """

    def __init__(self, fleet: Fleet, settle_s: float) -> None:
        """Charge everybody the nameplate."""
        n = fleet.nameplate_w.size
        self.fleet = fleet
        self.settle_s = settle_s
        self.granted_w = fleet.failsafe_w.copy()
        self.possible_w = fleet.nameplate_w.copy()
        self.incarnation = np.zeros(n, dtype=np.int64)
        self.sample_seq = np.zeros(n, dtype=np.int64)
        self.sampled_at_s = np.full(n, -np.inf)
        """When the last sample was taken, as far as its age tells."""
        self.heard: Flags = np.zeros(n, dtype=np.bool_)
        """Has sent a sample."""
        self.answered: Flags = np.zeros(n, dtype=np.bool_)
        """Has accepted a lease of this epoch, so that no older one can come into force any more."""
        self.changed_seq = np.full(n, UNANSWERED)
        """Lease that must be seen accepted before the books follow the grant."""
        self.settled_from_s = np.full(n, np.inf)
        self.settled = False
        """Whether `possible_w` equals `granted_w` for all: then a sample has nothing to prove."""
        self._all_heard = False

    def news(self, event: Sampled, now_s: float) -> Sampled | None:
        """What of `event` is news. A repeated or overtaken sample is none.

        Incarnations have no order, so a process not heard of before may be one that ended long ago: its age tells.
        Where the age is wrong the leases of a tick answer a dead process, are refused, and no harm is done.
        """
        rows, at_s = event.rows, now_s - max(event.age_s, 0.0)
        same = self.incarnation[rows] == event.incarnation
        newer = event.seq > self.sample_seq[rows]
        if not (self._all_heard and (same & newer).all()):
            news = np.where(same, newer, at_s >= self.sampled_at_s[rows])
            if not news.all():
                if not news.any():
                    return None
                event, same = _part(event, news, self.heard.size), same[news]
                rows = event.rows
            self._meet(event, same)
        self.sample_seq[rows] = event.seq
        self.sampled_at_s[rows] = at_s
        return event

    def _meet(self, event: Sampled, same: Flags) -> None:
        """Enter servers not heard of before, and processes that have begun anew."""
        index = np.arange(self.heard.size)[event.rows]
        first = index[~self.heard[index]]
        # What a server reports holding may be renewed; its charge stays the nameplate until it answers this epoch.
        self.granted_w[first] = self.fleet.nameplate_w[first]
        self.heard[first] = True
        self._all_heard = bool(self.heard.all())
        changed = index[~same]
        if changed.size:
            self.incarnation[index] = event.incarnation
            # A new process has fallen back to failsafe, but that must be proven like any other lowering.
            self._await(changed)

    def sampled(self, event: Sampled, epoch: int, now_s: float) -> None:
        """Believe what samples prove."""
        if self.settled:
            return
        index = np.arange(self.heard.size)[event.rows]
        self._follow_reports(index, event.enforced_w)
        self.answered[index[event.epoch == epoch]] = True
        granted_w = self.granted_w[index]
        accepted = (event.epoch == epoch) & (event.lease_seq >= self.changed_seq[index])
        plausible = (event.enforced_w >= 0.0) & (event.drawn_w >= 0.0)
        below = (event.enforced_w <= granted_w + TOLERANCE_W) & (event.drawn_w <= granted_w + TOLERANCE_W)
        obeyed = accepted & plausible & below
        # When it was read counts, not when it arrived: late samples come in bursts.
        at_s = now_s - max(event.age_s, 0.0)
        from_s = np.where(obeyed, np.minimum(self.settled_from_s[index], at_s), np.inf)
        self.settled_from_s[index] = from_s
        proven = index[obeyed & (at_s - from_s >= self.settle_s)]
        self.possible_w[proven] = self.granted_w[proven]
        everybody = self._all_heard and bool(self.answered.all())
        self.settled = everybody and np.array_equal(self.possible_w, self.granted_w)

    def _follow_reports(self, index: Ints, enforced_w: Vec) -> None:
        """Until a server has answered this epoch, its grant is what it reports holding, and only falls.

        A first report may be old: an older controller may have lowered the server since, and counts on it.
        """
        waiting = ~self.answered[index]
        if not waiting.any():
            return
        row, held_w = index[waiting], enforced_w[waiting]
        held_w = np.maximum(np.where(np.isnan(held_w), 0.0, held_w), self.fleet.failsafe_w[row])
        lower = held_w < self.granted_w[row]
        self.granted_w[row[lower]] = held_w[lower]
        self._await(row[lower])

    def _await(self, rows: Ints) -> None:
        """Nothing about `rows` is proven before they accept the next lease."""
        self.changed_seq[rows] = UNANSWERED
        self.settled_from_s[rows] = np.inf
        self.settled = False

    def grant(self, granted_w: Vec, seq: int) -> None:
        """Enter caps about to be sent in lease `seq`; they are possibly in force from now on."""
        changed = granted_w != self.granted_w
        renewed = changed | ((self.changed_seq == UNANSWERED) & self.heard)
        if not renewed.any():
            return
        self.changed_seq = np.where(renewed, seq, self.changed_seq)
        self.settled_from_s = np.where(renewed, np.inf, self.settled_from_s)
        self.granted_w = granted_w.copy()
        self.possible_w = np.maximum(self.possible_w, granted_w)
        self.settled = False

    def answering(self) -> Rows:
        """Servers that can be sent a lease: those that have sent a sample to answer."""
        return ALL if self._all_heard else np.flatnonzero(self.heard)

    def charge_w(self) -> Vec:
        """What each server counts for in a budget, whatever it draws [n]."""
        return np.maximum(self.possible_w, self.fleet.failsafe_w)


def _part(event: Sampled, keep: Flags, n: int) -> Sampled:
    """The rows of `event` that are to be kept."""
    return replace(
        event,
        rows=np.arange(n)[event.rows][keep],
        incarnation=event.incarnation[keep],
        seq=event.seq[keep],
        drawn_w=event.drawn_w[keep],
        clock_mhz=event.clock_mhz[keep],
        enforced_w=event.enforced_w[keep],
        epoch=event.epoch[keep],
        lease_seq=event.lease_seq[keep],
    )
