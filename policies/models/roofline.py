"""Two resources with one clock: how long an iteration takes and what the GPU draws while it runs.

An iteration is host time, in which the GPU waits, link time (collectives between GPUs), and work for two resources: the
tensor pipes, whose speed goes with the SM clock, and the memory, whose speed does not until the SMs issue too few loads
(the knee). Operations are of four kinds: linear layers, the output layer, attention of prompts and of decoding
requests; their times add, because an engine runs them one after the other (DuetServe's attention-aware roofline), and
within a kind the two resources overlap.

What is drawn follows the same resources: `P = idle + phi**n * (active * busy + compute * u_c) + memory * u_m`, with u_c
and u_m the shares of the time in which pipes and memory work. All functions take scalars or arrays and use arithmetic
only, so that the plant compiles the same functions that the controller evaluates over a fleet.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Num = TypeVar("Num", float, NDArray[np.float64])


def memory_stretch(clock_ratio: Num, knee: Num | float) -> Num:
    """Time of memory-bound work at `clock_ratio` over that at full clock.

    Args:
        clock_ratio: phi = f / f_max, in (0, 1].
        knee: clock ratio below which the SMs no longer issue enough loads to fill the memory; 0: never.
    """
    result: Num = np.maximum(1.0, knee / clock_ratio)
    return result


def overlapped_s(compute_s: Num, memory_s: Num, overlap: Num | float) -> Num:
    """Time of work for both resources: the longer of the two, plus what of the shorter does not hide behind it.

    `overlap` 1 is the roofline's maximum, 0 the sum: with 0, compute a share c of a measured time and memory the rest,
    this is the two-term law `(1 - c) + c / phi` of `latency.slowdown`.
    """
    result: Num = np.maximum(compute_s, memory_s) + (1.0 - overlap) * np.minimum(compute_s, memory_s)
    return result


def experts_loaded(experts: Num | float, per_token: Num | float, tokens: Num) -> Num:
    """Experts of one layer that `tokens` tokens touch, each `per_token` of them, if all are equally likely.

    `E * (1 - (1 - K / E) ** m)`: the weights a decode of a mixture-of-experts model has to read.
    """
    result: Num = experts * (1.0 - (1.0 - per_token / experts) ** tokens)
    return result


def busy_w(idle_w: Num | float, dynamic: Num | float, switched_w: Num, memory_w: Num) -> Num:
    """Watts of one GPU that is busy for a share of the time.

    Args:
        idle_w: model loaded, clocks up, nothing to do.
        dynamic: power of what switches with the clock over that at full clock (`clocks.dynamic_ratio`).
        switched_w: that power at full clock: what a running kernel adds by itself, times the share of the time in which
            one runs, and what full tensor pipes add, times the share in which they work at the speed the clock allows.
        memory_w: what a full memory adds, times the share in which it works at full bandwidth; its clock is not capped.
    """
    result: Num = idle_w + dynamic * switched_w + memory_w
    return result
