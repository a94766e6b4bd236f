"""The formats of recorded requests, in the order in which they are tried."""

from pathlib import Path

from telemetry.request_trace import RequestTrace, read_request_trace
from telemetry.trace_file import Format
from telemetry.trace_formats import (
    requests_aggregate,
    requests_csv,
    requests_mooncake,
    requests_parquet,
    requests_recipe,
    requests_servegen,
)


def _open(path: Path) -> RequestTrace:
    return read_request_trace(path)


REQUEST_FORMATS: tuple[Format, ...] = (
    Format("requests-parquet", "requests", requests_parquet.sniff, _open),
    Format("servegen", "requests", requests_servegen.sniff, _open),
    Format("mooncake", "requests", requests_mooncake.sniff, _open),
    Format("servegen-aggregate", "requests", requests_aggregate.sniff, _open),
    Format("servegen-recipe", "requests", requests_recipe.sniff, _open),
    Format("requests-csv", "requests", requests_csv.sniff, _open),
)
