"""Clusters as Splitwise's simulator sets them up, from its published profile."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from policies.errors import DataError
from sim_backend.calibration.splitwise import SYNTHETIC, Row, read_rows
from sim_backend.pools.kinds import Kind, SpeedTable
from sim_backend.pools.semantics import PEER, Semantics
from sim_backend.pools.setup import KvLink, Setup
from sim_backend.profile import Profile

GPU_BYTES = 80 * 1024**3
GPUS = 8
LINK_BYTES_PER_S = 200 * 1024**3
CAPPED_OF, CAPPED_PREFILL = "h100-80gb", 1.3


@dataclass(frozen=True, slots=True)
class PeerModel:
    """A language model as that simulator knows it: its KV cache without grouped heads, its weights in bytes."""

    weight_bytes: int
    layers: int
    hidden: int
    bytes_per_value: int = 2

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.hidden * self.layers * self.bytes_per_value

    @property
    def kv_tokens(self) -> float:
        """What the GPUs of a server hold beside the weights; not whole, so that "less than" stays what it is."""
        return (GPU_BYTES * GPUS - self.weight_bytes) / self.kv_bytes_per_token


PEER_MODELS = {
    "bloom-176b": PeerModel(329_000_000_000, 70, 14_336),
    "llama2-70b": PeerModel(135_000_000_000, 80, 8_192),
}


def speed_table(path: Path, model: str, gpu: str) -> SpeedTable:
    """Medians of all runs with equally many batched tokens, as that simulator's predictor is made.

    Args:
        path: `perf_model.csv`, plain or gzipped, or the folder that holds it.
        model: as in the file.
        gpu: as in the file; "h100-80gb-pcap" is its authors' assumption that a cap slows prefill by 30 % and decode
            by nothing, so it is made here from the rows of the GPU without a cap.

    Raises:
        DataError: no such rows.
    """
    real, slower = (CAPPED_OF, CAPPED_PREFILL) if gpu == SYNTHETIC else (gpu, 1.0)
    groups: dict[int, list[Row]] = {}
    for row in read_rows(path, model, real):
        groups.setdefault(row.tokens, []).append(row)
    tokens_sorted = sorted(groups)
    return SpeedTable(
        tokens=np.array(tokens_sorted, np.float64),
        prefill_s=np.array([median(row.prefill_s * slower for row in groups[key]) for key in tokens_sorted]),
        decode_s=np.array([median(row.decode_s for row in groups[key]) for key in tokens_sorted]),
    )


def peer_setup(
    path: Path,
    model: str,
    groups: list[tuple[str, int, str]],
    rules: Semantics = PEER,
    power: dict[str, Profile] | None = None,
) -> Setup:
    """A cluster of 8-GPU servers with one instance each.

    Args:
        path: the profile, as `speed_table`.
        model: "bloom-176b" or "llama2-70b".
        groups: GPU as in the profile, how many servers, and their role ("mixed", "prompt", "token"), in order.
        rules: of the run.
        power: what servers with these GPUs draw; that simulator itself has no power.

    Raises:
        DataError: a model or GPU that is not known.
    """
    if model not in PEER_MODELS:
        raise DataError(f"model '{model}' is none of {', '.join(PEER_MODELS)}")
    known = PEER_MODELS[model]
    names = list(dict.fromkeys(gpu for gpu, _, _ in groups))
    kinds = []
    for gpu in names:
        profile = (power or {}).get(gpu)
        kinds.append(
            Kind(
                name=f"{gpu} {model}",
                kv_tokens=known.kv_tokens,
                max_batch=512,
                max_batch_tokens=2048,
                gpus=GPUS,
                other_w=0.0 if profile is None else profile.other_w,
                min_clock_ratio=0.1 if profile is None else profile.min_mhz / profile.max_mhz,
                mixed_factor=1.0 if profile is None else profile.mixed_batch_factor,
                profile=profile,
                table=speed_table(path, model, gpu),
            )
        )
    return Setup(
        kinds=kinds,
        kind=[names.index(gpu) for gpu, count, _ in groups for _ in range(count)],
        role=[role for _, count, role in groups for _ in range(count)],
        link=KvLink(float(known.kv_bytes_per_token), float(LINK_BYTES_PER_S)),
        rules=rules,
    )
