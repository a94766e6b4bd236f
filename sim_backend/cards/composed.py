"""A server's profile put together from cards: server, language model, engine version and how the model is spread.

The key says all of it, `SERVER__MODEL__ENGINE` or `SERVER__MODEL__ENGINE__tp4dp2`: the same GPU and model differ by
twofold between engine releases, so a profile without an engine's version would be a guess. The iteration model decides
what the plant does; the affine numbers beside it are what it comes to at a usual batch, for those who believe in them
(the controller starts with such beliefs and learns).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from policies.errors import ConfigError
from policies.models.iteration import IterationModel, iteration
from sim_backend.cards.engine_card import load_engine
from sim_backend.cards.gpu_card import GpuCard, load_gpu
from sim_backend.cards.instance import Instance, Layout, instance
from sim_backend.cards.llm_card import load_llm
from sim_backend.cards.server_card import ServerCard, load_server, node_w
from sim_backend.profile import Profile

SEPARATOR = "__"
USUAL_BATCH, USUAL_CONTEXT = 32.0, 1_500.0
"""Requests that decode together and tokens of each, at which affine numbers are taken: a conversation at half load."""
USUAL_LOAD = 0.6
"""GPU draw over TDP at which a server's usual non-GPU watts are taken."""
PROMPTS = (128.0, 512.0, 1024.0, 2048.0)
LOW_CLOCK = 0.6
"""Clock ratio down to which the affine clock laws are made to agree."""


@dataclass(frozen=True, slots=True)
class Key:
    """The parts of a composed profile's name."""

    server: str
    llm: str
    engine: str
    layout: Layout | None
    """None: tensor parallel over all GPUs of the server."""


def parse_key(name: str) -> Key | None:
    """The parts of `name`; None if it is not such a key."""
    parts = name.split(SEPARATOR)
    if len(parts) not in (3, 4):
        return None
    layout = None
    if len(parts) == 4:
        found = re.fullmatch(r"tp(\d+)(?:dp(\d+))?", parts[3])
        if found is None:
            raise ConfigError(f"profile '{name}': '{parts[3]}' must say how the model is spread, such as tp8 or tp4dp2")
        layout = Layout(tensor_parallel=int(found[1]), data_parallel=int(found[2] or 1))
    return Key(parts[0], parts[1], parts[2], layout)


@lru_cache(maxsize=64)
def composed_profile(key: Key) -> Profile:
    """The profile of a server that runs one engine over all its GPUs.

    Raises:
        ConfigError: an unknown card, a layout that is not the server's, or a model that does not fit.
    """
    server, llm, engine = load_server(key.server), load_llm(key.llm), load_engine(key.engine)
    gpu = load_gpu(server.gpu)
    layout = key.layout or Layout(tensor_parallel=server.gpus)
    name = SEPARATOR.join((server.name, llm.name, engine.name, f"tp{layout.tensor_parallel}dp{layout.data_parallel}"))
    if layout.gpus != server.gpus:
        raise ConfigError(f"profile '{name}': spread over {layout.gpus} GPUs, but a {server.name} has {server.gpus}")
    return _profile(name, server, gpu, instance(gpu, llm, engine, layout))


