"""The compiled pools under the published simulator's rules against these rules in plain Python."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twin import peer_twin
from tests.twin.peer_cases import drawn_case


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_every_request_is_served_when_the_rules_say(seed):
    case = drawn_case(seed)
    jobs = case.twin().run(case.rows)
    pools = case.pools()
    pools.drain()
    np.testing.assert_allclose(pools.ttft_s, [job.ttft_s for job in jobs], rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(pools.e2e_s, [job.e2e_s for job in jobs], rtol=0.0, atol=1e-9)


def test_the_cases_meet_every_rule(monkeypatch):
    """Without this, a rule that no case reaches would be compared with nothing."""
    met = dict.fromkeys(("pushed out", "urgent", "lent", "returned", "tried again", "stuck"), 0)
    start, borrow, send = peer_twin.Engine.start, peer_twin.PeerTwin.borrow, peer_twin.PeerTwin.send

    def watched_start(engine):
        before, mixed = [*engine.batch], engine.mixed
        start(engine)
        met["pushed out"] += any(work.state == peer_twin.BLOCKED for work in before)
        met["urgent"] += any(work.passed_over >= engine.site.limits.passed_over for work in engine.batch)
        met["returned"] += mixed and not engine.mixed

    def watched_borrow(site, pool, engine):
        met["lent"] += 1
        return borrow(site, pool, engine)

    def watched_send(site, job, source):
        met["tried again"] += job.decode.engine.memory + job.held_bytes > site.limits.memory_bytes
        send(site, job, source)

    monkeypatch.setattr(peer_twin.Engine, "start", watched_start)
    monkeypatch.setattr(peer_twin.PeerTwin, "borrow", watched_borrow)
    monkeypatch.setattr(peer_twin.PeerTwin, "send", watched_send)
    for seed in range(12):
        case = drawn_case(seed)
        met["stuck"] += any(np.isnan(job.e2e_s) for job in case.twin().run(case.rows))
    assert all(met.values()), met
