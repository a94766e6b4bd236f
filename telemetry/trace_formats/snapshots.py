"""What programs print about all GPUs at one moment, gathered reading by reading."""

import re
from collections import Counter
from datetime import UTC, datetime

import numpy as np

from telemetry.power_rows import Clock, PowerRows, Sources
from telemetry.trace_file import fail, shown
from telemetry.trace_formats.cells import BadCell, numbers_of

BLOCK_ROWS = 4096
_ASCTIME = re.compile(r"\w{3} (\w{3}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DRAWS = (
    *("instant_power_draw", "instantaneous power draw"),
    *("power_draw", "power draw"),
    *("average_power_draw", "average power draw"),
)
"""Names of the power drawn, the one to be preferred first; in XML with underscores, as text with blanks."""


def asctime_s(text: str, name: str, line: int) -> float:
    """Seconds since 1970 of a date as nvidia-smi prints it (`Fri Aug  4 11:44:30 2023`).

    Raises:
        DataError: it is no such date; names file and line.
    """
    match = _ASCTIME.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        month, day, hour, minute, second, year = match.groups()
        moment = datetime(
            int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC
        )
    except ValueError:
        fail(name, line, f"{shown(text)} is no time like Fri Aug  4 11:44:30 2023; correct it")
    return moment.timestamp()


class Snapshots:
    """Readings of GPUs on their way to rows; a GPU is complete when the next begins."""

    def __init__(self, name: str) -> None:
        self.name = name
        """Of the file, for messages."""
        self.time_s: float | None = None
        """Of the snapshot under way."""
        self._sources = Sources(name)
        self._gpu: str | None = None
        self._uuid = ""
        self._draws: dict[str, float] = {}
        self._rows: list[tuple[int, float | None, float]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, bus_id: str) -> None:
        """The next GPU begins, named by its place on the bus until its UUID is known."""
        self.end()
        self._gpu = bus_id

    def uuid(self, text: str) -> None:
        """What tells the GPU from all others."""
        self._uuid = text.strip()

    def draw(self, label: str, text: str, line: int) -> None:
        """A reading of power with its unit, under the name the program gives it."""
        try:
            self._draws.setdefault(label, float(numbers_of([text.encode().replace(b",", b" ")], b"W")[0]))
        except BadCell:
            fail(self.name, line, f"{shown(text)} is no power like 67.03 W; correct it, or log again")

    def end(self) -> None:
        """The GPU is complete."""
        if self._gpu is None:
            return
        everywhere = self._uuid.startswith("GPU-")
        source = self._sources.index(self._uuid if everywhere else f"gpu{self._gpu}", everywhere=everywhere)
        read = [self._draws[label] for label in DRAWS if label in self._draws]
        power_w = next((each for each in read if not np.isnan(each)), float("nan"))
        self._rows.append((source, self.time_s, power_w))
        self._gpu, self._uuid = None, ""
        self._draws.clear()

    def take(self) -> PowerRows:
        """All complete readings since the last call."""
        rows, self._rows = self._rows, []
        times = [time_s for _, time_s, _ in rows]
        clock: Clock = "none" if any(time_s is None for time_s in times) else "local"
        return PowerRows(
            self._sources,
            np.array([source for source, _, _ in rows], dtype=np.int32),
            None if clock == "none" else np.array(times, dtype=np.float64),
            np.array([power_w for _, _, power_w in rows], dtype=np.float64),
            clock,
            defects=Counter(),
        )
