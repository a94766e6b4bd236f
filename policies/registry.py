"""The policies that ship, by the names the command line knows; a new one is its class and one line here."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from policies.errors import ConfigError
from policies.fair_share import FairShare, FairShareParams
from policies.policy import Policy
from policies.thresholds import Ladder, OnlineThresholds, Stage, Thresholds

Params = dict[str, float]

POLCA_A100_2023: Params = {
    "t1": 0.80,
    "t2": 0.89,
    "hysteresis": 0.05,
    "low_t1_mhz": 1275.0,
    "low_t2_mhz": 1110.0,
    "high_t2_mhz": 1305.0,
    "wait_s": float("nan"),
}
"""Published thresholds and clocks (arXiv 2308.12908); `wait_s`, how long the low class is given before the high one is
capped too, is not published: NaN waits until the last command's effect is in the reading."""

ONE_THRESHOLD: Params = {"cap_at": 0.89, "hysteresis": 0.05, "low_mhz": 1110.0, "high_mhz": 1110.0}
"""POLCA names these baselines without their threshold and clock: its upper threshold and deepest clock stand in."""


def _polca_ladder(p: Params) -> Ladder:
    both = p["low_t2_mhz"], p["high_t2_mhz"]
    stages = (
        Stage(p["t1"], p["low_t1_mhz"], np.inf),
        Stage(p["t2"], p["low_t2_mhz"], np.inf),
        Stage(p["t2"], *both, waits=True),
    )
    return Ladder(stages, p["hysteresis"], p["wait_s"])


def _one_threshold(p: Params, *, low_only: bool) -> Policy:
    high_mhz = np.inf if low_only else p["high_mhz"]
    return Thresholds(Ladder((Stage(p["cap_at"], p["low_mhz"], high_mhz),), p["hysteresis"]))


_FAIR_SHARE: Params = {f.name: float(getattr(FairShareParams(), f.name)) for f in fields(FairShareParams)}

POLICIES: dict[str, tuple[Params, Callable[[Params], Policy]]] = {
    "no-cap": ({}, lambda p: Thresholds(Ladder(()))),
    "one-threshold-low": (ONE_THRESHOLD, lambda p: _one_threshold(p, low_only=True)),
    "one-threshold-all": (ONE_THRESHOLD, lambda p: _one_threshold(p, low_only=False)),
    "fair-share": (_FAIR_SHARE, lambda p: FairShare(FairShareParams(**p))),
    "polca": (POLCA_A100_2023, lambda p: Thresholds(_polca_ladder(p))),
    "polca-online": (POLCA_A100_2023, lambda p: OnlineThresholds(_polca_ladder(p))),
}
"""Name -> (default parameters, constructor)."""


def make_policy(name: str, overrides: Params | None = None) -> Policy:
    """The policy called `name`, with some of its parameters replaced."""
    if name not in POLICIES:
        raise ConfigError(f"policy '{name}' is not known; there are {', '.join(POLICIES)}")
    defaults, build = POLICIES[name]
    given = {} if overrides is None else overrides
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        known = ", ".join(defaults) if defaults else "none"
        raise ConfigError(f"policy '{name}' has no parameter '{unknown[0]}'; it has {known}")
    params = {**defaults, **given}
    if "t1" in params and not 0.0 < params["t1"] < params["t2"] <= 1.0:
        raise ConfigError(f"policy '{name}': 0 < t1 < t2 <= 1 must hold, otherwise the deeper cap comes first")
    return build(params)
