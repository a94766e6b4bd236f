"""Power limits of GPUs put together from cards: no second's mean exceeds a limit by more than the card says."""

import numpy as np
import pytest

from sim_backend import predict as p

# GPU, model, number of GPUs.
INSTANCES = (
    ("h100-sxm", "llama-3.1-70b", 4),
    ("h100-sxm", "llama-3.1-8b", 1),
    ("a100-80gb", "llama-3.1-8b", 1),
    ("h200-sxm", "llama-3.1-405b", 8),
    ("b200", "llama-3.1-70b", 4),
)
# Prompt and output tokens, requests per second: long prompts out of idleness, bursts beside decodes, steady load.
LOADS = ((32_768, 64, 0.05), (8_000, 16, 0.2), (1_024, 256, 0.3), (512, 128, 3.0))


@pytest.mark.parametrize(("gpu", "model", "gpus"), INSTANCES)
@pytest.mark.parametrize("share", [0.0, 0.36, 0.5, 0.7, 0.9])
def test_a_second_under_a_limit_exceeds_it_by_no_more_than_the_card_says(
    gpu: str, model: str, gpus: int, share: float
) -> None:
    """`share` of TDP, or the lowest limit that the GPU accepts: leases are turned into limits with that ratio."""
    card = p.assembled(p.Parts(gpu, gpus, model, "vllm-0.10")).gpu
    limit_w = max(card.min_limit_w, share * card.tdp_w)
    parts = p.assembled(p.Parts(gpu, gpus, model, "vllm-0.10", limit_w=limit_w))
    for prompt, output, rps in LOADS:
        sizes = p.Sizes(np.array([prompt], np.int32), np.array([output], np.int32))
        drawn_w = p.simulate(parts, rps, sizes, seed=1).gpus_w / gpus
        assert drawn_w.max() <= limit_w * card.overshoot_ratio, (prompt, output, rps)
        assert drawn_w.max() > 0.2 * limit_w
