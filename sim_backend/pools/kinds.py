"""Kinds of servers: what an engine on them holds, how fast it is and what it draws, in the compiled pools' layout."""

import math
from dataclasses import dataclass, fields

import numpy as np

from policies.errors import ConfigError
from policies.models.iteration import IterationModel
from sim_backend.pools import layout as p
from sim_backend.profile import Profile
from sim_backend.result import Vec


@dataclass(frozen=True, slots=True, eq=False)
class SpeedTable:
    """Seconds of iterations against tokens, straight lines between the points and beyond them."""

    tokens: Vec
    """Increasing [k]: batched prompt tokens, or KV tokens of the decodes."""
    prefill_s: Vec
    decode_s: Vec


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of server with one engine instance over all its GPUs."""

    name: str
    kv_tokens: float
    """KV cache of the instance; a fraction of a token holds nothing but moves the border of "less than"."""
    max_batch: int
    max_batch_tokens: int
    gpus: int = 8
    other_w: float = 0.0
    """Server less its GPUs."""
    min_clock_ratio: float = 0.1
    mixed_factor: float = 1.0
    profile: Profile | None = None
    """Affine times and power by phase; None: no power."""
    table: SpeedTable | None = None
    """Times instead of the profile's."""
    iteration: IterationModel | None = None
    """Times and power instead of profile and table, of one stage."""
    stages: int = 1
    """Pipeline stages; the requests of the instance are spread over as many batches."""

    def __post_init__(self) -> None:
        if self.profile is None and self.table is None and self.iteration is None:
            raise ConfigError(f"kind '{self.name}': give it a profile, a table or an iteration model to be timed by")
        if not (self.kv_tokens > 0.0 and self.max_batch >= 1 and self.max_batch_tokens >= 1):
            raise ConfigError(f"kind '{self.name}': kv_tokens, max_batch and max_batch_tokens must be positive")
        if self.profile is not None and self.table is None and self.iteration is None:
            profile = self.profile
            if min(profile.prefill_base_s + profile.prefill_per_token_s, profile.decode_base_s) <= 0.0:
                raise ConfigError(f"kind '{self.name}': an iteration takes no time at all; give it a base_s")

    @property
    def rows(self) -> list[Vec]:
        """What the compiled pools look up [rows]."""
        if self.iteration is not None:
            return [np.asarray(self.iteration.linear_memory_s, np.float64)]
        if self.table is not None:
            return [self.table.tokens, self.table.prefill_s, self.table.decode_s]
        return []

    def vector(self, table_row: int) -> Vec:
        """The numbers of this kind in the order of `layout.PARAMS` [NPARAM].

        Args:
            table_row: where its `rows` begin.
        """
        values = dict.fromkeys(p.PARAMS, 0.0) | {"min_clock_ratio": self.min_clock_ratio, "window_tokens": math.inf}
        values["host_exponent"] = 1.0
        for source in (self.profile, self.iteration):
            if source is not None:
                known = {each.name for each in fields(source)} & set(p.PARAMS)
                values |= {name: float(getattr(source, name)) for name in known}
        own = ("kv_tokens", "max_batch", "max_batch_tokens", "gpus", "other_w", "mixed_factor", "stages")
        values |= {name: float(getattr(self, name)) for name in own}
        model = p.TWO_RESOURCES if self.iteration is not None else p.TABLE if self.table is not None else p.AFFINE
        rows = self.rows
        values |= {
            "model": float(model),
            "table_row": float(table_row),
            "table_len": float(len(rows[0]) if rows else 0),
        }
        return np.array([values[name] for name in p.PARAMS])


def kind_of_profile(profile: Profile) -> Kind:
    """An engine over all GPUs of a server, as its profile describes it."""
    return Kind(
        name=profile.name,
        kv_tokens=float(profile.kv_tokens),
        max_batch=profile.max_batch,
        max_batch_tokens=profile.max_batch_tokens,
        gpus=profile.gpus,
        other_w=profile.other_w,
        min_clock_ratio=profile.min_mhz / profile.max_mhz,
        mixed_factor=profile.mixed_batch_factor,
        profile=profile,
        iteration=getattr(profile, "iteration", None),
    )


def packed(kinds: list[Kind], max_batch: int, max_batch_tokens: int) -> tuple[Vec, Vec]:
    """Parameters [kinds, NPARAM] and tables [rows, longest] of some kinds.

    Args:
        kinds: in the order in which servers refer to them.
        max_batch: instead of theirs; 0: theirs.
        max_batch_tokens: likewise.
    """
    rows: list[Vec] = []
    vectors = []
    for kind in kinds:
        vectors.append(kind.vector(len(rows)))
        rows += kind.rows
    params = np.array(vectors)
    if max_batch:
        params[:, p.P_MAX_BATCH] = max_batch
    if max_batch_tokens:
        params[:, p.P_MAX_BATCH_TOKENS] = max_batch_tokens
    tables = np.zeros((max(len(rows), 1), max((len(row) for row in rows), default=1)))
    for index, row in enumerate(rows):
        tables[index, : len(row)] = row
    return params, tables
