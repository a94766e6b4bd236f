"""`overwatt import`: show what recordings of power or requests hold, and convert them to one form."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from daemon.failures import UsageError
from daemon.outputs import STDOUT, check_writable
from policies.errors import DataError

if TYPE_CHECKING:
    from telemetry.power_trace import PowerTrace

SUM_STEPS = 2_000_000
"""A sum over more (three weeks at 1 s) is left out of the summary: its arrays would outweigh the import."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to read, and what to make of it."""

    files: Annotated[list[Path], Argument(metavar="FILE...", help="Recordings, plain, .gz or .xz (docs/traces.md).")]
    format: Annotated[
        str | None, Option("--format", metavar="NAME", help="Format of all files; default: each file is asked.")
    ] = None
    period_s: Annotated[
        float | None, Option(metavar="SECONDS", help="Interval of the samples, for recordings without times.")
    ] = None
    source: Annotated[
        list[str] | None, Option("--source", metavar="GLOB", help="Only sources with such names; may come again.")
    ] = None
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Write all samples to this Parquet file.")
    ] = None
    json_output: Annotated[
        Path | None, Option("--json", metavar="FILE", help="Write the summary as JSON; - is standard output.")
    ] = None
    summary: Annotated[
        bool, Option("--summary", help="Print the summary as text; the default if nothing is written.")
    ] = False


def import_(options: ImportOptions) -> None:
    """Show what recordings of power or requests hold, and convert them.

    Formats are recognised by the content. The summary names sources, samples, period, mean, p99, peak and every defect
    met; docs/traces.md has the rule for each. Exit status 65 if a file is damaged, with the place; then nothing is
    written.
    """
    _check(options)
    from telemetry.trace import detect

    kinds = {detect(path, options.format).kind for path in options.files}
    if kinds == {"requests"}:
        _import_requests(options)
        return
    from telemetry.power_trace import read_power

    with read_power(options.files, options.format, period_s=options.period_s) as trace:
        chosen = _chosen(trace, options.source)
        if options.output is not None:
            _write_power(trace, chosen, options.output)
        _show(options, "power", power_summary(trace, chosen))


def _check(options: ImportOptions) -> None:
    outputs = {"--output": options.output, "--json": options.json_output}
    check_writable(outputs, {f"FILE {number}": path for number, path in enumerate(options.files, 1)})
    if options.output is not None and options.output.suffix.lower() in (".csv", ".json", ".txt", ".gz"):
        raise UsageError(f"--output {options.output}: what is written is Parquet; name it .parquet")
    if options.output == STDOUT:
        raise UsageError("--output -: Parquet needs a file; name one")
    if options.period_s is not None and not 1e-6 <= options.period_s <= 1e6:
        raise UsageError(f"--period-s {options.period_s}: give seconds between 0.000001 and 1,000,000")


def _chosen(trace: "PowerTrace", globs: Sequence[str] | None) -> list[str]:
    """Sources that one of the patterns fits; all without a pattern."""
    if not globs:
        return list(trace.sources)
    chosen = [name for name in trace.sources if any(fnmatchcase(name, glob) for glob in globs)]
    if not chosen:
        known = ", ".join(trace.sources[:8]) + (", ..." if len(trace.sources) > 8 else "")
        raise UsageError(f"--source {' '.join(globs)}: no such source with watts; there are {known or 'none'}")
    return chosen


def _write_power(trace: "PowerTrace", chosen: Sequence[str], path: Path) -> None:
    from telemetry.trace_formats import power_parquet
    from telemetry.whole_file import whole_file

    if not chosen:
        raise DataError(f"{', '.join(trace.quality.formats)}: no watts in it, so there is nothing to write")
    origin_s = trace.quality.start_unix_s or 0.0

    def series() -> Iterator[tuple[str, Any]]:
        for source in chosen:
            for samples in trace.pieces(source):
                # The file keeps the recording's own clock; on the trace's, the first reading is at 0.
                samples["time_s"] += origin_s
                yield source, samples

    with whole_file(path) as stream:
        power_parquet.write(series(), trace.quality.clock, stream)


