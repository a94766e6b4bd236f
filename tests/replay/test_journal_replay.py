"""A recorded journal through fresh cores: the same commands byte for byte, and a difference is named."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from policies import POLICIES
from policies.commands import Command, EngageBrake, GrantLeases, SetCaps
from policies.errors import ConfigError, DataError
from policies.events import Ticked
from sim_backend.journal_replay import verify
from sim_backend.replay import ReplayJob, run_replay
from sim_backend.site import IN_BAND, OUT_OF_BAND, Actuation, Guarantee
from telemetry.journal import MAGIC
from telemetry.wire import decode, encode
from tests.twin.small_site import WaveSource, site_of, write_trace

WAVES = ((60.0, 0.2), (120.0, 1.5), (60.0, 0.2))
PATHS = {
    "out-of-band": (OUT_OF_BAND, Guarantee.REACTIVE),
    "in-band": (IN_BAND, Guarantee.REACTIVE),
    "hard": (IN_BAND, Guarantee.HARD),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trace(tmp_path_factory.mktemp("traces") / "trace.csv", WaveSource(WAVES))


def record(path: Path, trace: Path, policy: str, actuation: Actuation, guarantee: Guarantee) -> Path:
    """The journal of one run, tight enough for caps and brakes."""
    site = site_of(26_000.0, actuation, guarantee)
    run_replay(
        ReplayJob(site, str(trace), (policy,), (guarantee.value,), (50.0,), seed=3, journal=path), lambda *_: None
    )
    return path


@pytest.fixture(scope="module", params=PATHS)
def journal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trace: Path) -> Path:
    return record(tmp_path_factory.mktemp(request.param) / "run.journal", trace, "polca", *PATHS[request.param])


def records_of(path: Path) -> list[Any]:
    """What a journal holds, header first and end last."""
    content, at, found = path.read_bytes(), len(MAGIC), []
    while at < len(content):
        (length, _) = struct.unpack_from("<II", content, at)
        found.append(msgspec.msgpack.decode(content[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def rewritten(path: Path, records: list[Any]) -> Path:
    """A journal of these records with right check sums: only the contents are wrong."""
    parts = [MAGIC]
    for content in records:
        whole = msgspec.msgpack.encode(content)
        parts += [struct.pack("<II", len(whole), zlib.crc32(whole)), whole]
    path.write_bytes(b"".join(parts))
    return path


def first_step(records: list[Any], kind: type) -> tuple[int, int]:
    """Record and place of the first command of a kind."""
    for number, step in enumerate(records[1:-1], start=1):
        for place, payload in enumerate(step[3]):
            if isinstance(decode(payload), kind):
                return number, place
    raise AssertionError(f"no {kind.__name__} was recorded")


def changed(tmp_path: Path, journal: Path, kind: type, change: Callable[[Any], Command | bytes]) -> tuple[int, str]:
    """Alter the first command of a kind; the step, and what is said of it."""
    records = records_of(journal)
    number, place = first_step(records, kind)
    after = change(decode(records[number][3][place]))
    records[number][3][place] = after if isinstance(after, bytes) else encode(after)
    said = verify(rewritten(tmp_path / "changed.journal", records))
    assert said is not None
    assert "\n" not in said
    return number, said


# -- the same ---------------------------------------------------------------------------------------------------------


def test_a_recorded_journal_gives_the_same_commands(journal: Path):
    assert len(records_of(journal)) > 300
    assert verify(journal) is None
    assert verify(journal) is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "polca"])
def test_every_policy_and_path_can_be_replayed(policy: str, path: str, trace: Path, tmp_path: Path):
    assert verify(record(tmp_path / "run.journal", trace, policy, *PATHS[path])) is None


def test_recording_twice_gives_the_same_bytes_and_changes_no_result(trace: Path, tmp_path: Path):
    journals = [record(tmp_path / f"{k}.journal", trace, "polca", *PATHS["hard"]).read_bytes() for k in range(2)]
    assert journals[0] == journals[1]


def test_a_journal_holds_every_step_of_every_core(journal: Path):
    steps = records_of(journal)[1:-1]
    ticks = [step for step in steps if step[0] == "controller" and type(decode(step[2])).__name__ == "Ticked"]
    assert [step[1] for step in ticks] == [float(k) for k in range(1, len(ticks) + 1)]
    assert len(ticks) > 0.95 * sum(length_s for length_s, _ in WAVES)
    assert [step[1] for step in steps] == sorted(step[1] for step in steps)


# -- a difference -----------------------------------------------------------------------------------------------------


def test_a_changed_cap_is_named_with_its_step_and_server(tmp_path: Path, journal: Path):
    def lower(command: SetCaps) -> SetCaps:
        command.cap_mhz[1] -= 15.0
        return command

    number, said = changed(tmp_path, journal, SetCaps, lower)
    assert said.startswith(f"step {number}, ")
    assert "command 1, SetCaps.cap_mhz[1] was " in said


def test_a_changed_lease_is_named_to_the_field(tmp_path: Path, trace: Path):
    journal = record(tmp_path / "hard.journal", trace, "polca", *PATHS["hard"])

    def longer(command: GrantLeases) -> GrantLeases:
        return GrantLeases(replace(command.lease, lease_s=11.0))

    number, said = changed(tmp_path, journal, GrantLeases, longer)
    assert said.startswith(f"step {number}, controller at ")
    assert said.endswith("GrantLeases.lease.lease_s was 11.0, is 10.0")


def test_a_flipped_byte_of_any_command_is_noticed(tmp_path: Path, journal: Path):
    records = records_of(journal)
    number, place = first_step(records, SetCaps)
    payload: bytes = records[number][3][place]
    for at in range(0, len(payload), 7):
        records[number][3][place] = payload[:at] + bytes([payload[at] ^ 0x10]) + payload[at + 1 :]
        said = verify(rewritten(tmp_path / "flipped.journal", records))
        assert said is not None
        assert said.startswith(f"step {number}, ")


def test_a_missing_command_is_noticed(tmp_path: Path, journal: Path):
    records = records_of(journal)
    number, place = first_step(records, SetCaps)
    del records[number][3][place]
    said = verify(rewritten(tmp_path / "missing.journal", records))
    assert said is not None
    assert "commands were recorded" in said


def test_another_kind_of_command_is_named(tmp_path: Path, journal: Path):
    _, said = changed(tmp_path, journal, SetCaps, lambda _: EngageBrake(0, 288.0, "no"))
    assert said.endswith("was EngageBrake, is SetCaps")


def test_a_difference_between_versions_is_said(tmp_path: Path, journal: Path):
    records = records_of(journal)
    records[0]["versions"]["numpy"] = "1.0"
    assert verify(rewritten(tmp_path / "old.journal", records)) is None
    number, place = first_step(records, SetCaps)
    del records[number][3][place]
    said = verify(rewritten(tmp_path / "old.journal", records))
    assert said is not None
    assert said.endswith(f"(recorded with numpy 1.0, not {np.__version__})")


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
def test_a_truncated_journal_is_wrong_data(share: float, tmp_path: Path, journal: Path):
    content = journal.read_bytes()
    path = tmp_path / "cut.journal"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"cut\.journal: "):
        verify(path)


def test_a_garbled_journal_is_wrong_data(tmp_path: Path, journal: Path, seed: int):
    content = bytearray(journal.read_bytes())
    rng = np.random.default_rng(seed)
    path = tmp_path / "garbled.journal"
    for at in rng.integers(0, len(content), 10).tolist():
        garbled = content.copy()
        garbled[at] ^= 0xFF
        path.write_bytes(garbled)
        with pytest.raises(DataError, match=r"garbled\.journal: "):
            verify(path)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (["agents", 1.0, b"\xc1", []], "step 1 holds not an event or command"),
        (["agents", 1.0, encode(EngageBrake(0, 288.0, "no")), []], "step 1 is none that 'agents' can take"),
        (["nobody", 1.0, encode(Ticked()), []], "step 1 is none that 'nobody' can take"),
    ],
)
def test_a_step_that_no_core_can_take_is_wrong_data(step: list[Any], said: str, tmp_path: Path, journal: Path):
    records = records_of(journal)
    with pytest.raises(DataError) as caught:
        verify(rewritten(tmp_path / "x.journal", [records[0], step, ["end", 1]]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_events_of_another_fleet_are_wrong_data(tmp_path: Path, journal: Path):
    records = records_of(journal)
    records[0]["run"]["add_pct"] = 0.0
    with pytest.raises(DataError, match="does not fit the run that the header describes"):
        verify(rewritten(tmp_path / "x.journal", records))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda header: header.pop("run"), DataError),
        (lambda header: header["run"].pop("policy"), DataError),
        (lambda header: header["run"].update(seed="seven"), DataError),
        (lambda header: header["run"].update(policy="pocla"), ConfigError),
        (lambda header: header["run"]["site"]["servers"][0].update(profile="none"), ConfigError),
    ],
)
def test_a_header_that_describes_no_run_is_refused(
    change: Callable[[dict[str, Any]], object], error: type[Exception], tmp_path: Path, journal: Path
):
    records = records_of(journal)
    change(records[0])
    with pytest.raises(error) as caught:
        verify(rewritten(tmp_path / "x.journal", records))
    assert "\n" not in str(caught.value)
