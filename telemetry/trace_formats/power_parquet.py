"""Parquet with one reading per row: what `overwatt import -o` writes, and tables of others with columns named alike.

pyarrow is needed for it (extra `parquet`) and is imported only when such a file is met.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from policies.errors import ConfigError
from telemetry.power_rows import Clock, Floats, PowerRows, Sources
from telemetry.power_spool import SAMPLE, Samples
from telemetry.request_parquet_pages import check_sizes
from telemetry.trace_file import fail, printable, shown

MAGIC = b"PAR1"
BATCH_ROWS = 64 * 1024
CLOCK_KEY = b"overwatt.clock"
"""Where in the file's metadata it is written what the times count from."""
TIMES = ("time_s", "t_s", "time_ms", "timestamp")
WATTS = ("power_w", "drawn_w", "node_power_w", "gpu_power_w")
NAMES = ("source", "sensor", "hostname", "host", "server", "node", "uuid", "gpu")
READ = frozenset(name.encode() for name in (*TIMES, *WATTS, *NAMES))
"""Columns that are looked at."""
GROUP_ROWS = 64 * 1024
"""Rows that are packed together (1.4 MB)."""
MAX_GROUP_ROWS = 16 * 2**20
"""Of one row group; pages are read one after the other, but a group's dictionary and index are not."""
BUFFER_BYTES = 256 * 1024
"""Read at once of each column."""


def sniff(head: bytes, path: Path) -> bool:
    """Whether the file is Parquet and has a column of watts."""
    if not head.startswith(MAGIC):
        return False
    try:
        columns = _opened(path).schema_arrow.names
    except Exception:  # noqa: BLE001 -- pyarrow raises of many kinds; `read` then says what is wrong
        return True
    return any(column in columns for column in WATTS)


def _opened(path: Path) -> Any:
    import pyarrow.parquet as parquet

    # pyarrow believes the sizes that a file states: a damaged byte would cost gigabytes, or end the process.
    with path.open("rb") as stream:
        check_sizes(stream, READ, printable(path))
    return parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of a Parquet file; DataError where it is damaged or lacks a column."""
    name = printable(path)
    try:
        import pyarrow as arrow
    except ImportError:
        fail(name, None, "reading Parquet needs pyarrow; install overwatt[parquet]")
    try:
        yield from _read(path, name)
    except (arrow.ArrowException, OSError, OverflowError, TypeError, ValueError) as error:
        fail(name, None, f"damaged Parquet, or columns of other types ({shown(str(error))}); fetch the file again")


def _read(path: Path, name: str) -> Iterator[PowerRows]:
    file = _opened(path)
    columns = file.schema_arrow.names
    time_at = next((each for each in TIMES if each in columns), None)
    power_at = next((each for each in WATTS if each in columns), None)
    if time_at is None or power_at is None:
        fail(name, None, f"needs columns time_s and power_w (and source), has {shown(', '.join(columns))}; rename them")
    named = [each for each in NAMES if each in columns]
    read_columns = [time_at, power_at, *named]
    _check_groups(file, name)
    sources = Sources(printable(path))
    clock: Clock | None = _said(file)
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=read_columns, use_threads=False):
        if batch.num_rows == 0:
            continue
        time_s = _seconds(batch.column(time_at)) * (1e-3 if time_at.endswith("_ms") else 1.0)
        if not np.isfinite(time_s).all():
            fail(name, None, "a reading has no time; remove such rows")
        if clock is None:
            clock = "unix" if time_s[0] >= 5e8 else "start"
        parts = [batch.column(each).to_pylist() for each in named]
        names = ["/".join(str(part) for part in row) for row in zip(*parts, strict=True)] or [""] * batch.num_rows
        yield PowerRows(sources, sources.indices(names), time_s, _floats(batch.column(power_at)), clock)


def _said(file: Any) -> Clock | None:
    """What the file itself says its times count from."""
    word = (file.schema_arrow.metadata or {}).get(CLOCK_KEY, b"")
    known: dict[bytes, Clock] = {b"unix": "unix", b"local": "local", b"start": "start", b"none": "start"}
    return known.get(word)


def _check_groups(file: Any, name: str) -> None:
    # Not column by column: pyarrow 26 ends the process, not the call, where a column's statistics are damaged.
    layout = file.metadata
    for group in range(layout.num_row_groups):
        rows = layout.row_group(group).num_rows
        if rows > MAX_GROUP_ROWS:
            fail(name, None, f"a row group has {rows:,} rows, at most {MAX_GROUP_ROWS:,}; write smaller row groups")


def _seconds(column: Any) -> Floats:
    """Times as seconds: numbers as they are, Arrow timestamps from 1970."""
    import pyarrow as arrow

    if arrow.types.is_timestamp(column.type):
        return np.asarray(column.cast(arrow.timestamp("ns")).cast(arrow.int64()).to_numpy(zero_copy_only=False) / 1e9)
    return _floats(column)


def _floats(column: Any) -> Floats:
    import pyarrow as arrow

    return np.asarray(column.cast(arrow.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def write(series: Iterable[tuple[str, Samples]], clock: Clock, stream: IO[bytes]) -> int:
    """Write samples to an open file, with columns source, time_s, power_w (null: no reading) and flags.

    The same samples always give the same bytes. Whoever opens the file sees to it that a part of it is never found.

    Args:
        series: samples with the name of their source, in order of time for each source.
        clock: what the times count from.
        stream: where to.

    Returns:
        Samples written.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ConfigError("power as Parquet needs pyarrow; install overwatt[parquet]") from error
    schema = arrow.schema(
        [
            ("source", arrow.dictionary(arrow.int32(), arrow.string())),
            ("time_s", arrow.float64()),
            ("power_w", arrow.float64()),
            ("flags", arrow.uint8()),
        ],
        metadata={CLOCK_KEY: clock.encode()},
    )
    written = 0
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for names, samples in _groups(series):
            known, codes = np.unique(np.array(names, dtype=object), return_inverse=True)
            sources = np.repeat(codes.astype(np.int32), [len(each) for each in samples])
            rows = np.concatenate(samples) if samples else np.empty(0, dtype=SAMPLE)
            columns = [
                arrow.DictionaryArray.from_arrays(arrow.array(sources), arrow.array(known.tolist(), arrow.string())),
                arrow.array(rows["time_s"]),
                arrow.array(rows["power_w"], from_pandas=True),
                arrow.array(rows["flags"]),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            written += len(rows)
    return written


def _groups(series: Iterable[tuple[str, Samples]]) -> Iterator[tuple[list[str], list[Samples]]]:
    """Samples gathered to row groups."""
    names: list[str] = []
    samples: list[Samples] = []
    for name, piece in series:
        for start in range(0, len(piece), GROUP_ROWS):
            names.append(name)
            samples.append(piece[start : start + GROUP_ROWS])
            if sum(map(len, samples)) >= GROUP_ROWS:
                yield names, samples
                names, samples = [], []
    if samples:
        yield names, samples