def power_summary(trace: "PowerTrace", chosen: Sequence[str]) -> dict[str, Any]:
    """The summary as plain values, None where a number does not exist."""
    quality = trace.quality
    sources = [each for each in quality.sources if each.source in set(chosen)]
    summary = {
        "files": quality.formats,
        "clock": quality.clock,
        "start_unix_s": quality.start_unix_s,
        "times_from": quality.period_from,
        "duration_s": max((each.last_s for each in sources), default=0.0)
        - min((each.first_s for each in sources), default=0.0),
        "start_spread_s": quality.start_spread_s,
        "samples": sum(each.samples for each in sources),
        "overall": asdict(trace.figures(chosen)) if chosen else None,
        "sum": _sum(trace, chosen),
        "sources": [asdict(each) for each in sources],
        "without_watts": list(quality.without_watts),
        "same_readings": [list(pair) for pair in quality.same_readings if set(pair) <= set(chosen)],
        "defects": _defects(trace, chosen),
    }
    plain = _plain(summary)
    assert isinstance(plain, dict)
    return plain


def _defects(trace: "PowerTrace", chosen: Sequence[str]) -> dict[str, int]:
    """Counts over the chosen sources, and those that belong to no source."""
    from telemetry.power_intake import FLAGS

    flags = dict.fromkeys(FLAGS.values(), 0)
    rest = {words: count for words, count in trace.quality.defects.items() if words not in flags}
    for each in trace.quality.sources:
        if each.source in set(chosen):
            flags = {words: count + each.defects.get(words, 0) for words, count in flags.items()}
    return {words: count for words, count in (flags | rest).items() if count}


def _sum(trace: "PowerTrace", chosen: Sequence[str]) -> dict[str, Any] | None:
    """Mean and peak of the sum on a grid of the longest period; None if there is one source or no common time."""
    import numpy as np

    from telemetry.power_trace import SORTED_ROWS

    found = [each for each in trace.quality.sources if each.source in set(chosen)]
    step_s = max((each.period_s for each in found if not math.isnan(each.period_s)), default=0.0)
    first_s, last_s = (
        max((each.first_s for each in found), default=0.0),
        min((each.last_s for each in found), default=0),
    )
    too_many = any(each.samples > SORTED_ROWS for each in found)
    too_long = step_s > 0.0 and (last_s - first_s) / step_s >= SUM_STEPS
    if len(found) < 2 or last_s < first_s or too_many or too_long:
        return None
    _, total_w = trace.total_w(step_s if step_s > 0.0 else 1.0, sources=chosen)
    known_w = total_w[~np.isnan(total_w)]
    if len(known_w) == 0:
        return None
    return {
        "step_s": step_s,
        "mean_w": float(known_w.mean()),
        "p99_w": float(np.percentile(known_w, 99)),
        "peak_w": float(known_w.max()),
        "unknown_steps": len(total_w) - len(known_w),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _import_requests(options: ImportOptions) -> None:
    from telemetry.request_parquet import write_parquet
    from telemetry.request_trace import read_request_trace
    from telemetry.trace import detect
    from telemetry.whole_file import whole_file

    if len(options.files) != 1:
        raise UsageError("recordings of requests are imported one at a time; give one file")
    if options.source or options.period_s is not None:
        raise UsageError("--source and --period-s are for recordings of power")
    path = options.files[0]
    with read_request_trace(path) as trace:
        if options.output is not None:
            with whole_file(options.output) as stream:
                write_parquet(trace.blocks(), stream)
        summary = {
            "files": {str(path): detect(path, options.format).name},
            "requests": trace.rows,
            "first_s": trace.first_s,
            "last_s": trace.last_s,
            "zero_output_rows": trace.zero_output_rows,
        }
        _show(options, "requests", summary)


def _show(options: ImportOptions, kind: str, summary: dict[str, Any]) -> None:
    import json

    if options.json_output is not None:
        from telemetry.whole_file import write_whole

        content = json.dumps({"kind": kind, **summary}, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(options.json_output, content.encode() + b"\n")
    if options.summary or (options.output is None and options.json_output is None):
        from daemon.import_text import power_lines, request_lines

        lines = power_lines(summary) if kind == "power" else request_lines(summary)
        print("\n".join(lines))
    elif options.output is not None and options.json_output != STDOUT:
        print(f"wrote {options.output}")
