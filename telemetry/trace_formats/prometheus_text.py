"""Scrapes of dcgm-exporter, nvidia_gpu_exporter and ipmi_exporter: the text format of Prometheus.

A scrape seldom carries times; several scrapes behind one another are then known by their order. Labels `pod` and
`namespace` name a workload for a GPU in use and the exporter itself for the others, so they never name a source.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from telemetry.power_rows import PowerRows, Sources
from telemetry.trace_file import fail, line_blocks, printable, shown

MS_PER_S = 1000.0
DRAWS = {
    "DCGM_FI_DEV_POWER_USAGE_INSTANT": 0,
    "nvidia_smi_power_draw_instant_watts": 0,
    "DCGM_FI_DEV_POWER_USAGE": 1,
    "nvidia_smi_power_draw_watts": 1,
    "ipmi_dcmi_power_consumption_watts": 1,
    "nvidia_smi_power_draw_average_watts": 2,
}
"""Metrics of power drawn [W]; of several of one source the lowest number is taken."""
MAX_SERIES = 100_000
"""Series of power in one scrape; a scrape of one host has at most some dozens."""
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\\n]|\\.)*)",?')
_SAMPLE = re.compile(
    rb'(?P<name>[A-Za-z_:][\w:]*)(?P<labels>\{(?:[A-Za-z_]\w*="(?:[^"\\\n]|\\.)*",?\s*)*\})?'
    rb"[ \t]+(?P<value>[^\s{}]+)(?:[ \t]+(?P<ms>-?\d{1,15}))?[ \t]*"
)
_SNIFF = re.compile(rb"(?:# (?:HELP|TYPE) )?(?:DCGM_FI_|nvidia_smi_|ipmi_)\w+[ {]|# (?:HELP|TYPE) [A-Za-z_:][\w:]* ")
Labels = dict[str, str]


def sniff(head: bytes, _path: Path) -> bool:
    """Whether the first line is one of a scrape."""
    return _SNIFF.match(head.lstrip()) is not None


def labels_of(text: str) -> Labels:
    """Labels written as `a="x",b="y"`."""
    return {key: re.sub(r"\\(.)", _unescaped, value) for key, value in _LABEL.findall(text)}


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def source_of(labels: Labels) -> tuple[str, bool] | None:
    """Name of what was measured and whether it is the same everywhere; None if the labels tell nothing."""
    uuid = labels.get("UUID", labels.get("uuid", ""))
    if uuid:
        return uuid, uuid.startswith("GPU-")
    host = labels.get("Hostname", labels.get("instance", ""))
    parts = [part for part in (host, f"gpu{labels['gpu']}" if "gpu" in labels else "") if part]
    return ("/".join(parts), bool(host)) if parts else None


def is_part(labels: Labels) -> bool:
    """Whether the series is of an instance of a divided GPU, which repeats the watts of the whole."""
    return labels.get("GPU_I_ID", "") != ""


def read(path: Path) -> Iterator[PowerRows]:
    """Readings of power; DataError names a line that is no sample."""
    name = printable(path)
    scrape = _Scrape(name)
    for first, block in line_blocks(path):
        lines = block.split(b"\n")
        if lines.pop().strip():
            scrape.defects["cut lines"] += 1
        for line, text in enumerate(lines, first):
            if not text or text.startswith(b"#") or text.isspace():
                continue
            match = _SAMPLE.fullmatch(text)
            if match is None or not scrape.knows(match):
                fail(name, line, f"{shown(text)} is no sample of a scrape; scrape again, or remove the line")
            if scrape.full:
                yield scrape.take()
    scrape.finish()
    yield scrape.take()


class _Scrape:
    """Readings on their way to rows; the scrape under way is kept until a series comes again."""

    def __init__(self, name: str) -> None:
        self.defects: Counter[str] = Counter()
        self._sources = Sources(name)
        self._known: dict[bytes, tuple[int, bool] | None] = {}
        self._series: set[bytes] = set()
        self._best: dict[int, tuple[int, float, float | None]] = {}
        self._rows: list[tuple[int, float, float | None]] = []

    @property
    def full(self) -> bool:
        """Whether there are enough rows for a block."""
        return len(self._rows) >= 4096

    def knows(self, match: re.Match[bytes]) -> bool:
        """Take one sample; False if its value is no number."""
        source = self._source(match["labels"] or b"")
        rank = DRAWS.get(match["name"].decode())
        if rank is None or source is None:
            return True
        try:
            power_w = float(match["value"])
        except ValueError:
            return False
        series = match["name"] + (match["labels"] or b"")
        if series in self._series or len(self._series) >= MAX_SERIES:
            self.finish()
        self._series.add(series)
        self._keep(source, rank, power_w, None if match["ms"] is None else int(match["ms"]) / MS_PER_S)
        return True

    def _keep(self, source: tuple[int, bool], rank: int, power_w: float, time_s: float | None) -> None:
        index, part = source
        best = self._best.get(index)
        if best is not None and best[0] == rank:
            # Of a divided GPU each instance shows the watts of the whole, which count once.
            self.defects["repeats of a whole GPU" if part else "repeats of a series"] += 1
        elif best is None or (rank < best[0] and not np.isnan(power_w)) or np.isnan(best[1]):
            self._best[index] = rank, power_w, time_s

    def _source(self, labels: bytes) -> tuple[int, bool] | None:
        if labels not in self._known:
            if len(self._known) >= MAX_SERIES:
                self._known.clear()
            told = labels_of(labels.decode("utf-8", "replace")[1:-1])
            named = source_of(told)
            index = None if named is None else self._sources.index(named[0], everywhere=named[1])
            self._known[labels] = None if index is None else (index, is_part(told))
        return self._known[labels]

    def finish(self) -> None:
        """The scrape is complete."""
        self._rows += [(index, power_w, time_s) for index, (_, power_w, time_s) in self._best.items()]
        self._best.clear()
        self._series.clear()

    def take(self) -> PowerRows:
        """All complete readings since the last call."""
        rows, self._rows = self._rows, []
        timed = bool(rows) and all(time_s is not None for _, _, time_s in rows)
        defects, self.defects = self.defects, Counter()
        return PowerRows(
            self._sources,
            np.array([index for index, _, _ in rows], dtype=np.int32),
            np.array([time_s for _, _, time_s in rows], dtype=np.float64) if timed else None,
            np.array([power_w for _, power_w, _ in rows], dtype=np.float64),
            "unix" if timed else "none",
            defects=defects,
        )