def _profile(name: str, server: ServerCard, gpu: GpuCard, engine: Instance) -> Profile:
    model = engine.iteration
    prefill_s, prefill_w, prefill_low_w = _prefill(model)
    decode_base_s, per_request_s, per_context_s, decode_share = _decode(model)
    decode = iteration(model, USUAL_BATCH, USUAL_BATCH, 0.0, USUAL_BATCH * USUAL_CONTEXT)
    decode_low = iteration(model, USUAL_BATCH, USUAL_BATCH, 0.0, USUAL_BATCH * USUAL_CONTEXT, LOW_CLOCK)
    other_full_w = float(node_w(server, server.gpus_tdp_w)) - server.gpus_tdp_w
    per_octave = max((prefill_w[-1] - prefill_w[0]) / np.log2(PROMPTS[-1] / PROMPTS[0]), 0.0)
    at_128 = min(prefill_w[0], gpu.tdp_w)
    return Profile(
        name=name,
        gpus=server.gpus,
        tdp_w=gpu.tdp_w,
        idle_w=gpu.loaded_w,
        max_mhz=gpu.max_mhz,
        min_mhz=gpu.min_mhz,
        min_limit_w=gpu.min_limit_w,
        nameplate_w=max(server.rated_w, server.gpus_tdp_w + other_full_w),
        other_w=float(node_w(server, USUAL_LOAD * server.gpus_tdp_w)) - USUAL_LOAD * server.gpus_tdp_w,
        other_max_w=other_full_w,
        overshoot_ratio=gpu.overshoot_ratio,
        kv_tokens=engine.kv_tokens,
        max_batch=engine.max_batch,
        max_batch_tokens=engine.max_batch_tokens,
        mixed_batch_factor=1.0,
        prefill_base_s=prefill_s[0],
        prefill_per_token_s=prefill_s[1],
        prefill_per_token2_s=prefill_s[2],
        prefill_clock_share=1.0,
        decode_base_s=decode_base_s,
        decode_per_request_s=per_request_s,
        decode_per_context_s=per_context_s,
        decode_clock_share=decode_share,
        prefill_at_128=at_128 / gpu.tdp_w,
        prefill_per_octave=per_octave / gpu.tdp_w,
        prefill_ceiling=max(min(max(prefill_w), gpu.tdp_w), at_128) / gpu.tdp_w,
        decode_ratio=min(decode.gpu_w, gpu.tdp_w) / gpu.tdp_w,
        prefill_static_share=_static_share(prefill_low_w, prefill_w[-1], model.exponent),
        prefill_exponent=model.exponent,
        decode_static_share=_static_share(decode_low.gpu_w, decode.gpu_w, model.exponent),
        decode_exponent=model.exponent,
        provenance={"cards": f"{server.name}, {gpu.name}, {name}"},
        iteration=model,
        limiter_s=gpu.limiter_s,
        server=server,
    )


def _prefill(model: IterationModel) -> tuple[list[float], list[float], float]:
    """Affine coefficients of prefill time, watts of the usual prompts, and of the longest at the low clock."""
    found = [iteration(model, 1.0, n, 0.5 * n * (n + 1.0), 0.0) for n in PROMPTS]
    columns = np.vander(np.array(PROMPTS), 3, increasing=True)
    times = np.array([one.lasts_s for one in found])
    fitted = np.linalg.lstsq(columns / times[:, None], np.ones(len(times)), rcond=None)[0]
    longest = PROMPTS[-1]
    low = iteration(model, 1.0, longest, 0.5 * longest * (longest + 1.0), 0.0, LOW_CLOCK)
    return [max(float(c), 0.0) for c in fitted], [one.gpu_w for one in found], low.gpu_w


def _decode(model: IterationModel) -> tuple[float, float, float, float]:
    """Affine coefficients of decode time, and the share of it that goes with the clock."""

    def lasts_s(batch: float, context: float, clock_ratio: float = 1.0) -> float:
        return iteration(model, batch, batch, 0.0, batch * context, clock_ratio).lasts_s

    usual_s = lasts_s(USUAL_BATCH, USUAL_CONTEXT)
    per_context_s = (lasts_s(USUAL_BATCH, 2.0 * USUAL_CONTEXT) - usual_s) / (USUAL_BATCH * USUAL_CONTEXT)
    per_request_s = (lasts_s(2.0 * USUAL_BATCH, USUAL_CONTEXT) - usual_s) / USUAL_BATCH - per_context_s * USUAL_CONTEXT
    base_s = usual_s - USUAL_BATCH * (per_request_s + per_context_s * USUAL_CONTEXT)
    share = (lasts_s(USUAL_BATCH, USUAL_CONTEXT, LOW_CLOCK) / usual_s - 1.0) / (1.0 / LOW_CLOCK - 1.0)
    return max(base_s, 1e-6), max(per_request_s, 0.0), max(per_context_s, 0.0), min(max(share, 0.0), 1.0)


def _static_share(low_w: float, full_w: float, exponent: float) -> float:
    """The share `a` of `a + (1 - a) * phi**n` that gives `low_w` at `LOW_CLOCK`."""
    factor: float = LOW_CLOCK**exponent
    return min(max((low_w / full_w - factor) / (1.0 - factor), 0.0), 0.99)
