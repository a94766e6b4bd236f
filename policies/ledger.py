"""Who may draw what: caps granted, caps possibly still in force, and what proves that a lowering has happened."""

import numpy as np

from policies.arrays import ALL, Ints, Rows, Vec
from policies.events import Sampled
from policies.policy import Fleet

TOLERANCE_W = 1.0
"""A limit read back or a reading this much above the cap still counts as obeyed: device resolution."""


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
        self.heard = np.zeros(n, dtype=np.bool_)
        """Has sent a sample."""
        self.answered = np.zeros(n, dtype=np.bool_)
        """Has accepted a lease of this epoch, so that no older one can come into force any more."""
        self.changed_seq = np.ones(n, dtype=np.int64)
        """Lease that must be seen accepted before the books follow the grant."""
        self.settled_from_s = np.full(n, np.inf)
        self.settled = False
        """Whether `possible_w` equals `granted_w` for all: then a sample has nothing to prove."""
        self._all_heard = False

    def sampled(self, event: Sampled, epoch: int, now_s: float) -> None:
        """Believe what samples prove."""
        rows = event.rows
        incarnation_before = self.incarnation[rows]
        same = incarnation_before == event.incarnation
        if not (same.all() and self._all_heard):
            self._new_processes(event, same)
        self.sample_seq[rows] = event.seq
        if not self.settled:
            self._settle(event, epoch, now_s)

    def _new_processes(self, event: Sampled, same: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> None:
        index = np.arange(self.heard.size)[event.rows]
        first = index[~self.heard[index]]
        # What a server reports holding may be renewed; its charge stays the nameplate until it answers this epoch.
        held_w = event.enforced_w[~self.heard[index]]
        held_w = np.where(np.isnan(held_w), self.fleet.failsafe_w[first], held_w)
        self.granted_w[first] = np.clip(held_w, self.fleet.failsafe_w[first], self.fleet.nameplate_w[first])
        self.heard[first] = True
        changed = index[~same]
        self.incarnation[index] = event.incarnation
        # A new process has fallen back to failsafe, but that must be proven like any other lowering.
        self.changed_seq[changed] = np.iinfo(np.int64).max
        self.settled_from_s[changed] = np.inf
        self.settled = False
        self._all_heard = bool(self.heard.all())

    def _settle(self, event: Sampled, epoch: int, now_s: float) -> None:
        index = np.arange(self.heard.size)[event.rows]
        accepted = (event.epoch == epoch) & (event.lease_seq >= self.changed_seq[index])
        granted_w = self.granted_w[index]
        obeyed = accepted & (event.enforced_w <= granted_w + TOLERANCE_W) & (event.drawn_w <= granted_w + TOLERANCE_W)
        self.answered[index[event.epoch == epoch]] = True
        from_s = np.where(obeyed, np.minimum(self.settled_from_s[index], now_s), np.inf)
        self.settled_from_s[index] = from_s
        proven = index[obeyed & (now_s - from_s >= self.settle_s)]
        self.possible_w[proven] = self.granted_w[proven]
        self.settled = bool(np.array_equal(self.possible_w, self.granted_w)) and self._all_heard

    def grant(self, granted_w: Vec, seq: int) -> None:
        """Enter caps about to be sent in lease `seq`; they are possibly in force from now on."""
        changed = granted_w != self.granted_w
        awaited = self.changed_seq == np.iinfo(np.int64).max
        renewed = changed | (awaited & self.heard)
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


__all__ = ["Ints", "Ledger"]
