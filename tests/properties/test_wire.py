"""What is written down comes back the same, and nonsense comes back as one kind of error."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from policies import commands, events
from policies.arrays import ALL
from policies.errors import WireError
from telemetry.wire import decode, encode

K = 3
watts = arrays.arrays(np.float64, K, elements=st.floats(allow_nan=True, allow_infinity=True))
counts = arrays.arrays(np.int64, K)
flags = arrays.arrays(np.bool_, K)
rows = st.one_of(st.just(ALL), arrays.arrays(np.intp, K, elements=st.integers(0, 10_000)))
number = st.floats(allow_nan=False)
whole = st.integers(-(2**63), 2**63 - 1)
words = st.text(max_size=30)

lease = st.builds(
    events.LeaseVector, rows, whole, whole, number, incarnation=counts, sample_seq=counts, cap_w=watts, cap_mhz=watts,
    braking=flags,
)  # fmt: skip
sampled = st.builds(
    events.Sampled, rows, counts, counts, number, watts, watts, enforced_w=watts, epoch=counts, lease_seq=counts
)
KINDS = {
    events.Ticked: st.builds(events.Ticked),
    events.Sampled: sampled,
    events.LeaseVector: lease,
    events.Leased: st.builds(events.Leased, lease),
    events.Measured: st.builds(events.Measured, rows, watts, watts, watts),
    events.Restarted: st.builds(events.Restarted, rows, counts, watts, counts),
    events.Metered: st.builds(events.Metered, whole, number, number),
    events.BudgetSet: st.builds(events.BudgetSet, whole, number),
    commands.GrantLeases: st.builds(commands.GrantLeases, lease),
    commands.SetCaps: st.builds(commands.SetCaps, rows, watts, watts, watts, st.booleans(), words),
    commands.EngageBrake: st.builds(commands.EngageBrake, whole, number, words),
    commands.ReleaseBrake: st.builds(commands.ReleaseBrake, whole, words),
    commands.Publish: st.builds(commands.Publish, sampled),
    commands.Refuse: st.builds(commands.Refuse, words),
}


def same(one: object, other: object) -> bool:
    """Equal down to the bits, NaN included; `==` on arrays is ambiguous."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )
    return type(one) is type(other) and one == other


def test_every_event_and_command_is_covered() -> None:
    declared = {
        each
        for module in (events, commands)
        for each in vars(module).values()
        if isinstance(each, type) and dataclasses.is_dataclass(each)
    }
    assert declared == set(KINDS)


@given(value=st.one_of(*KINDS.values()))
def test_what_is_written_comes_back_the_same(value: object) -> None:
    payload = encode(value)
    back = decode(payload)
    assert same(value, back)
    assert encode(back) == payload


@given(value=sampled)
def test_what_comes_back_may_be_written_to(value: events.Sampled) -> None:
    back = decode(encode(value))
    back.drawn_w[0] = 1.0
    assert back.drawn_w[0] == 1.0


@given(value=st.one_of(*KINDS.values()), cut=st.integers(1, 40))
def test_a_message_cut_short_is_a_wire_error(value: object, cut: int) -> None:
    payload = encode(value)
    with pytest.raises(WireError):
        decode(payload[: max(0, len(payload) - cut)])


@pytest.mark.parametrize(
    "nonsense",
    [
        {"kind": "Nothing", "fields": []},
        {"kind": "Ticked", "fields": [1]},
        {"kind": "Metered", "fields": [1, 2.0]},
        {"kind": ["Ticked"], "fields": []},
        {"kind": "Refuse"},
        {"fields": []},
        {"kind": "Publish", "fields": [{"array": "<f8", "bytes": b"123"}]},
        {"kind": "Publish", "fields": [{"array": "O", "bytes": b""}]},
        {"kind": "Publish", "fields": [{"array": "<f8", "bytes": 7}]},
    ],
)
def test_nonsense_is_a_wire_error(nonsense: object) -> None:
    with pytest.raises(WireError, match="not an event or command"):
        decode(msgspec.msgpack.encode(nonsense))


@given(payload=st.binary(max_size=60))
def test_noise_is_a_wire_error_or_a_plain_value_but_never_a_crash(payload: bytes) -> None:
    try:
        value = decode(payload)
    except WireError:
        return
    assert not isinstance(value, tuple(KINDS)) or encode(value)
