"""All state that compiled code shares, as it passes from function to function."""

from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim_backend import params as p

Row_co = TypeVar("Row_co", covariant=True)


class RowsOf(Protocol[Row_co]):
    """Packed rows, each seen as its fields; writing to a field writes to the array."""

    def __getitem__(self, index: int, /) -> Row_co:
        """One row."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...


class World(NamedTuple):
    """All state of the plant."""

    servers: RowsOf[p.Server]
    limiters: RowsOf[p.Limiter]
    requests: RowsOf[p.Request]
    indices: NDArray[np.int64]
    """Order of arrival of each request in flight; empty if no record is kept."""
    heap: NDArray[np.int64]
    """Per server, its residents by completion [servers, room for residents]."""
    ends_s: NDArray[np.float64]
    """Times at which servers decide next, and the winner tree over them."""
    ends_won: NDArray[np.int32]
    loads: NDArray[np.int64]
    """The router's keys and the winner trees over them, one per priority of servers."""
    loads_won: NDArray[np.int32]
    params: RowsOf[p.Params]
    tables: NDArray[np.float64]
    """Seconds of reading weights by tokens, of all iteration models."""
    slo: NDArray[np.float64]
    counts: NDArray[np.int64]
    bins: NDArray[np.int64]
    """Histograms [params.NHISTOGRAM, bins]."""
    record: NDArray[np.float64]
    """TTFT and end-to-end time by arrival [requests, 2]; no rows if not asked for."""
    control: NDArray[np.int64]
