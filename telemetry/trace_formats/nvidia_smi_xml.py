"""`nvidia-smi -q -x`: one XML document per snapshot, also many behind one another (`-l`).

Entities are refused, external ones are never fetched, and the document is read as a stream.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from policies.errors import DataError
from telemetry.power_rows import PowerRows
from telemetry.trace_file import fail, line_blocks, printable
from telemetry.trace_formats.snapshots import BLOCK_ROWS, DRAWS, Snapshots, asctime_s

MAX_DEPTH = 32
"""nvidia-smi nests six deep."""
MAX_TEXT = 4096
_DOCUMENT = re.compile(rb"^(?=[ \t]*<\?xml)", re.MULTILINE)
_READINGS = ("power_readings", "gpu_power_readings")
"""Of the board, before and since driver 530; `module_power_readings` are those of a Grace Hopper module."""


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the file is XML of nvidia-smi."""
    return b"<nvidia_smi_log" in head and head.lstrip().startswith(b"<")


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of each GPU; DataError names the line at which the XML is damaged."""
    name = printable(path)
    snapshots = Snapshots(name)
    document: _Document | None = None
    for line, block in line_blocks(path):
        number = line
        for part in _DOCUMENT.split(block):
            if document is not None and _DOCUMENT.match(part):
                document.close()
                document = None
            if document is None and part.strip():
                document = _Document(snapshots, number)
            if document is not None:
                document.feed(part)
            number += part.count(b"\n")
        if len(snapshots) >= BLOCK_ROWS:
            yield snapshots.take()
    if document is not None:
        document.close()
    yield snapshots.take()


class _Document:
    """One snapshot being parsed."""

    def __init__(self, snapshots: Snapshots, first_line: int) -> None:
        self._snapshots = snapshots
        self._first_line = first_line
        self._stack: list[str] = []
        self._text = ""
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._entity
        snapshots.time_s = None

    def feed(self, text: bytes) -> None:
        """Some more lines."""
        self._parse(text, final=False)

    def close(self) -> None:
        """The document must be complete now."""
        self._parse(b"", final=True)

    def _parse(self, text: bytes, *, final: bool) -> None:
        try:
            self._parser.Parse(text, final)
        except (expat.ExpatError, LookupError, ValueError) as error:
            fail(self._snapshots.name, self._line(), f"damaged XML ({error}); fetch the file again, or log again")

    def _line(self) -> int:
        return self._first_line + self._parser.CurrentLineNumber - 1

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._text = ""
        self._stack.append(tag)
        if len(self._stack) > MAX_DEPTH:
            fail(self._snapshots.name, self._line(), "elements nest too deeply for nvidia-smi; check the file")
        if len(self._stack) == 2 and tag == "gpu":
            self._snapshots.begin(attributes.get("id", ""))

    def _characters(self, text: str) -> None:
        if len(self._text) < MAX_TEXT:
            self._text += text

    def _end(self, tag: str) -> None:
        self._stack.pop()
        depth = len(self._stack)
        if depth == 1 and tag == "timestamp":
            self._snapshots.time_s = asctime_s(self._text, self._snapshots.name, self._line())
        elif depth == 1 and tag == "gpu":
            self._snapshots.end()
        elif depth == 2 and tag == "uuid":
            self._snapshots.uuid(self._text)
        elif depth == 3 and tag in DRAWS and self._stack[2] in _READINGS:
            self._snapshots.draw(tag, self._text, self._line())
        self._text = ""

    def _entity(self, *_: object) -> None:
        raise DataError(
            f"{self._snapshots.name}, line {self._line()}: declares an entity, which nvidia-smi never does; "
            "check where the file comes from"
        )
