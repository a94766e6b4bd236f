"""Our own schema of requests in Parquet: read and written in blocks, so that memory does not grow with the trace."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import numpy as np

from policies.errors import ConfigError
from telemetry.request_parquet_pages import check_sizes
from telemetry.request_rows import Ints
from telemetry.request_spool import Recorded
from telemetry.trace_file import fail, reason, shown

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

NEEDED = {"arrival_s": "double", "prompt_tokens": "int32", "output_tokens": "int32"}
OPTIONAL = {"priority": "int8", "cached_tokens": "int32"}
"""Column -> type as written; any integers and floating point numbers are read."""
_NAMES = frozenset(name.encode() for name in (*NEEDED, *OPTIONAL))
BLOCK_ROWS = 65_536
BUFFER_BYTES = 2**20
FOOTER_BYTES = 64 * 1024
"""Where `is_requests` looks for the names of columns; of our files, the whole footer."""
INSTALL = "reading and writing Parquet needs pyarrow; install overwatt[parquet]"


def is_requests(path: Path) -> bool:
    """Whether the file ends like Parquet that names our columns; needs no pyarrow."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - FOOTER_BYTES))
            footer = stream.read()
    except OSError:
        return False
    return all(name.encode() in footer for name in NEEDED)


def read_parquet(path: Path, name: str) -> Iterator[Recorded]:
    """Consecutive requests, some ten thousand at once; they are not yet checked.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: the file is damaged or has other columns; names file, row and remedy.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(f"{name}: {INSTALL}") from error
    rows = 0
    try:
        with path.open("rb") as stream:
            check_sizes(stream, _NAMES, name)
        with ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True) as file:
            columns = _columns_of(file, name)
            for batch in file.iter_batches(BLOCK_ROWS, columns=columns, use_threads=False):
                if batch.num_rows:
                    yield _recorded(batch, name, rows)
                rows += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        said = shown(reason(error))
        fail(name, None, f"damaged or cut short behind row {rows:,} ({said}); fetch it again or write it anew")


def _columns_of(file: "ParquetFile", name: str) -> list[str]:
    import pyarrow as pa

    schema = file.schema_arrow
    missing = [column for column in NEEDED if schema.names.count(column) != 1]
    if missing:
        text = f"no column {missing[0]} among {shown(', '.join(schema.names))}; it must hold {', '.join(NEEDED)}"
        fail(name, None, text)
    columns = [*NEEDED, *(column for column in OPTIONAL if schema.names.count(column) == 1)]
    for column in columns:
        kind = schema.field(column).type
        if not pa.types.is_integer(kind) and not (column == "arrival_s" and pa.types.is_floating(kind)):
            fail(name, None, f"column {column} is {shown(str(kind))}; it must hold {_kinds(column)}")
    return columns


def _kinds(column: str) -> str:
    return "numbers" if column == "arrival_s" else "whole numbers"


def _recorded(batch: "pa.RecordBatch", name: str, rows: int) -> Recorded:
    def column(key: str) -> Ints:
        values = batch.column(key)
        if values.null_count:
            at = int(np.flatnonzero(np.asarray(values.is_null()))[0])
            fail(name, None, f"row {rows + at + 1:,}: no {key}; fill it or remove the row")
        return np.asarray(values, dtype=np.float64 if key == "arrival_s" else np.int64)

    arrival_s, prompt_tokens, output_tokens = (column(key) for key in NEEDED)
    return Recorded(
        arrival_s.astype(np.float64),
        prompt_tokens,
        output_tokens,
        *(column(key) if key in batch.schema.names else None for key in ("cached_tokens", "priority")),
    )


def row_fault(name: str, rows: int, at: int, text: str) -> NoReturn:
    """Raise the error of the request at index `at` of a block that begins after `rows` others."""
    fail(name, None, f"row {rows + at + 1:,}: {text}")


def write_parquet(blocks: Iterable[Recorded], stream: IO[bytes]) -> int:
    """Write requests to an open file, in row groups of `BLOCK_ROWS`; the same requests always give the same bytes.

    All blocks have the same optional columns. Whoever opens the file sees to it that a part of it is never found.

    Returns:
        Requests written.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise ConfigError(f"requests as Parquet: {INSTALL}") from error
    writer: ParquetWriter | None = None
    rows = 0
    try:
        for block in _cut(blocks):
            named = {
                "arrival_s": block.arrival_s,
                "prompt_tokens": block.prompt_tokens,
                "output_tokens": block.output_tokens,
                "priority": block.priority,
                "cached_tokens": block.cached_tokens,
            }
            kinds = {**NEEDED, **OPTIONAL}
            arrays = {
                key: pa.array(values, type=pa.type_for_alias(kinds[key]))
                for key, values in named.items()
                if values is not None
            }
            table = pa.table(arrays)
            if writer is None:
                writer = ParquetWriter(
                    stream, table.schema, compression="zstd", write_page_checksum=True, store_schema=False
                )
            writer.write_table(table)
            rows += len(block)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _cut(blocks: Iterable[Recorded]) -> Iterator[Recorded]:
    """The same requests in blocks of exactly `BLOCK_ROWS`, but for the last: then the file does not show their size."""
    rest: Recorded | None = None
    for block in blocks:
        rest = block if rest is None else _joined(rest, block)
        while len(rest) >= BLOCK_ROWS:
            yield _part(rest, slice(0, BLOCK_ROWS))
            rest = _part(rest, slice(BLOCK_ROWS, None))
    if rest is not None and len(rest):
        yield rest


def _part(block: Recorded, rows: slice) -> Recorded:
    return Recorded(
        block.arrival_s[rows],
        block.prompt_tokens[rows],
        block.output_tokens[rows],
        None if block.cached_tokens is None else block.cached_tokens[rows],
        None if block.priority is None else block.priority[rows],
    )


def _joined(first: Recorded, second: Recorded) -> Recorded:
    cached_tokens = None
    if first.cached_tokens is not None and second.cached_tokens is not None:
        cached_tokens = np.concatenate([first.cached_tokens, second.cached_tokens])
    priority = None
    if first.priority is not None and second.priority is not None:
        priority = np.concatenate([first.priority, second.priority])
    return Recorded(
        np.concatenate([first.arrival_s, second.arrival_s]),
        np.concatenate([first.prompt_tokens, second.prompt_tokens]),
        np.concatenate([first.output_tokens, second.output_tokens]),
        cached_tokens,
        priority,
    )
