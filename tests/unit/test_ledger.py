"""What proves that a cap has fallen, and what does not."""

from dataclasses import replace

import numpy as np
import pytest

from policies.arrays import ALL
from policies.events import Sampled
from policies.ledger import Ledger
from tests.cores import FAILSAFE_W, NAMEPLATE_W, fleet_of, ints, spread

EPOCH = 2


def sample(n: int = 1, **changes: object) -> Sampled:
    """A sample of servers that obey a lease of 5,000 W of epoch 2, sequence 1."""
    plain = Sampled(
        rows=ALL,
        incarnation=ints(77, n),
        seq=ints(1, n),
        age_s=0.0,
        drawn_w=spread(3_000.0, n),
        clock_mhz=spread(1_980.0, n),
        enforced_w=spread(5_000.0, n),
        epoch=ints(EPOCH, n),
        lease_seq=ints(1, n),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


class Books:
    """A ledger of `n` servers that were heard of at 0 s and granted 5,000 W in lease 1."""

    def __init__(self, n: int = 1) -> None:
        self.n = n
        self.ledger = Ledger(fleet_of(n), settle_s=2.0)
        self.seq = 1
        self.take(0.0, epoch=ints(0, n), lease_seq=ints(0, n))
        self.ledger.grant(spread(5_000.0, n), 1)

    def take(self, now_s: float, **changes: object) -> bool:
        """A sample arrives, by default the next one; whether it was news."""
        changes.setdefault("seq", ints(self.seq, self.n))
        self.seq += 1
        news = self.ledger.news(sample(self.n, **changes), now_s)
        if news is not None:
            self.ledger.sampled(news, EPOCH, now_s)
        return news is not None

    @property
    def charge_w(self) -> float:
        return float(self.ledger.charge_w()[0])

    def settle(self) -> None:
        self.take(1.0)
        self.take(3.0)
        assert self.charge_w == 5_000.0


def test_who_has_never_been_seen_is_charged_the_nameplate() -> None:
    ledger = Ledger(fleet_of(2), 2.0)
    assert ledger.charge_w().tolist() == [NAMEPLATE_W] * 2
    assert np.asarray(ledger.answering()).tolist() == []


def test_a_lowering_is_proven_by_two_samples_a_settling_time_apart() -> None:
    books = Books()
    books.take(1.0)
    books.take(2.9)
    assert books.charge_w == NAMEPLATE_W
    books.take(3.0)
    assert books.charge_w == 5_000.0
    assert books.ledger.settled


DOUBTS = {
    "an older lease": {"lease_seq": ints(0, 1)},
    "another epoch": {"epoch": ints(1, 1)},
    "a limit above the cap": {"enforced_w": spread(5_002.0, 1)},
    "a limit that cannot be read": {"enforced_w": spread(np.nan, 1)},
    "an impossible limit": {"enforced_w": spread(-1.0, 1)},
    "a draw above the cap": {"drawn_w": spread(5_002.0, 1)},
    "a draw that is not known": {"drawn_w": spread(np.nan, 1)},
    "an impossible draw": {"drawn_w": spread(-1.0, 1)},
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_nothing_is_proven_by(doubt: str) -> None:
    books = Books()
    books.ledger.answered[:] = True
    for now_s in range(1, 60):
        books.take(float(now_s), **DOUBTS[doubt])
    assert books.charge_w == NAMEPLATE_W


@pytest.mark.parametrize("doubt", DOUBTS)
def test_the_proof_begins_again_after(doubt: str) -> None:
    books = Books()
    books.ledger.answered[:] = True
    books.take(1.0)
    books.take(2.0, **DOUBTS[doubt])
    books.take(3.5)
    assert books.charge_w == NAMEPLATE_W
    books.take(5.5)
    assert books.charge_w == 5_000.0


def test_silence_proves_nothing() -> None:
    books = Books()
    books.take(1.0)
    assert books.charge_w == NAMEPLATE_W
    books.take(500.0)
    assert books.charge_w == 5_000.0


def test_a_repeated_sample_is_no_second_look() -> None:
    books = Books()
    assert books.take(1.0, seq=ints(5, 1))
    assert not books.take(9.0, seq=ints(5, 1))
    assert not books.take(9.0, seq=ints(4, 1))
    assert books.charge_w == NAMEPLATE_W


def test_a_burst_of_late_samples_proves_only_the_time_between_their_readings() -> None:
    books = Books()
    books.take(50.0, age_s=30.0)
    books.take(60.0, age_s=38.5)
    assert books.charge_w == NAMEPLATE_W, "read at 20 s and 21.5 s"
    books.take(60.0, age_s=38.0)
    assert books.charge_w == 5_000.0


def test_an_age_below_zero_is_no_reading_from_the_future() -> None:
    books = Books()
    books.take(1.0)
    books.take(1.5, age_s=-30.0)
    assert books.charge_w == NAMEPLATE_W


def test_a_raise_is_charged_before_it_is_sent() -> None:
    books = Books()
    books.settle()
    books.ledger.grant(spread(8_000.0, 1), 2)
    assert books.charge_w == 8_000.0
    books.ledger.grant(spread(6_000.0, 1), 3)
    assert books.charge_w == 8_000.0


def test_a_lowering_is_proven_by_its_own_lease_or_a_later_one() -> None:
    books = Books()
    books.settle()
    books.ledger.grant(spread(4_500.0, 1), 7)
    low = spread(4_500.0, 1)
    for now_s in range(10, 20):
        books.take(float(now_s), enforced_w=low, lease_seq=ints(6, 1))
    assert books.charge_w == 5_000.0
    books.take(20.0, enforced_w=low, lease_seq=ints(9, 1))
    books.take(22.0, enforced_w=low, lease_seq=ints(9, 1))
    assert books.charge_w == 4_500.0


def test_nobody_is_charged_less_than_failsafe() -> None:
    books = Books()
    books.ledger.grant(spread(1_000.0, 1), 2)
    books.take(1.0, enforced_w=spread(1_000.0, 1), drawn_w=spread(900.0, 1), lease_seq=ints(2, 1))
    books.take(9.0, enforced_w=spread(1_000.0, 1), drawn_w=spread(900.0, 1), lease_seq=ints(2, 1))
    assert books.ledger.possible_w[0] == 1_000.0
    assert books.charge_w == FAILSAFE_W


class TestReports:
    def test_what_is_reported_may_be_renewed(self) -> None:
        ledger = Ledger(fleet_of(3), 2.0)
        event = sample(3, enforced_w=np.array([1_000.0, 6_000.0, 99_000.0]), epoch=ints(1, 3))
        news = ledger.news(event, 0.0)
        assert news is not None
        ledger.sampled(news, EPOCH, 0.0)
        assert ledger.granted_w.tolist() == [FAILSAFE_W, 6_000.0, NAMEPLATE_W]
        assert ledger.charge_w().tolist() == [NAMEPLATE_W] * 3

    def test_an_unread_limit_is_renewed_at_failsafe(self) -> None:
        books = Books()
        books.take(1.0, epoch=ints(1, 1), enforced_w=spread(np.nan, 1))
        assert books.ledger.granted_w[0] == FAILSAFE_W

    def test_until_a_lease_is_accepted_grants_follow_reports_down_but_not_up(self) -> None:
        books = Books()
        old = {"epoch": ints(1, 1), "lease_seq": ints(50, 1)}
        books.take(1.0, enforced_w=spread(4_400.0, 1), **old)
        assert books.ledger.granted_w[0] == 4_400.0
        books.take(2.0, enforced_w=spread(8_000.0, 1), **old)
        assert books.ledger.granted_w[0] == 4_400.0

    def test_the_first_sample_that_accepts_is_followed_too_and_none_after(self) -> None:
        books = Books()
        books.take(1.0, enforced_w=spread(4_300.0, 1))
        assert books.ledger.granted_w[0] == 4_300.0
        books.take(2.0, enforced_w=spread(4_100.0, 1))
        assert books.ledger.granted_w[0] == 4_300.0


class TestProcesses:
    def test_a_restarted_server_proves_itself_again(self) -> None:
        books = Books()
        books.settle()
        again = {"incarnation": ints(78, 1), "epoch": ints(0, 1), "lease_seq": ints(0, 1)}
        books.take(10.0, seq=ints(1, 1), **again)
        assert books.charge_w == 5_000.0, "a restart lowers nothing that is not proven"
        books.ledger.grant(spread(4_500.0, 1), 40)
        fresh = {"incarnation": ints(78, 1), "enforced_w": spread(4_000.0, 1)}
        books.take(11.0, seq=ints(2, 1), lease_seq=ints(39, 1), **fresh)
        books.take(13.0, seq=ints(3, 1), lease_seq=ints(39, 1), **fresh)
        assert books.charge_w == 5_000.0
        books.take(14.0, seq=ints(4, 1), lease_seq=ints(40, 1), **fresh)
        books.take(16.0, seq=ints(5, 1), lease_seq=ints(40, 1), **fresh)
        assert books.charge_w == 4_500.0

    def test_a_sample_of_the_process_before_is_no_news(self) -> None:
        books = Books()
        books.take(10.0, seq=ints(1, 1), incarnation=ints(78, 1))
        assert not books.take(12.0, seq=ints(9, 1), age_s=5.0)
        assert books.ledger.incarnation[0] == 78

    def test_a_process_mistaken_for_the_latest_is_corrected_by_the_next_sample(self) -> None:
        """Its age was not known. The real one must never be shut out."""
        books = Books()
        books.take(10.0, seq=ints(5, 1), incarnation=ints(78, 1))
        assert books.take(11.0, seq=ints(9, 1))
        assert books.take(12.0, seq=ints(6, 1), incarnation=ints(78, 1))
        assert books.ledger.incarnation[0] == 78
        assert books.ledger.sample_seq[0] == 6

    def test_flapping_processes_prove_nothing(self) -> None:
        books = Books()
        for k in range(1, 30):
            books.take(float(k), incarnation=ints(77 + k % 2, 1), lease_seq=ints(999, 1))
        assert books.charge_w == NAMEPLATE_W


def test_rows_that_are_no_news_do_not_hold_up_the_others() -> None:
    books = Books(3)
    books.take(1.0, seq=np.array([5, 2, 5]))
    books.take(3.5, seq=np.array([6, 2, 5]))
    assert books.ledger.possible_w.tolist() == [5_000.0, NAMEPLATE_W, NAMEPLATE_W]
    assert books.ledger.sample_seq.tolist() == [6, 2, 5]


def test_only_servers_heard_of_are_sent_leases() -> None:
    ledger = Ledger(fleet_of(3), 2.0)
    part = sample(2, rows=np.array([2, 0]))
    assert ledger.news(part, 0.0) is part
    assert np.asarray(ledger.answering()).tolist() == [0, 2]
    ledger.news(sample(1, rows=np.array([1])), 0.0)
    assert ledger.answering() == ALL
