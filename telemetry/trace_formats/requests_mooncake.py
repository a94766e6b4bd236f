"""Requests as the Mooncake traces write them: one JSON object a line, with the prefix blocks of the prompt."""

from collections import OrderedDict
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import numpy as np

from telemetry.request_reading import Reading
from telemetry.request_rows import MAX_BLANK_LINES, MAX_SPAN_S, MAX_TOKENS
from telemetry.request_spool import Intake, Recorded, require_rows
from telemetry.request_text import Lines, Source
from telemetry.trace_file import fail, shown

BLOCK_TOKENS = 512
"""Tokens that one hash id stands for, as the traces' README says."""
MS_PER_S = 1000.0


class _Row(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0.0, le=MAX_SPAN_S * MS_PER_S)]
    """Arrival [ms]."""
    input_length: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
    hash_ids: list[int] | None = None


class PrefixCache:
    """Which leading blocks of a prompt are there already, when the least recently used ones make room.

    Only whole blocks are kept, and the last token of a prompt is always computed: this is what vLLM's prefix cache
    does, so a prompt that is known to its end still computes its last block.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._kept: OrderedDict[int, None] = OrderedDict()
        """Block ids, the one to go next first."""

    def hit_tokens(self, hash_ids: list[int], prompt_tokens: int) -> int:
        """Prompt tokens that need no computing; afterwards the prompt's blocks are in the cache."""
        # The hash of a number below 2**61 is the number; of a longer one it is no longer than 64 bits.
        known = [hash(block) for block in hash_ids]
        usable = known[: (prompt_tokens - 1) // BLOCK_TOKENS]
        hits = next((at for at, block in enumerate(usable) if block not in self._kept), len(usable))
        # Backwards, so that of one prompt the last block goes first: a block is worth nothing without those before it.
        for block in reversed(known[: min(prompt_tokens // BLOCK_TOKENS, self._blocks)]):
            self._kept[block] = None
            self._kept.move_to_end(block)
        while len(self._kept) > self._blocks:
            self._kept.popitem(last=False)
        return hits * BLOCK_TOKENS


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the first line is an object with a Mooncake row's words."""
    line = head.lstrip().partition(b"\n")[0]
    return line.startswith(b"{") and b'"input_length"' in line


def fill(source: Source, intake: Intake, reading: Reading) -> None:
    """Read all requests; times are kept as given, in seconds.

    Raises:
        DataError: damaged, out of order or out of range; names file, line and remedy.
    """
    lines = Lines(source, "a JSON Lines file")
    reader = _Reader(intake, lines, PrefixCache(reading.cache_blocks))
    for block in lines:
        reader.take(block)
    require_rows(intake, None, "holds no request; give a trace with at least one")


class _Reader:
    """Turns blocks of whole lines into stored requests."""

    def __init__(self, intake: Intake, lines: Lines, cache: PrefixCache) -> None:
        self._intake = intake
        self._lines = lines
        self._cache = cache
        self._decoder = msgspec.json.Decoder(_Row)
        self._last_ms = 0.0
        self._has_blocks: bool | None = None

    def take(self, block: bytes) -> None:
        """Whole lines, each with its newline."""
        rows: list[tuple[float, int, int, int]] = []
        blank_lines = 0
        for number, line in enumerate(block.split(b"\n")[:-1], self._lines.line + 1):
            if line.strip():
                rows.append(self._row(line, number))
            else:
                blank_lines += 1
                if blank_lines > MAX_BLANK_LINES:
                    fail(self._intake.name, number, f"more than {MAX_BLANK_LINES} blank lines; remove them")
        first_line = self._lines.line + 1
        self._lines.line += block.count(b"\n")
        if not rows:
            return
        arrival_ms, *counts = zip(*rows, strict=True)
        prompt_tokens, output_tokens, cached_tokens = (np.array(count, dtype=np.int64) for count in counts)
        recorded = Recorded(
            np.array(arrival_ms) / MS_PER_S, prompt_tokens, output_tokens, cached_tokens if self._has_blocks else None
        )

        def fault(_: int, text: str) -> NoReturn:
            fail(self._intake.name, first_line, text)

        self._intake.store(recorded, fault)

    def _row(self, line: bytes, number: int) -> tuple[float, int, int, int]:
        name = self._intake.name
        try:
            row = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            said = str(error) if str(error).isprintable() else shown(str(error))
            fail(
                name,
                number,
                f"no request ({said}); the line may be cut short: fetch the file again, or remove the line",
            )
        if row.timestamp < self._last_ms:
            fail(name, number, "this request arrives before the one above it; sort the lines by timestamp")
        self._last_ms = row.timestamp
        has_blocks = row.hash_ids is not None
        if self._has_blocks is None:
            self._has_blocks = has_blocks
        if has_blocks != self._has_blocks:
            fail(name, number, "some lines have hash_ids and some have none; give all lines hash_ids, or none")
        if row.hash_ids is None:
            return row.timestamp, row.input_length, row.output_length, 0
        if len(row.hash_ids) != -(-row.input_length // BLOCK_TOKENS):
            text = (
                f"{len(row.hash_ids)} hash_ids for {row.input_length} prompt tokens, where every {BLOCK_TOKENS} tokens "
                "begun have one; correct or remove the line"
            )
            fail(name, number, text)
        hits = self._cache.hit_tokens(row.hash_ids, row.input_length)
        return row.timestamp, row.input_length, row.output_length, hits
