"""Whatever a recording of power holds: a trace that keeps its word or one clear line."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import DataError
from telemetry.power_intake import HIGHEST_W
from telemetry.power_trace import read_power
from telemetry.trace import FORMATS
from tests.power_samples import SAMPLES

CONTENTS = {name: make() for name, (make, _, _) in SAMPLES.items()}
PIECES = [
    b"",
    b"\n",
    b",",
    b"\r\n",
    b'"',
    b"-",
    b"_",
    b"nan",
    b"inf",
    b"0",
    b"9" * 20,
    b"1e999",
    b"\0",
    b"\xff",
    b"\xc3\xa9",
]
PIECES += [
    b"[N/A]",
    b"[",
    b"]",
    b"{",
    b"}",
    b"<",
    b"&",
    b"#",
    b":::MLLOG ",
    b"<?xml",
    b"<!ENTITY a 'b'>",
    b" ",
    b"\\",
    b"=",
]

edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("power") / "recording"


def reads_or_complains(path: Path, form: str | None = None) -> None:
    """Either a trace whose readings are watts at times in order, or one line that names the file."""
    trace, said = None, path.name
    try:
        trace = read_power(path, form, period_s=1.0)
    except DataError as error:
        said = str(error)
    assert said.isprintable(), "one line, whatever the file holds"
    assert path.name in said
    if trace is None:
        return
    with trace:
        for source in trace.sources:
            time_s, power_w = trace.series(source)
            read_w = power_w[~np.isnan(power_w)]
            assert len(read_w) > 0
            assert ((read_w > 0.0) & (read_w <= HIGHEST_W)).all()
            assert (np.diff(time_s) >= 0.0).all()
            assert source.isprintable()


@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncation_reads_or_complains(name, path: Path) -> None:
    content = CONTENTS[name]
    for end in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:end])
        reads_or_complains(path)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=60)
@given(edits=edits)
def test_every_damage_reads_or_complains(name, path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    content = CONTENTS[name]
    for place, length, piece in edits:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + length :]
    path.write_bytes(content)
    reads_or_complains(path)
    reads_or_complains(path, SAMPLES[name][1])


@pytest.mark.parametrize("name", SAMPLES)
def test_lines_may_be_lost_doubled_or_swapped(name, path: Path) -> None:
    lines = CONTENTS[name].splitlines(keepends=True)
    for at in range(0, len(lines), max(1, len(lines) // 30)):
        for changed in (
            lines[:at] + lines[at + 1 :],
            lines[:at] + 2 * lines[at : at + 1] + lines[at + 1 :],
            lines[:at] + lines[at : at + 2][::-1] + lines[at + 2 :],
        ):
            path.write_bytes(b"".join(changed))
            reads_or_complains(path)


@pytest.mark.parametrize("form", [each.name for each in FORMATS if each.kind == "power"])
def test_a_wrong_format_that_is_forced_reads_or_complains(form, path: Path) -> None:
    for content in (*CONTENTS.values(), b"", b"\n" * 5000, b"\xff" * 5000, b"PAR1" * 20):
        path.write_bytes(content)
        reads_or_complains(path, form)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_damaged_packing_reads_or_complains(pack, path: Path) -> None:
    packed = pack(CONTENTS["nodes"] * 20)
    for at in range(0, len(packed), max(1, len(packed) // 60)):
        path.write_bytes(packed[:at])
        reads_or_complains(path)
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :])
        reads_or_complains(path)
