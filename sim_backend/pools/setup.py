"""Which servers there are, what each is for, and the rules they serve by."""

from dataclasses import dataclass

from policies.errors import ConfigError
from sim_backend.pools.kinds import Kind
from sim_backend.pools.semantics import DEFAULT, Semantics

ROLES = ("mixed", "prompt", "token")


@dataclass(frozen=True, slots=True)
class KvLink:
    """What KV caches move over."""

    kv_bytes_per_token: float
    bytes_per_s: float
    """Out of one server, or into one."""
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """Servers and the rules they serve by."""

    kinds: list[Kind]
    kind: list[int]
    """Index into `kinds` per server [n]."""
    role: list[str]
    """"mixed": prefill and decode; "prompt" or "token": one of the two [n]."""
    link: KvLink | None = None
    """Needed where there are roles other than "mixed"."""
    rules: Semantics = DEFAULT
    cached_share: float = 0.0
    """Share of each prompt's tokens that a prefix cache holds already and that need no prefill."""

    def __post_init__(self) -> None:
        if not self.kind or len(self.kind) != len(self.role):
            raise ConfigError(f"pools: {len(self.kind)} servers with {len(self.role)} roles; give each server one role")
        if any(name not in ROLES for name in self.role):
            raise ConfigError(f"pools: roles are {', '.join(ROLES)}, not {sorted(set(self.role) - set(ROLES))}")
        if ("token" in self.role) != ("prompt" in self.role):
            raise ConfigError("pools: a prompt pool needs a token pool and the other way round")
        if self.pooled and self.link is None:
            raise ConfigError("pools: prompt and token servers need a link that KV caches move over")
        if self.pooled and "mixed" in self.role and self.rules.router != "outstanding":
            raise ConfigError('pools: mixed servers beside pools need router = "outstanding"')
        if not 0.0 <= self.cached_share < 1.0:
            raise ConfigError(f"pools: cached_share = {self.cached_share:g} must lie within 0 .. 1, below 1")
        if self.cached_share > 0.0 and self.rules.batching != "chunked":
            raise ConfigError('pools: cached_share needs batching = "chunked"; whole prompts are prefilled whole')
        if self.link is not None and not (self.link.bytes_per_s > 0.0 and self.link.kv_bytes_per_token > 0.0):
            raise ConfigError("pools: bytes_per_s and kv_bytes_per_token of the link must be positive")

    @property
    def pooled(self) -> bool:
        """Whether some servers do one phase only."""
        return "prompt" in self.role
