"""What a reader is told beside the file: how much of it, and by which chance where requests must be drawn."""

from dataclasses import dataclass

import numpy as np

from policies.errors import ConfigError

CACHE_BLOCKS = 2**18
"""A prefix cache without limit, as far as bounded memory allows: 134 million tokens in blocks of 512, about ten times
the blocks of an hour of the public traces."""
MAX_FACTOR = 10_000.0
"""As for recorded traces: beyond, nothing that a simulator can run is left."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a recording is read; the same reading of the same file always gives the same requests."""

    seed: int = 0
    """Of requests that are drawn, not recorded (ServeGen)."""
    factor: float = 1.0
    """The recorded rates of drawn requests are multiplied by this, their burstiness stays."""
    start_s: float = 0.0
    """Drawn requests begin here, in seconds of the recording; this moment becomes second 0."""
    stop_s: float = np.inf
    """Drawn requests end before this second of the recording."""
    cache_blocks: int = CACHE_BLOCKS
    """Size of the prefix cache in whose hits `cached_tokens` is counted (Mooncake), in blocks of 512 tokens."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be 0 or more")
        if not 0.0 < self.factor <= MAX_FACTOR:
            raise ConfigError(
                f"factor={self.factor} must be above 0 and at most {MAX_FACTOR:g}: rates are multiplied by it"
            )
        if not 0.0 <= self.start_s < self.stop_s:
            raise ConfigError(f"start_s={self.start_s} must be 0 or more and before stop_s={self.stop_s}")
        if not 0 <= self.cache_blocks <= CACHE_BLOCKS:
            raise ConfigError(
                f"cache_blocks={self.cache_blocks} must lie between 0 and {CACHE_BLOCKS}: each takes memory"
            )


READ_WHOLE = Reading()
"""All of it, as recorded."""
