"""Requests drawn from ServeGen's windows: in order of time, a few at once, the same for the same seed."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from telemetry.request_reading import Reading
from telemetry.request_spool import REQUEST, Requests
from telemetry.servegen import WINDOW_S, Client, Gaps, Lengths, ServeGen

CHUNK_ROWS = 4096
"""Requests of one client drawn at once: numpy's cost per call does not show, and many clients fit in memory."""
BLOCK_ROWS = 50_000
"""Requests that wait before the earliest are given out: 20 bytes each while they are sorted."""
STREAM = 2
"""Keeps these random numbers apart from those of other parts that share a seed."""


@dataclass(slots=True)
class _Sender:
    """One client in one window: its requests come in chunks, earlier ones first."""

    client: Client
    lengths: Lengths
    gaps: Gaps
    rng: np.random.Generator
    chunk_rows: int
    at_s: float
    """Arrival of the next request."""
    end_s: float

    def next_chunk(self) -> Requests:
        """Further requests of the window; empty if there are none."""
        if self.at_s >= self.end_s:
            return np.empty(0, dtype=REQUEST)
        arrival_s = self.at_s + np.concatenate(([0.0], np.cumsum(self.gaps.draw(self.rng, self.chunk_rows))))
        self.at_s = float(arrival_s[-1])
        rows = min(self.chunk_rows, int(np.searchsorted(arrival_s, self.end_s)))
        requests = np.empty(rows, dtype=REQUEST)
        requests["arrival_s"] = arrival_s[:rows]
        requests["prompt_tokens"] = np.maximum(self.lengths.prompt.draw(self.rng, rows), 1)
        requests["output_tokens"] = self.lengths.output.draw(self.rng, rows)
        return requests


def expected_rows(load: ServeGen, reading: Reading) -> float:
    """How many requests `drawn` will give, on average."""
    total = 0.0
    for client in load.clients:
        inside_s = np.minimum(client.start_s + WINDOW_S, reading.stop_s) - np.maximum(client.start_s, reading.start_s)
        total += float((client.rate_rps * np.maximum(inside_s, 0.0)).sum())
    return total * reading.factor


def drawn(load: ServeGen, reading: Reading) -> Iterator[Requests]:
    """Requests of all clients in order of time, never an empty block; output tokens may be 0, as in the source.

    Every random number depends on seed, client, window and its place there alone: a span of the recording holds the
    same requests whether or not the rest is drawn, as long as it begins with a window. Clients are independent of each
    other, and so are windows. A larger factor makes gaps shorter, which keeps burstiness; it does not add requests to
    the same ones.
    """
    first, last = int(reading.start_s // WINDOW_S), load.end_s // WINDOW_S
    for index in range(first, last):
        start_s = index * WINDOW_S
        if start_s >= reading.stop_s:
            return
        for requests in _window(_senders(load, start_s, reading)):
            inside = (requests["arrival_s"] >= reading.start_s) & (requests["arrival_s"] < reading.stop_s)
            kept = requests[inside]
            kept["arrival_s"] -= reading.start_s
            if len(kept):
                yield kept


def _senders(load: ServeGen, start_s: int, reading: Reading) -> list[_Sender]:
    senders = []
    for client in load.clients:
        at = int(np.searchsorted(client.start_s, start_s))
        if at == len(client.start_s) or client.start_s[at] != start_s:
            continue
        rate_rps, cv = float(client.rate_rps[at]) * reading.factor, float(client.cv[at])
        gaps = Gaps.of(rate_rps, cv, weibull=bool(client.weibull[at]))
        lengths = client.lengths_at(start_s) if client.lengths else load.pooled(start_s)
        seeds = np.random.SeedSequence(reading.seed, spawn_key=(STREAM, client.number, start_s // WINDOW_S))
        rng = np.random.default_rng(seeds)
        # Enough for nearly all windows of few requests, so that these are drawn at once and not much is thrown away.
        mean_rows = rate_rps * WINDOW_S
        chunk_rows = int(min(CHUNK_ROWS, 16.0 + mean_rows + 3.0 * max(cv, 1.0) * mean_rows**0.5))
        senders.append(
            _Sender(client, lengths, gaps, rng, chunk_rows, start_s + gaps.first_s(rng), float(start_s + WINDOW_S))
        )
    return senders


def _window(senders: list[_Sender]) -> Iterator[Requests]:
    """Requests of one window, in order of (time, client).

    The client that has been drawn least far is drawn on; what lies before that moment is complete.
    """
    waiting: list[list[Requests]] = [[] for _ in senders]
    heap = [(sender.at_s, index) for index, sender in enumerate(senders)]
    heapq.heapify(heap)
    rows = 0
    while heap:
        _, index = heapq.heappop(heap)
        sender = senders[index]
        chunk = sender.next_chunk()
        if len(chunk):
            waiting[index].append(chunk)
            rows += len(chunk)
            heapq.heappush(heap, (sender.at_s, index))
        if heap and rows < BLOCK_ROWS:
            continue
        taken = _take(waiting, heap[0][0] if heap else np.inf)
        rows -= len(taken)
        if len(taken):
            yield taken[np.argsort(taken["arrival_s"], kind="stable")]


def _take(waiting: list[list[Requests]], until_s: float) -> Requests:
    """Remove and return what arrives before `until_s`, client by client."""
    taken = [np.empty(0, dtype=REQUEST)]
    for chunks in waiting:
        if not chunks:
            continue
        whole = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        stop = int(np.searchsorted(whole["arrival_s"], until_s, side="left"))
        taken.append(whole[:stop])
        chunks[:] = [whole[stop:]] if stop < len(whole) else []
    return np.concatenate(taken)
