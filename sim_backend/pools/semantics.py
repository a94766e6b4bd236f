"""Who waits for whom: each rule of the engine as a switch, Splitwise's published simulator and ours as two settings."""

from dataclasses import dataclass

from policies.errors import ConfigError

EVENTS = ("heap", "servers_first")
DECODE_KEYS = ("requests", "context")
BATCHINGS = ("whole_prompts", "chunked")
KV_RULES = ("as_used", "whole")
ROUTERS = ("pending_tokens", "outstanding")
SECOND_CHOICES = ("at_arrival", "after_prefill")
LINKS = ("endless", "shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantics:
    """The rules of one run; docs/semantics.md shows what each of them changes."""

    events: str
    """Order of events of the same time. "heap": as Python's `heapq` keeps them with all arrivals known at the start;
    "servers_first": ends of iterations, then transfers, then arrivals, each in order of server or arrival."""
    decode_key: str
    """What the time of a decode iteration follows. "requests": their number, looked up in a table of prompt tokens;
    "context": batch and KV tokens."""
    batching: str
    """"whole_prompts": prompts whole and before decodes, which they may push out; "chunked": all decodes, then as much
    of the waiting prompts as the token budget leaves."""
    kv: str
    """"as_used": the prompt's KV cache at its prefill, the answer's when its decode begins; "whole": both at the
    beginning, so that no decode ever waits for memory that its own prompt holds."""
    router: str
    """"pending_tokens": fewest prompt tokens and decodes not yet done; "outstanding": fewest requests, of equals the
    server not chosen for longest."""
    second_choice: str
    """When the server of the decode is chosen, where it is another one. "at_arrival", by booked memory, the transfer
    retried every second while there is no room; "after_prefill", by free memory, waiting in order for room."""
    pool_moves: bool
    """Whether a full pool borrows servers of the other one until they are idle."""
    link: str
    """"endless": every transfer has a link of its own; "shared": one link out of and one into each server, transfers
    one after the other."""
    mixed_factor: float
    """Time of an iteration of prompts and decodes over that of its tokens in prompts alone; 0: what the server's
    cost model says."""
    max_batch: int
    """Requests in one iteration; 0: as the server's profile says."""
    max_batch_tokens: int
    """Tokens in one iteration; 0: as the server's profile says."""
    max_passed_over: int
    """Batches that may be formed without a waiting prefill or decode before it comes first ("whole_prompts" only)."""
    max_queue_tokens: int
    """Pending tokens up to which a prompt server with a queue takes another prompt ("pending_tokens" in pools only)."""
    retry_s: float
    """How long a transfer without room at its end waits before it tries again ("at_arrival" only)."""

    def __post_init__(self) -> None:
        self._check_words()
        if self.batching == "chunked" and (self.kv != "whole" or self.events != "servers_first" or self.pool_moves):
            raise ConfigError(
                'semantics: batching = "chunked" needs kv = "whole", events = "servers_first" and pool_moves = false: '
                "an admitted prompt must be sure of its room"
            )
        if self.batching == "chunked" and self.second_choice == "at_arrival":
            raise ConfigError('semantics: batching = "chunked" needs second_choice = "after_prefill"')
        if self.pool_moves and (self.router, self.second_choice) != ("pending_tokens", "at_arrival"):
            raise ConfigError(
                'semantics: pool_moves needs router = "pending_tokens" and second_choice = "at_arrival": '
                "a server moves when an arrival finds its pool full"
            )
        if self.second_choice == "after_prefill" and self.kv != "whole":
            raise ConfigError('semantics: second_choice = "after_prefill" needs kv = "whole", to know what room is')

    def _check_words(self) -> None:
        known = {
            "events": EVENTS,
            "decode_key": DECODE_KEYS,
            "batching": BATCHINGS,
            "kv": KV_RULES,
            "router": ROUTERS,
            "second_choice": SECOND_CHOICES,
            "link": LINKS,
        }
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise ConfigError(f"semantics: {name} = {getattr(self, name)!r} is none of {', '.join(words)}")
        if min(self.max_batch, self.max_batch_tokens, self.max_queue_tokens) < 0 or self.mixed_factor < 0.0:
            raise ConfigError("semantics: limits and mixed_factor must not be negative")
        if self.max_passed_over < 1 or not self.retry_s > 0.0:
            raise ConfigError("semantics: max_passed_over must be at least 1 and retry_s positive")


PEER = Semantics(
    events="heap",
    decode_key="requests",
    batching="whole_prompts",
    kv="as_used",
    router="pending_tokens",
    second_choice="at_arrival",
    pool_moves=True,
    link="endless",
    mixed_factor=1.1,
    max_batch=512,
    max_batch_tokens=2048,
    max_passed_over=4,
    max_queue_tokens=8192,
    retry_s=1.0,
)
"""Splitwise's simulator, github.com/Mutinifni/splitwise-sim commit 8f99e7dc: scheduler, engine and defaults."""

DEFAULT = Semantics(
    events="servers_first",
    decode_key="context",
    batching="chunked",
    kv="whole",
    router="outstanding",
    second_choice="after_prefill",
    pool_moves=False,
    link="shared",
    mixed_factor=0.0,
    max_batch=0,
    max_batch_tokens=0,
    max_passed_over=4,
    max_queue_tokens=8192,
    retry_s=1.0,
)
"""Ours: continuous batching with chunked prefill, as vLLM, SGLang and TensorRT-LLM serve today."""
