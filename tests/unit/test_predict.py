"""Prediction: names found and refused, parts put together, steady state against what must hold."""

import math
from pathlib import Path

import numpy as np
import pytest

from policies.errors import ConfigError
from policies.models.iteration import iteration
from sim_backend import predict as p
from sim_backend.cards import engine_card, gpu_card
from sim_backend.cards.reading import card_names
from sim_backend.fidelity import bands as b

PARTS = p.Parts("h100", 4, "llama-3.1-70b", "vllm-0.10")
SIZES = p.Sizes(np.array([1_024], np.int32), np.array([256], np.int32))
ENGINES = {name: name for name in ("vllm-0.5", "vllm-0.10", "trt-llm-0.11")}


def test_names_are_forgiven():
    known = {"h100-sxm": "h100-sxm", "h100": "h100-sxm", "h100-pcie": "h100-pcie"}
    assert p.closest("GPU", "H100", known) == "h100-sxm"
    assert p.closest("GPU", "h100_PCIe", known) == "h100-pcie"
    assert p.closest("engine", "vllm-0.10.2", ENGINES) == "vllm-0.10"
    assert p.closest("engine", "vLLM", ENGINES) == "vllm-0.10", "the latest, by number"
    assert p.closest("model", "meta-llama/Llama-3.1-70B", {"llama-3.1-70b": "x", "llama-3.1-8b": "y"}) == "x"


@pytest.mark.parametrize(("asked", "words"), [("b300", "there are h100-pcie, h100-sxm"), ("", "not known")])
def test_unknown_names_are_one_line_with_the_known_ones(asked: str, words: str):
    with pytest.raises(ConfigError, match=words if asked else "may be|not known") as caught:
        p.closest("GPU", asked, {"h100-sxm": "h100-sxm", "h100-pcie": "h100-pcie"})
    assert "\n" not in str(caught.value)


def test_a_kind_that_is_not_there_is_not_taken_for_its_neighbour():
    with pytest.raises(ConfigError, match="not known"):
        p.closest("GPU", "h100-nvl", {"h100-sxm": "h100-sxm", "h100": "h100-sxm"})
    with pytest.raises(ConfigError, match=r"may be llama-3\.1-70b, llama-3\.1-8b: name one"):
        p.closest("model", "llama-3.1", {name: name for name in ("llama-3.1-70b", "llama-3.1-8b")})


