"""What a run leaves second by second, in constant memory: the last hours at hand, earlier ones in a nameless file."""

import tempfile
import weakref
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from policies.arrays import Vec

Rows = NDArray[np.void]

SECOND = np.dtype([("power_w", np.float64), ("capped_share", np.float32), ("braked", np.bool_)])
"""13 bytes: a year is 410 MB, which a run must not hold."""
AT_HAND = 1 << 17
"""Seconds kept in memory before the disk is asked for room: a day and a half, 1.7 MB."""


def power_of(rows: Rows) -> Vec:
    """Watts of these seconds, side by side: sums over strided numbers may differ in the last bit."""
    power_w: Vec = np.ascontiguousarray(rows["power_w"])
    return power_w


class Seconds:
    """Rows of `SECOND`, appended one by one and read back in order or anywhere."""

    def __init__(self, at_hand: int = AT_HAND) -> None:
        """Nothing yet; `at_hand` rows are kept in memory."""
        self._recent: Rows = np.zeros(at_hand, SECOND)
        self._power_w, self._capped_share = self._recent["power_w"], self._recent["capped_share"]
        self._braked = self._recent["braked"]
        self._earlier = 0
        self._at = 0
        # Gone with the process, however it ends; without any file while the rows fit into memory.
        self._file = tempfile.SpooledTemporaryFile(max_size=1)  # noqa: SIM115 (open as long as the run)
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        """How many were appended."""
        return self._earlier + self._at

    def append(self, power_w: float, capped_share: float, *, braked: bool) -> None:
        """One more second."""
        at = self._at
        if at == len(self._recent):
            self._file.seek(0, 2)
            self._file.write(self._recent.tobytes())
            self._earlier += at
            at = 0
        self._power_w[at] = power_w
        self._capped_share[at] = capped_share
        self._braked[at] = braked
        self._at = at + 1

    def read(self, start: int, stop: int) -> Rows:
        """The rows from `start` to before `stop`."""
        stop = min(stop, len(self))
        parts = []
        if start < self._earlier:
            self._file.seek(start * SECOND.itemsize)
            count = min(stop, self._earlier) - start
            parts.append(np.frombuffer(self._file.read(count * SECOND.itemsize), SECOND))
        parts.append(self._recent[max(start - self._earlier, 0) : max(stop - self._earlier, 0)])
        return np.concatenate(parts)

    def blocks(self, multiple: int, start: int = 0) -> Iterator[Rows]:
        """All rows from `start` on, in blocks whose length is a multiple of `multiple`, the last one excepted."""
        rows = max(len(self._recent) // multiple, 1) * multiple
        for first in range(start, len(self), rows):
            yield self.read(first, first + rows)
