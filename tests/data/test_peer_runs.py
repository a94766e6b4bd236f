"""Our re-implementation of Splitwise's simulator against seven of its runs, request by request."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from policies.errors import DataError
from sim_backend.fidelity.pools import LIMIT_S, checks, errors_s, groups_of
from sim_backend.pools.peer_runs import PEER_MODELS, peer_setup, speed_table
from sim_backend.pools.pools import Pools
from tests.twin.peer_cases import RUNS, Listed
from tests.twin.peer_twin import Limits, PeerTwin, Speed

pytestmark = pytest.mark.data
TOLERANCE_S = 1e-9
"""What a difference of rounding could never reach, and what any difference of rules exceeds."""


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def requests_of(recordings: Path, run: str) -> list[tuple[float, int, int]]:
    path = recordings / "peer-simulator-runs" / "traces" / f"{run.split('__')[1]}.csv.gz"
    return [(float(row["arrival_timestamp"]), int(row["prompt_size"]), int(row["token_size"])) for row in rows_of(path)]


def published(recordings: Path, run: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = rows_of(recordings / "peer-simulator-runs" / f"{run}.requests.csv.gz")
    columns = ("request_ids", "ttft_times", "response_times")
    index, ttft_s, e2e_s = (np.array([float(row[name]) for row in rows]) for name in columns)
    return index.astype(int), ttft_s, e2e_s


@pytest.mark.parametrize("run", RUNS)
def test_every_request_of_every_run_has_its_published_times(recordings: Path, run: str) -> None:
    setup = peer_setup(recordings / "splitwise-perf-model", "bloom-176b", RUNS[run])
    pools = Pools(setup, Listed(requests_of(recordings, run)))
    pools.keep_record()
    pools.drain()
    index, ttft_s, e2e_s = published(recordings, run)
    assert len(index) == len(pools.ttft_s) == 19_366
    np.testing.assert_allclose(pools.ttft_s[index], ttft_s, rtol=0.0, atol=TOLERANCE_S)
    np.testing.assert_allclose(pools.e2e_s[index], e2e_s, rtol=0.0, atol=TOLERANCE_S)


@pytest.mark.parametrize("run", ["baseline_h100_40__azure_conv_x1", "hh_25_15__azure_conv_x12"])
def test_so_do_the_rules_in_plain_python(recordings: Path, run: str) -> None:
    """The twin, against which the compiled pools are checked where no run of the original was published."""
    table = speed_table(recordings / "splitwise-perf-model", "bloom-176b", "h100-80gb")
    speed = Speed(tuple(table.tokens), tuple(table.prefill_s), tuple(table.decode_s))
    homes = ["" if role == "mixed" else role for _, count, role in RUNS[run] for _ in range(count)]
    jobs = PeerTwin([speed] * len(homes), homes, Limits()).run(requests_of(recordings, run))
    index, ttft_s, e2e_s = published(recordings, run)
    np.testing.assert_allclose(np.array([job.ttft_s for job in jobs])[index], ttft_s, rtol=0.0, atol=TOLERANCE_S)
    np.testing.assert_allclose(np.array([job.e2e_s for job in jobs])[index], e2e_s, rtol=0.0, atol=TOLERANCE_S)


def test_every_model_and_gpu_of_the_profile_can_be_set_up(recordings: Path) -> None:
    for model in PEER_MODELS:
        for gpu in ("a100-80gb", "h100-80gb", "h100-80gb-pcap"):
            table = speed_table(recordings / "splitwise-perf-model", model, gpu)
            assert np.all(np.diff(table.tokens) > 0.0)
            assert len(table.tokens) == len(table.decode_s) == 9


def test_the_report_of_fidelity_has_two_lines_for_each_run(recordings: Path) -> None:
    found = checks(recordings)
    assert len(found) == 2 * len(RUNS)
    assert all(check.within and check.held_out_points == 19_366 for check in found)
    assert max(check.worst_error for check in found) < LIMIT_S


def test_the_name_of_a_run_says_its_servers() -> None:
    for run, groups in RUNS.items():
        assert groups_of(run.split("__")[0]) == groups
    with pytest.raises(DataError, match="begins with none of"):
        groups_of("orca_3_4")


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"azure_conv_x1\.csv\.gz"):
        errors_s(tmp_path, "hh_25_15__azure_conv_x1")


def test_models_and_gpus_that_are_not_known_are_named(recordings: Path) -> None:
    with pytest.raises(DataError, match="bloom-176b, llama2-70b"):
        peer_setup(recordings / "splitwise-perf-model", "gpt-3", [("h100-80gb", 1, "mixed")])
    with pytest.raises(DataError, match="no row of"):
        speed_table(recordings / "splitwise-perf-model", "bloom-176b", "h200")
