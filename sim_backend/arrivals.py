"""Requests on their way to the fleet: one interface for recorded traces and for generated load."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim_backend.result import Vec

BLOCK_ROWS = 250_000
"""No block of arrivals is longer than this: a consumer's memory is bounded whatever the length of the run."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Some consecutive requests, in order of arrival."""

    arrival_s: Vec
    """Seconds from the start of the run, non-decreasing [k]."""
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    priority: NDArray[np.int8]
    """0 low, 1 high [k]."""

    def __len__(self) -> int:
        return len(self.arrival_s)


class ArrivalSource(Protocol):
    """Where requests come from. Reading twice gives the same requests."""

    @property
    def duration_s(self) -> float:
        """Length of the run; every arrival is before it."""
        ...

    def blocks(self) -> Iterator[Arrivals]:
        """Consecutive requests in time order, at most `BLOCK_ROWS` at once, never an empty block."""
        ...
