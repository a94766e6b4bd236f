"""Readings of power as a format gives them, before anything is judged: one block of rows after the other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError

Floats = NDArray[np.float64]
Clock = Literal["unix", "local", "start", "none"]
"""What times count from: 1970 in UTC; 1970 on a wall clock of unknown zone; the start of the recording; or there are
no times, and readings are known by their order alone."""

MAX_SOURCES = 10_000
"""More in one recording is no fleet, but a column misread as names (the largest public row has 64 servers)."""


class Sources:
    """Names of what was measured, numbered in order of appearance."""

    def __init__(self, file: str) -> None:
        self._file = file
        """Of which file, for messages."""
        self.names: list[str] = []
        """Within the file; the empty name is the one source of a file that gives it none."""
        self.everywhere: list[bool] = []
        """Whether the name means the same source in every file (a GPU's UUID does, `gpu0` does not)."""
        self._index: dict[str, int] = {}

    def index(self, name: str, *, everywhere: bool = False) -> int:
        """The number of a source, new or known.

        Raises:
            DataError: more names than any recording has.
        """
        found = self._index.get(name)
        if found is None:
            if len(self.names) == MAX_SOURCES:
                raise DataError(
                    f"{self._file}: over {MAX_SOURCES:,} different sources, so what is read as their name is none; "
                    "check the file, or force another --format"
                )
            found = self._index[name] = len(self.names)
            self.names.append("".join(each if each.isprintable() else "?" for each in name[:200]))
            self.everywhere.append(everywhere)
        return found

    def indices(self, names: Sequence[str], *, everywhere: bool = False) -> NDArray[np.int32]:
        """The numbers of many sources, one per row."""
        known = self._index
        try:
            return np.array([known[name] for name in names], dtype=np.int32)
        except KeyError:  # a new one
            return np.array([self.index(name, everywhere=everywhere) for name in names], dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class PowerRows:
    """Readings of one block, in the order of the file."""

    sources: Sources
    """Shared by all blocks of a file; it grows."""
    source: NDArray[np.int32]
    """Whose reading it is [k]."""
    time_s: Floats | None
    """When [k]; None: the file gives no times."""
    power_w: Floats
    """What was read, verbatim: NaN for nothing, and whatever a failing meter writes [k]."""
    clock: Clock
    energy_j: Floats | None = None
    """Counter of energy beside the reading, where the recording has one [k]."""
    defects: Counter[str] = field(default_factory=Counter)
    """What the format met and dealt with itself (see `telemetry/trace_quality.py`)."""


def no_rows(sources: Sources, defects: Counter[str]) -> PowerRows:
    """A block that holds no reading, only what was met."""
    nothing = np.empty(0)
    return PowerRows(sources, np.empty(0, np.int32), nothing, nothing, "none", defects=defects)
