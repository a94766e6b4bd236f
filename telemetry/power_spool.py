"""Samples of power kept where they can be read again source by source: in memory while few, else on disk."""

import tempfile
from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SAMPLE = np.dtype([("time_s", "<f8"), ("power_w", "<f8"), ("flags", "u1")])
"""One stored sample, 17 bytes; NaN watts where nothing was read."""
Samples = NDArray[np.void]
Indices = NDArray[np.int64]

BUFFER_ROWS = 128 * 1024
"""Samples sorted by source at once (2 MB): a source's samples then lie in few pieces."""
MEMORY_BYTES = 32 * 2**20
"""Beyond, samples go to a temporary file without a name, which nothing can leave behind."""


class PowerSpool:
    """Samples written once, in the order of the recording, and read by source."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=memory_bytes, prefix="overwatt-")  # noqa: SIM115 -- lives as long as self
        self._end = 0
        self._pieces: list[array[int]] = []
        """For each source, offset [samples] and count of its pieces in turn."""
        self._waiting: list[tuple[Indices, Samples]] = []
        self._waiting_rows = 0

    def append(self, source: Indices, samples: Samples) -> None:
        """Add samples; may raise OSError when the disk is full."""
        self._waiting.append((source, samples))
        self._waiting_rows += len(source)
        if self._waiting_rows >= BUFFER_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, sorted by source; needed before reading."""
        if not self._waiting:
            return
        source = np.concatenate([each for each, _ in self._waiting])
        samples = np.concatenate([each for _, each in self._waiting])
        self._waiting.clear()
        self._waiting_rows = 0
        order = np.argsort(source, kind="stable")
        source = source[order]
        starts = np.flatnonzero(np.diff(source, prepend=-1))
        counts = np.diff(starts, append=len(source))
        while len(self._pieces) <= source[-1]:
            self._pieces.append(array("q"))
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            self._pieces[source[start]].extend((self._end + start, count))
        self._file.seek(self._end * SAMPLE.itemsize)
        self._file.write(samples[order].tobytes())
        self._end += len(source)

    def read(self, source: int) -> Iterator[Samples]:
        """The samples of one source, piece by piece, in the order of the recording."""
        pieces = self._pieces[source] if source < len(self._pieces) else array("q")
        for at in range(0, len(pieces), 2):
            self._file.seek(pieces[at] * SAMPLE.itemsize)
            yield np.frombuffer(self._file.read(pieces[at + 1] * SAMPLE.itemsize), dtype=SAMPLE)

    def close(self) -> None:
        """Give memory and disk back."""
        self._waiting.clear()
        self._file.close()

    def __del__(self) -> None:
        self.close()
