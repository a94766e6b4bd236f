"""Numbers of servers, engines and models that no fit gives, each with where it comes from.

Abbreviations in the sources: POLCA is Patel et al., ASPLOS 2024, arXiv 2308.12908; Splitwise is Patel et al., ISCA
2024, arXiv 2311.18677, with the code `splitwise-sim`; docs/data.md gives origins and commits of every recording named.
A source that begins with "unverified" is a guess to be replaced by the operator's own measurement.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """A number and its source."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """A server type: name of its GPU in Splitwise's file, and facts by section and key of a profile."""

    gpu: str
    gpu_bytes: float
    """Memory of one GPU."""
    facts: dict[str, dict[str, Fact]]
    power: dict[str, dict[str, Fact]]
    """Power ratios that replace a fit where power was never measured; empty where it was."""


@dataclass(frozen=True, slots=True)
class Llm:
    """What decides how many tokens a server's memory holds."""

    weights_bytes: float
    layers: int
    kv_width: int
    """Elements a layer keeps per token for keys, and again for values."""
    why: str


_CODE = "Splitwise's code (splitwise-sim)"

ENGINE: dict[str, Fact] = {
    "max_batch": Fact(512, f"{_CODE}, max_batch_size"),
    "max_batch_tokens": Fact(2048, f"{_CODE}, max_batch_tokens; prompt throughput falls beyond (Splitwise 3.4)"),
    "mixed_batch_factor": Fact(1.1, f"{_CODE}: a mixed batch costs 1.1 x the pure prompt batch of as many tokens"),
}

# Both pairs (a, n) come from one measured point and an assumed static share; phases were never swept apart.
_LAW = (
    "derived: P(f)/P(max) = a + (1 - a)(f/max)^n through POLCA's (1100 of 1410 MHz, 0.80): "
    "with a = 0.35, n = ln(0.45/0.65) / ln(1100/1410) = 1.48. The static share is an assumption "
    "(a = 0.2 gives n = 1.16, a = 0.5 gives 2.06), and so is one law for both phases"
)
CLOCK_LAW: dict[str, Fact] = {"static_share": Fact(0.35, _LAW), "exponent": Fact(1.48, _LAW)}

# POLCA's two statements on what a lower clock costs a whole request on an A100.
POLCA_MAX_MHZ = 1410.0
POLCA_LOW_MHZ = 1100.0
POLCA_LOSS_AT_LOW_MHZ = 0.07
POLCA_BLOOM_PEAK_REDUCTION = 0.13
POLCA_BLOOM_LOSS = 0.05

# Medians of the Azure 2023 conversation trace (Splitwise 3.1): the request to which POLCA's losses are applied.
MEDIAN_PROMPT_TOKENS = 1020
MEDIAN_OUTPUT_TOKENS = 129

_OVERSHOOT = (
    "unverified: prompts exceed TDP for less than 1 s before a power limit bites (POLCA); in two A100 clusters "
    "96.9 % and 97.7 % of GPU samples lie below 1.05 x 400 W, 1 % above 1.10 x (Acme)"
)

