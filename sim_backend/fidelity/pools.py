"""Splitwise's published simulator: our re-implementation of its rules against its own runs, request by request."""

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.errors import DataError
from sim_backend.arrivals import Arrivals
from sim_backend.fidelity.check import Check
from sim_backend.pools.peer_runs import peer_setup
from sim_backend.pools.pools import Pools

FOLDER, PROFILE = "peer-simulator-runs", "splitwise-perf-model"
LIMIT_S = 1e-6
GPUS = {"h": "h100-80gb", "a": "a100-80gb", "hcap": "h100-80gb-pcap"}
SPLITS = {"hh": ("h", "h"), "aa": ("a", "a"), "ha": ("h", "a"), "hhcap": ("h", "hcap")}
"""GPUs of the prompt and of the token servers, by the first word of a configuration's name."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ListedRequests:
    """The requests of one run."""

    arrivals: Arrivals

    @property
    def duration_s(self) -> float:
        """To the last arrival, and a second."""
        return float(self.arrivals.arrival_s[-1]) + 1.0

    def blocks(self) -> Iterator[Arrivals]:
        """All at once."""
        yield self.arrivals


def groups_of(config: str) -> list[tuple[str, int, str]]:
    """Servers of a configuration such as "hh_25_15" or "baseline_a100_70", as `peer_setup` takes them.

    Raises:
        DataError: a name that says nothing.
    """
    words = config.split("_")
    if words[0] == "baseline" and words[1][0] in GPUS:
        return [(GPUS[words[1][0]], int(words[2]), "mixed")]
    if words[0] not in SPLITS:
        raise DataError(f"run '{config}': its name begins with none of baseline, {', '.join(SPLITS)}")
    prompt, token = (GPUS[name] for name in SPLITS[words[0]])
    prompts, tokens = (prompt, int(words[1]), "prompt"), (token, int(words[2]), "token")
    # A cluster lists the A100s and the capped GPUs first; only then do the roles begin there.
    return [prompts, tokens] if prompt == token else [tokens, prompts]


def _columns(path: Path, names: tuple[str, ...]) -> list[Floats]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            rows = [[float(row[name]) for name in names] for row in csv.DictReader(stream)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no run of the published simulator ({error}); see docs/data.md") from error
    return list(np.array(rows).T)


def model_of(data: Path, run: str) -> str:
    """Language model of a run, as the file beside its requests says.

    Raises:
        DataError: unreadable.
    """
    path = data / FOLDER / f"{run}.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: does not say which model the run is of ({error}); see docs/data.md") from error


def errors_s(data: Path, run: str) -> tuple[Floats, Floats]:
    """Differences in time to first token and to the last, of every request of one run [requests].

    Args:
        data: folder with the recordings.
        run: "<config>__<trace>", as the files are named.

    Raises:
        DataError: unreadable or unknown, naming what.
    """
    config, trace = run.split("__")
    names = ("arrival_timestamp", "prompt_size", "token_size")
    arrival_s, prompts, outputs = _columns(data / FOLDER / "traces" / f"{trace}.csv.gz", names)
    arrivals = Arrivals(
        arrival_s, prompts.astype(np.int32), outputs.astype(np.int32), np.zeros(len(arrival_s), np.int8)
    )
    pools = Pools(peer_setup(data / PROFILE, model_of(data, run), groups_of(config)), ListedRequests(arrivals))
    pools.keep_record()
    pools.drain()
    index, ttft_s, e2e_s = _columns(
        data / FOLDER / f"{run}.requests.csv.gz", ("request_ids", "ttft_times", "response_times")
    )
    rows = index.astype(np.int64)
    return np.abs(pools.ttft_s[rows] - ttft_s), np.abs(pools.e2e_s[rows] - e2e_s)


def checks(data: Path) -> list[Check]:
    """Every run there is; nothing is fitted.

    Args:
        data: folder with the recordings.

    Raises:
        DataError: unreadable or unknown, naming what.
    """
    found = []
    for path in sorted((data / FOLDER).glob("*.requests.csv.gz")):
        run = path.name.removesuffix(".requests.csv.gz")
        ttft_s, e2e_s = errors_s(data, run)
        for quantity, error_s in (("time to first token", ttft_s), ("end-to-end time", e2e_s)):
            found.append(
                Check(
                    group="Published phase-splitting simulator, by its own rules",
                    quantity=f"{quantity}, {run}",
                    source=FOLDER,
                    fitted_points=0,
                    held_out_points=len(error_s),
                    median_error=float(np.median(error_s)),
                    worst_error=float(error_s.max()),
                    limit=LIMIT_S,
                    unit="s",
                    limit_on_worst=True,
                )
            )
    return found