def test_every_shipped_gpu_engine_and_model_can_be_named():
    for gpu in card_names(gpu_card.FOLDER):
        assert p.assembled(p.Parts(gpu, 1, "qwen3-0.6b", "vllm-0.10")).gpu.name == gpu
    for engine in card_names(engine_card.FOLDER):
        assert p.assembled(p.Parts("h100", 1, "qwen3-0.6b", engine)).engine.name == engine


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (p.Parts("a100", 1, "llama-3.1-70b", "vllm-0.10"), "does not fit on 1 x a100-80gb"),
        (p.Parts("h100", 3, "llama-3.1-70b", "vllm-0.10"), "--gpus 3: .* on 1, 2, 4, 8 GPUs of one server"),
        (p.Parts("h100", 4, "llama-3.1-70b", "vllm-0.10", clock_mhz=9e3), "--clock 9000: .* from 210 to 1980 MHz"),
        (p.Parts("h100", 4, "llama-3.1-70b", "vllm-0.10", limit_w=1.0), "--power-limit 1: .* from 200 to 700 W"),
        (p.Parts("h100", 4, "llama-3.1-70b", "vllm-0.10", "dgx-a100"), "has GPUs of kind a100-80gb, not h100-sxm"),
        (p.Parts("h100", 4, "llama-3.1-70b", "vllm-0.10", weights="fp3"), "number format 'fp3' is not known"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(parts: p.Parts, words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        p.assembled(parts)
    assert "\n" not in str(caught.value)


def test_a_request_longer_than_the_cache_is_refused():
    with pytest.raises(ConfigError, match="a request of 2000001 tokens never fits"):
        p.simulate(p.assembled(PARTS), 1.0, p.Sizes(np.array([2_000_000], np.int32), np.array([1], np.int32)), 1)


def test_a_steady_instance_serves_what_it_is_sent():
    parts = p.assembled(PARTS)
    steady = p.simulate(parts, 1.0, SIZES, 1)
    assert steady.stable
    assert len(steady.e2e_s) / steady.lasts_s == pytest.approx(1.0, rel=0.05)
    # Little's law on the whole: power between idle and the sum of limits.
    assert 4 * parts.gpu.loaded_w < steady.gpus_w.mean() < 4 * parts.gpu.tdp_w
    assert np.quantile(steady.gpus_w, 0.99) >= steady.gpus_w.mean()
    assert (steady.e2e_s > steady.ttft_s).all()
    alone = iteration(parts.instance.iteration, 1.0, 1.0, 0.0, 1_024.0).lasts_s
    assert steady.tpot_s.min() >= alone * (1.0 - 1e-9)


def test_more_load_is_slower_until_the_queue_grows():
    parts = p.assembled(PARTS)
    little = p.simulate(parts, 0.5, SIZES, 1)
    much = p.simulate(parts, 0.9 * little.largest_rps, SIZES, 1)
    beyond = p.simulate(parts, 1.5 * little.largest_rps, SIZES, 1)
    assert little.stable
    assert much.stable
    assert not beyond.stable
    for share in (0.5, 0.99):
        assert np.quantile(little.tpot_s, share) < np.quantile(much.tpot_s, share)
        assert np.quantile(little.ttft_s, share) < np.quantile(much.ttft_s, share)
    assert little.gpus_w.mean() < much.gpus_w.mean()
    served_rps = len(beyond.e2e_s) / beyond.lasts_s
    assert served_rps == pytest.approx(beyond.largest_rps, rel=0.1)


def test_caps_cost_time_and_save_power():
    free = p.simulate(p.assembled(PARTS), 2.0, SIZES, 1)
    slow = p.simulate(p.assembled(p.Parts(*_named(), clock_mhz=990.0)), 2.0, SIZES, 1)
    tight = p.simulate(p.assembled(p.Parts(*_named(), limit_w=350.0)), 2.0, SIZES, 1)
    for capped in (slow, tight):
        assert capped.gpus_w.mean() < free.gpus_w.mean()
        assert np.median(capped.ttft_s) > np.median(free.ttft_s)
        assert capped.largest_rps < free.largest_rps
    # The limiter holds the mean; a second in which load comes may exceed it by what the card says.
    assert tight.gpus_w.mean() <= 4 * 350.0
    assert np.quantile(tight.gpus_w, 0.99) <= 4 * 350.0 * p.assembled(PARTS).gpu.overshoot_ratio


def _named() -> tuple[str, int, str, str]:
    return PARTS.gpu, PARTS.gpus, PARTS.model, PARTS.engine


def test_same_seed_same_figures():
    parts = p.assembled(PARTS)
    first, again, other = (p.simulate(parts, 1.0, SIZES, seed) for seed in (1, 1, 2))
    assert first.ttft_s.tobytes() == again.ttft_s.tobytes()
    assert first.ttft_s.tobytes() != other.ttft_s.tobytes()


def test_a_server_draws_more_than_its_gpus():
    parts = p.assembled(PARTS)
    gpus_w = np.array([600.0, 2_400.0])
    server_w = p.server_w(parts, gpus_w)
    assert server_w is not None
    assert parts.server is not None
    assert (server_w > gpus_w + parts.server.base_w).all()
    assert server_w[1] - server_w[0] >= 1_800.0


def test_bands_come_from_the_pair_or_are_widened(tmp_path: Path):
    table = tmp_path / "bands.toml"
    table.write_text(
        "".join(
            f'[[band]]\ngpu = "{gpu}"\nengine = "{engine}"\nquantity = "power"\nerror = {error}\nsource = "test"\n'
            for gpu, engine, error in (("h100", "vllm", 0.06), ("a100", "vllm", 0.08))
        )
    )
    bands = b.read_bands(table)
    own = b.band_of(bands, "h100", "vllm", "power")
    near = b.band_of(bands, "h200", "vllm", "power")
    far = b.band_of(bands, "h200", "other", "power")
    none = b.band_of(bands, "h100", "vllm", "ttft")
    assert (own.measured, near.measured, far.measured, none.measured) == (True, False, False, False)
    assert own.error == 0.06
    assert near.error == pytest.approx(b.NEARBY * 0.08)
    assert far.error == pytest.approx(b.UNMEASURED * 0.08)
    assert none.error == pytest.approx(b.UNMEASURED * b.ASSUMED["ttft"])
    around = own.around(100.0)
    assert around["low"] < around["value"] < around["high"]
    assert math.isclose(around["low"] * around["high"], 100.0**2)


@pytest.mark.parametrize(
    "text", ["[[band]]\ngpu = 1\n", "not toml", '[[band]]\ngpu="a"\nengine="b"\nquantity="x"\nerror=0.1\nsource="s"\n']
)
def test_a_broken_table_of_bands_is_refused(tmp_path: Path, text: str):
    table = tmp_path / "bands.toml"
    table.write_text(text)
    with pytest.raises(ConfigError, match=r"bands\.toml"):
        b.read_bands(table)
    assert b.read_bands(tmp_path / "none.toml") == []