DGX_A100 = Hardware(
    gpu="a100-80gb",
    gpu_bytes=80e9,
    facts={
        "gpu": {
            "tdp_w": Fact(400.0, "A100 SXM4 data sheet; the TDP that Splitwise's power ratios refer to"),
            "idle_w": Fact(70.0, "floor of the run averages in Splitwise's perf_model.csv, 0.17-0.18 of 400 W"),
            "max_mhz": Fact(1410.0, "nvidia-smi -q of an A100-SXM4-80GB (Telegraf test data); POLCA"),
            "min_mhz": Fact(210.0, "lowest supported SM clock; POLCA sweeps 0.2-1.4 GHz"),
            "min_limit_w": Fact(100.0, "nvidia-smi -q of an A100-SXM4-80GB (Telegraf test data); POLCA"),
            "overshoot_ratio": Fact(1.05, _OVERSHOOT),
        },
        "server": {
            "gpus": Fact(8, "DGX A100 data sheet"),
            "nameplate_w": Fact(6500.0, "DGX A100 data sheet; POLCA and splitwise-sim"),
            "other_w": Fact(
                1200.0,
                "derived: MLPerf Inference v2.1, DGX A100 at a 275 W GPU limit draws 3,350 W (Offline) and 3,381 W "
                "(Server) at the wall, median under load; less 8 x 275 W, if the GPUs draw their limit, = 1,150 and "
                "1,181 W, rounded up. A coincident "
                "peak of 79 % of 6.5 kW (POLCA) needs about 2,800 W instead: 5,135 W - 8 x 0.73 x 400 W",
            ),
            "other_max_w": Fact(
                1500.0,
                "unverified: 300 W above running for hot fans and busy CPUs; equals the constant that splitwise-sim "
                "adds to a DGX A100",
            ),
        },
    },
    power={},
)

_H100_POWER = "splitwise-sim's constant H100 model (75 W idle, 700 W prompt, 380 W token); never measured there"
_FLAT = f"{_H100_POWER}: flat at 700 of 700 W"

DGX_H100 = Hardware(
    gpu="h100-80gb",
    gpu_bytes=80e9,
    facts={
        "gpu": {
            "tdp_w": Fact(700.0, "nvidia-smi -q of an H100 80GB HBM3 (nvidia_gpu_exporter captures)"),
            "idle_w": Fact(75.0, _H100_POWER),
            "max_mhz": Fact(1980.0, "nvidia-smi -q of an H100 80GB HBM3 (nvidia_gpu_exporter captures)"),
            "min_mhz": Fact(210.0, "unverified: lowest supported SM clock, taken over from the A100"),
            "min_limit_w": Fact(200.0, "nvidia-smi -q of an H100 80GB HBM3 (nvidia_gpu_exporter captures)"),
            "overshoot_ratio": Fact(1.05, f"{_OVERSHOOT}; taken over from the A100"),
        },
        "server": {
            "gpus": Fact(8, "DGX H100 data sheet"),
            "nameplate_w": Fact(10200.0, "DGX H100 data sheet; splitwise-sim"),
            "other_w": Fact(2800.0, "constant that splitwise-sim adds to a DGX H100; not measured"),
            "other_max_w": Fact(3200.0, "unverified: 400 W above running for hot fans and busy CPUs"),
        },
    },
    power={
        "prefill_power": {
            "at_128": Fact(1.0, _FLAT),
            "per_octave": Fact(0.0, _FLAT),
            "ceiling": Fact(1.0, _FLAT),
        },
        "decode_power": {"ratio": Fact(0.5429, f"{_H100_POWER}: 380 / 700")},
    },
)

HARDWARE: dict[str, Hardware] = {"dgx-a100": DGX_A100, "dgx-h100": DGX_H100}

LLMS: dict[str, Llm] = {
    "bloom-176b": Llm(
        weights_bytes=2 * 176e9,
        layers=70,
        kv_width=14336,
        why="176e9 parameters and the KV cache at 2 bytes, 70 layers, no grouped-query attention: all 14,336 of the "
        "hidden size are kept (Splitwise's largest BLOOM run, 64 x (512 + 128) = 40,960 tokens, fits; twice that "
        "would not)",
    ),
    "llama2-70b": Llm(
        weights_bytes=2 * 70e9,
        layers=80,
        kv_width=8 * 128,
        why="70e9 parameters and the KV cache at 2 bytes, 80 layers, grouped-query attention: 8 KV heads x 128 are "
        "kept (splitwise-sim counts the whole hidden size, 8 times too much)",
    ),
}

MEMORY_SHARE = 0.9
"""Of GPU memory that a serving engine takes for weights and KV cache; vLLM's default gpu_memory_utilization."""
