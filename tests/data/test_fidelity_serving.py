"""The shipped numbers of serving come out of the recordings again, and hold for models that they were not fitted to."""

import os
from pathlib import Path

import numpy as np
import pytest

from policies.errors import DataError
from sim_backend.calibration import serving
from sim_backend.calibration.mlenergy import V2, V3, read_runs
from sim_backend.fidelity.serving import MLPERF, checks

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def data():
    return Path(os.environ["OVERWATT_DATA"])


@pytest.fixture(scope="module")
def lines(data):
    return {(check.source, check.group.split(",")[1][1:5], check.quantity): check for check in checks(data)}


def test_every_recorded_run_is_read(data):
    runs = read_runs(data)
    assert len([run for run in runs if run.folder == V3]) == 274
    assert len([run for run in runs if run.folder == V2]) == 157 + 157


def test_a_model_falls_into_one_half(data):
    runs = read_runs(data)
    half = serving.fitted_half(runs)
    for folder in (V3, V2):
        of_fit = {run.model for run, fits in zip(runs, half, strict=True) if fits and run.folder == folder}
        of_rest = {run.model for run, fits in zip(runs, half, strict=True) if not fits and run.folder == folder}
        assert of_fit.isdisjoint(of_rest)
        assert min(len(of_fit), len(of_rest)) >= 10


@pytest.mark.slow
def test_fitting_again_gives_the_shipped_numbers(data):
    shipped = serving.shipped()
    for card, fields in serving.fit(data).items():
        for field, value in fields.items():
            assert getattr(shipped[card], field) == pytest.approx(value, rel=0.01), (card, field)


@pytest.mark.parametrize(
    ("key", "at_most"),
    [
        ((V3, "H100", "power of a GPU"), 0.065),
        ((V3, "H100", "time per token"), 0.08),
        ((V3, "H100", "inter-token latency, median"), 0.10),
        ((V2, "H100", "power of a GPU"), 0.08),
        ((V2, "H100", "time per token"), 0.11),
        ((V2, "A100", "power of a GPU"), 0.08),
        ((V2, "A100", "time per token"), 0.10),
        ((MLPERF, "H200", "throughput at 700 and 500 W"), 0.10),
    ],
)
def test_median_error_of_models_that_nothing_was_fitted_to(lines, key, at_most):
    assert lines[key].median_error <= at_most


def test_held_out_points_are_no_fitted_ones(lines):
    check = lines[V3, "H100", "power of a GPU"]
    assert (check.fitted_points, check.held_out_points) == (128, 146)


def test_the_engine_decides_the_power_of_the_same_gpu(data):
    """Llama-3.1-8B on one H100 with 128 requests: 669 W under the newer engine, 281 W under the older one."""
    runs = [
        run
        for run in read_runs(data)
        if run.llm.name == "llama-3.1-8b" and run.gpu == serving.H100 and round(run.fed.batch, -1) == 130
    ]
    model_w = {
        run.engine: each.gpu_w for run, each in zip(runs, serving.predicted(runs, serving.shipped()), strict=True)
    }
    assert model_w["vllm-0.10"] / model_w["vllm-0.5"] == pytest.approx(669 / 281, rel=0.15)


def test_no_model_draws_more_than_its_limit(data):
    runs = read_runs(data)
    limit_w = {serving.H100: 700.0, serving.A100: 400.0}
    results = serving.predicted(runs, serving.shipped())
    over = [each.gpu_w / limit_w[run.gpu] for run, each in zip(runs, results, strict=True)]
    assert np.max(over) <= 1.0 + 1e-9


def test_a_missing_benchmark_is_named(tmp_path):
    with pytest.raises(DataError, match=r"llm_h100.csv.*fetch"):
        read_runs(tmp_path)
