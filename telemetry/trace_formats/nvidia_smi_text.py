"""`nvidia-smi -q` as text, one snapshot or many, also among other output (captures of several programs in one file)."""

import re
from collections.abc import Iterator
from pathlib import Path

from telemetry.power_rows import PowerRows
from telemetry.trace_file import line_blocks, printable
from telemetry.trace_formats.snapshots import BLOCK_ROWS, DRAWS, Snapshots, asctime_s

_MARKS = (b"NVSMI LOG", b"nvidia_gpu_exporter GPU capture")
_LINE = re.compile(
    rb"^(?:=+(?P<log>NVSMI LOG)=+|Timestamp +: (?P<time>[^\n]*)|GPU (?P<bus>[0-9A-Fa-f]{8}:\S+)|"
    rb" {4}GPU UUID +: (?P<uuid>[^\n]*)| {4}(?P<section>\w[^:\n]*)|"
    rb" {8}(?P<label>(?:Instantaneous |Average )?Power Draw) +: (?P<draw>[^\n]*)|(?P<end>#{20,}[^\n]*))$",
    re.MULTILINE,
)
_READINGS = ("Power Readings", "GPU Power Readings")


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the text holds a log of nvidia-smi -q, or is a capture that will."""
    return any(mark in head for mark in _MARKS)


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of each GPU; lines that are not of nvidia-smi -q are passed over."""
    log = _Log(printable(path))
    for line, block in line_blocks(path):
        for match in _LINE.finditer(block):
            # Only a reading and a date can be wrong; counting lines for the others would cost more than reading them.
            number = line + block.count(b"\n", 0, match.start()) if match["draw"] or match["time"] else line
            log.take(
                {key: text.decode("utf-8", "replace").strip() for key, text in match.groupdict().items() if text},
                number,
            )
        if len(log.snapshots) >= BLOCK_ROWS:
            yield log.snapshots.take()
    log.snapshots.end()
    yield log.snapshots.take()


class _Log:
    """Where in the log we are."""

    def __init__(self, name: str) -> None:
        self.snapshots = Snapshots(name)
        self._inside = False
        self._section = ""

    def take(self, found: dict[str, str], line: int) -> None:
        """One line that tells something."""
        if "log" in found or "end" in found:
            self.snapshots.end()
            self._inside = "log" in found
            self.snapshots.time_s = None
        if not self._inside:
            return
        if "time" in found:
            self.snapshots.time_s = asctime_s(found["time"], self.snapshots.name, line)
        elif "bus" in found:
            self.snapshots.begin(found["bus"])
            self._section = ""
        elif "uuid" in found:
            self.snapshots.uuid(found["uuid"])
        elif "section" in found:
            self._section = found["section"]
        elif "draw" in found and self._section in _READINGS and found["label"].lower() in DRAWS:
            self.snapshots.draw(found["label"].lower(), found["draw"], line)
