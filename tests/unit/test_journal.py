"""The journal file: whole or absent, and damage is said, never read."""

import os
import stat
import struct
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from policies.arrays import ALL
from policies.commands import Command, EngageBrake, SetCaps
from policies.errors import DataError
from policies.events import Measured, Ticked
from telemetry.journal import MAGIC, MAX_RECORD_BYTES, JournalReader, JournalWriter, Step
from telemetry.wire import decode, encode

MEASURED = Measured(ALL, np.array([1.0, 2.0]), np.array([np.nan, 1_410.0]), np.array([3.0, 4.0]))
CAPS = SetCaps(np.array([1]), np.array([np.inf]), np.array([300.0]), np.array([1_110.0]), False, "stage 1")


def write(path: Path) -> list[Step]:
    """A journal of three steps; returns them as they should be read."""
    writer = JournalWriter(path, {"run": {"seed": 7}})
    steps: list[tuple[str, object, float, list[Command]]] = [
        ("agents", MEASURED, 1.0, [CAPS]),
        ("controller", Ticked(), 1.0, []),
        ("controller", Ticked(), 2.5, [EngageBrake(0, 288.0, "hot"), CAPS]),
    ]
    for core, event, now_s, commands in steps:
        writer.wrote(core, event, now_s, commands)
    writer.close()
    return [Step(core, now_s, encode(event), tuple(map(encode, commands))) for core, event, now_s, commands in steps]


def read(path: Path) -> list[Step]:
    with JournalReader(path) as reader:
        return list(reader.steps())


def record(content: object) -> bytes:
    """One record as it stands in the file."""
    whole = msgspec.msgpack.encode(content)
    return struct.pack("<II", len(whole), zlib.crc32(whole)) + whole


def refused(path: Path, content: bytes) -> str:
    """The one line with which a file of this content is refused."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_steps_come_back_as_they_were_written(tmp_path: Path):
    path = tmp_path / "run.journal"
    steps = write(path)
    assert read(path) == steps
    with JournalReader(path) as reader:
        assert reader.header["run"] == {"seed": 7}
    event = decode(steps[0].event)
    assert np.array_equal(event.clock_mhz, MEASURED.clock_mhz, equal_nan=True)
    assert [p.name for p in tmp_path.iterdir()] == ["run.journal"]


def test_a_journal_has_its_name_only_once_it_is_whole(tmp_path: Path):
    path = tmp_path / "run.journal"
    writer = JournalWriter(path, {})
    writer.wrote("controller", Ticked(), 1.0, [])
    assert not path.exists()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_journal_leaves_the_one_before(tmp_path: Path):
    path = tmp_path / "run.journal"
    steps = write(path)
    JournalWriter(path, {}).abandon()
    assert read(path) == steps


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="cannot write the journal"):
        JournalWriter(tmp_path / "none" / "run.journal", {})


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(path)
        assert os.read(end, 1 << 16).startswith(MAGIC)
    finally:
        os.close(end)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_journal_cut_off_anywhere_is_refused(tmp_path: Path):
    path = tmp_path / "run.journal"
    write(path)
    whole = path.read_bytes()
    cut = tmp_path / "cut.journal"
    for length in range(len(whole)):
        refused(cut, whole[:length])


def test_any_byte_changed_is_refused(tmp_path: Path):
    path = tmp_path / "run.journal"
    write(path)
    whole = path.read_bytes()
    changed = tmp_path / "changed.journal"
    for at in range(len(whole)):
        refused(changed, whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])


def test_what_stands_behind_the_end_is_refused(tmp_path: Path):
    path = tmp_path / "run.journal"
    write(path)
    assert "record 5 is damaged" in refused(tmp_path / "longer.journal", path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not an overwatt journal"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "is not an overwatt journal"),
        (MAGIC, "the journal is empty"),
        (MAGIC + record({"version": 0}), "journal of another version"),
        (MAGIC + record([1]), "journal of another version"),
        (MAGIC + struct.pack("<II", MAX_RECORD_BYTES + 1, 0), "record 1 is damaged or cut off"),
        (MAGIC + record({"version": 1}) + record(["end", 3]), "record 2 is damaged"),
        (MAGIC + record({"version": 1}) + record(["agents", 1.0, 10**9, []]), "record 2 is damaged"),
        (MAGIC + record({"version": 1}) + record(["agents", "now", b"", []]), "record 2 is damaged"),
        (MAGIC + record({"version": 1}) + record(["agents", 1.0, b"", [1]]), "record 2 is damaged"),
        (MAGIC + record({"version": 1}) + record(7), "record 2 is damaged"),
        (MAGIC + record({"version": 1}), "is cut off after record 1"),
    ],
)
def test_a_file_that_is_no_journal_is_refused(content: bytes, said: str, tmp_path: Path):
    assert said in refused(tmp_path / "x.journal", content)


def test_a_journal_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        JournalReader(tmp_path / "none.journal")
