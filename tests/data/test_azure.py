"""The public Azure conversation trace, as published and as rewritten in seconds."""

import time
from pathlib import Path

import numpy as np
import pytest

from sim_backend.arrivals import Load, TraceArrivals
from telemetry.request_trace import RequestTrace, read_request_trace

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def azure_path(recordings: Path) -> Path:
    return recordings / "azure-llm-2023-conv" / "AzureLLMInferenceTrace_conv.csv.gz"


@pytest.fixture(scope="module")
def azure(azure_path: Path) -> RequestTrace:
    return read_request_trace(azure_path)


def test_the_published_hour_has_its_published_statistics(azure: RequestTrace) -> None:
    rows = azure.read(0, azure.rows)
    assert azure.rows == 19_366
    assert azure.last_s == 3501.721937
    assert azure.zero_output_rows == 0
    assert rows["prompt_tokens"].mean() == pytest.approx(1155, abs=1)
    assert np.median(rows["prompt_tokens"]) == 1020
    assert rows["prompt_tokens"].max() == 14_050
    assert rows["output_tokens"].mean() == pytest.approx(211, abs=0.5)
    assert np.median(rows["output_tokens"]) == 129
    assert rows["output_tokens"].max() == 1000
    gaps_s = np.diff(rows["arrival_s"])
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.09, abs=0.005)


@pytest.mark.parametrize("compress_time", [1, 12])
def test_compressed_in_time_it_is_the_trace_of_the_reference_runs(
    azure: RequestTrace, recordings: Path, compress_time: int
) -> None:
    path = recordings / "peer-simulator-runs" / "traces" / f"azure_conv_x{compress_time}.csv.gz"
    reference = read_request_trace(path)
    rows = reference.read(0, reference.rows)
    (ours,) = TraceArrivals(azure, Load(compress_time=compress_time)).blocks()
    assert np.abs(rows["arrival_s"] - 1.0 - ours.arrival_s).max() < 1e-9
    assert (rows["prompt_tokens"] == ours.prompt_tokens).all()
    assert (rows["output_tokens"] == ours.output_tokens).all()


def test_it_is_read_in_a_moment(azure_path: Path) -> None:
    best_s = 9.0
    for _ in range(5):
        begun_s = time.process_time()
        read_request_trace(azure_path)
        best_s = min(best_s, time.process_time() - begun_s)
    assert best_s < 0.06


def test_thirty_per_cent_more_load_keeps_the_recorded_hour_inside_it(azure: RequestTrace) -> None:
    more, plain = (
        np.concatenate([block.arrival_s for block in TraceArrivals(azure, Load(factor=factor)).blocks()])
        for factor in (1.3, 1.0)
    )
    assert len(more) == pytest.approx(1.3 * 19_366, rel=0.01)
    assert np.isin(plain, more).all()
