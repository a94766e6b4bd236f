"""Splitwise's published prompt and token times and powers, reduced to one point per setting."""

import csv
import gzip
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from policies.errors import ConfigError, DataError

FILE = "perf_model.csv"
TENSOR_PARALLEL = 8
# Not a measurement: prompt times exactly 1.300 x and token times exactly 1.000 x those of the uncapped H100.
SYNTHETIC = "h100-80gb-pcap"


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a batch of equal requests."""

    prompt: int
    batch: int
    output: int
    peak_ratio: float
    """Highest GPU power over TDP; 0 is not measured."""
    average_ratio: float
    prefill_s: float
    decode_s: float
    """One decode iteration."""
    e2e_s: float

    @property
    def tokens(self) -> int:
        """Batched prompt tokens."""
        return self.prompt * self.batch

    @property
    def context_tokens(self) -> float:
        """KV tokens of the whole batch, mean over the run; runs that ended before `output` tokens count as they ran."""
        generated = min(float(self.output), 1.0 + (self.e2e_s - self.prefill_s) / self.decode_s)
        return self.batch * (self.prompt + generated / 2.0)


def read_rows(path: Path, model: str, gpu: str) -> tuple[Row, ...]:
    """The 8-GPU rows of `model` on `gpu`, in the file's order.

    Args:
        path: `perf_model.csv`, plain or gzipped, or the folder that holds it.
        model: as in the file, such as "bloom-176b".
        gpu: as in the file, such as "a100-80gb".

    Raises:
        DataError: unreadable or implausible, naming file and line.
    """
    if gpu == SYNTHETIC:
        raise ConfigError(f"{SYNTHETIC} rows are an assumption of their authors, not measurements; calibrate h100-80gb")
    path = _find(path)
    rows = tuple(
        _row(record, f"{path}: line {line}")
        for line, record in _records(path)
        if (record["model"], record["hardware"], record["tensor_parallel"]) == (model, gpu, str(TENSOR_PARALLEL))
    )
    if not rows:
        raise DataError(f"{path}: no row of {model} on {gpu} with tensor_parallel {TENSOR_PARALLEL}; check both names")
    return rows


def medians(rows: Iterable[Row], key: Callable[[Row], tuple[int, ...]]) -> tuple[Row, ...]:
    """One row per value of `key`, each field the median over the rows that share it, sorted by key."""
    groups: dict[tuple[int, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return tuple(_median_row(groups[k]) for k in sorted(groups))


def _median_row(rows: list[Row]) -> Row:
    first = rows[0]
    return Row(
        prompt=first.prompt,
        batch=first.batch,
        output=first.output,
        peak_ratio=median(r.peak_ratio for r in rows),
        average_ratio=median(r.average_ratio for r in rows),
        prefill_s=median(r.prefill_s for r in rows),
        decode_s=median(r.decode_s for r in rows),
        e2e_s=median(r.e2e_s for r in rows),
    )


COLUMNS = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "peak_power",
    "average_power",
    "prompt_time",
    "token_time",
    "e2e_time",
    "tensor_parallel",
)


def _find(path: Path) -> Path:
    if path.is_dir():
        for name in (f"{FILE}.gz", FILE):
            if (path / name).is_file():
                return path / name
        raise DataError(f"{path}: holds neither {FILE}.gz nor {FILE}; see docs/data.md for where to get it")
    return path


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8", newline="") as stream
        ):
            reader = csv.reader(stream)
            header = next(reader, [])
            missing = [c for c in COLUMNS if c not in header]
            if missing:
                raise DataError(f"{path}: line 1: column '{missing[0]}' is missing; is this Splitwise's {FILE}?")
            for values in reader:
                if len(values) != len(header):
                    raise DataError(f"{path}: line {reader.line_num}: {len(values)} fields instead of {len(header)}")
                yield reader.line_num, dict(zip(header, values, strict=True))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again, see docs/data.md") from error


def _row(record: Mapping[str, str], where: str) -> Row:
    whole = {c: _number(record, c, where, least=1.0) for c in ("prompt_size", "batch_size", "token_size")}
    power = {c: _number(record, c, where, least=0.0) for c in ("peak_power", "average_power")}
    time_ms = {c: _number(record, c, where, least=1e-3) for c in ("prompt_time", "token_time", "e2e_time")}
    return Row(
        prompt=int(whole["prompt_size"]),
        batch=int(whole["batch_size"]),
        output=int(whole["token_size"]),
        peak_ratio=power["peak_power"],
        average_ratio=power["average_power"],
        prefill_s=time_ms["prompt_time"] / 1e3,
        decode_s=time_ms["token_time"] / 1e3,
        e2e_s=time_ms["e2e_time"] / 1e3,
    )


def _number(record: Mapping[str, str], column: str, where: str, least: float) -> float:
    try:
        value = float(record[column])
    except ValueError as error:
        raise DataError(f"{where}: {column} = '{record[column]}' is not a number; fetch the file again") from error
    if not math.isfinite(value) or value < least:
        raise DataError(f"{where}: {column} = {record[column]} is below {least:g} or not finite; fetch the file again")
    return value
