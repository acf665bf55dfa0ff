"""What is one call: who asks, for what, under which promise, and how did it end?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from backends.slo import Targets
    from gateway.wire.body import Body
    from gateway.wire.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a key or a tenant may use; None: no limit. Days and months are UTC's."""

    requests_per_min: int | None = None
    tokens_per_min: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    def or_none(self) -> "Quota | None":
        """Give None where nothing is limited."""
        return None if self == Quota() else self


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `models` and `classes` None: all of them; `quota` None: no limits of the key's."""

    key_id: str
    tenant: str = "default"
    name: str = ""
    models: frozenset[str] | None = None
    classes: frozenset[str] | None = None
    default_class: str | None = None
    expires_at: float | None = None
    quota: Quota | None = None

    def may_use_model(self, model: str) -> bool:
        """Whether the key opens this model."""
        return self.models is None or model in self.models

    def may_use_class(self, name: str) -> bool:
        """Whether the key may ask for this class."""
        return self.classes is None or name in self.classes


class Operation(StrEnum):
    """What is asked of the engine, in the words of OpenTelemetry's GenAI conventions."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


class Outcome(StrEnum):
    """How a call ended: a label of metrics and logs."""

    OK = "ok"
    INVALID = "invalid"  # 4xx by us or by the engine: the caller's words were wrong
    REFUSED = "refused"  # no room, or no replica: told before any work
    CALLER_LEFT = "caller_left"  # the connection closed before the answer ended
    TIMED_OUT = "timed_out"
    ENGINE_FAILED = "engine_failed"  # before the first byte, all attempts spent
    STREAM_BROKEN = "stream_broken"  # after the first byte
    INTERNAL = "internal"  # a bug of ours


class Usage(Struct, frozen=True, gc=False):
    """Tokens as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Call(Struct, kw_only=True):
    """One streaming or unary inference held on a connection.

    `id` is the request id that the caller sees; `key` names the call in the ledger.
    `arrived` is on the monotonic clock, `arrived_at` in Unix seconds; `deadline` (monotonic) is
    when the caller stops waiting. `hint` is the limits that the caller asked for, where it did;
    `notes` are header lines for the answer, for callers who may see how it was decided;
    `limit_headers` those that tell what is left of the caller's limits.
    """

    id: str
    key: str
    principal: Principal
    operation: Operation
    path: str
    model: str
    body: "Body"
    dialect: "Dialect"
    stream: bool
    class_name: str
    arrived: float
    arrived_at: float
    deadline: float
    traceparent: str | None = None
    tracestate: str | None = None
    takes_rid: bool = True
    coalesce_s: float = 0.0
    attributes: Mapping[str, str | int | float | bool] = {}
    hint: "Targets | None" = None
    notes: list[tuple[bytes, bytes]] = []
    limit_headers: tuple[tuple[bytes, bytes], ...] = ()


class Receipt(Struct):
    """What a call used and how it ended; instants are monotonic, None where it never got there.

    `late`: it was served although its first token was expected after its promise.
    `on_first_byte` is called once when the answer's first byte has come from the replica.
    """

    call: Call
    outcome: Outcome = Outcome.INTERNAL
    status: int = 0
    error_code: str | None = None
    replica_id: str | None = None
    attempts: int = 0
    queued_s: float = 0.0
    late: bool = False
    first_byte: float | None = None
    last_byte: float | None = None
    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    on_first_byte: Callable[[], None] | None = None

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first byte of the answer, in seconds."""
        return None if self.first_byte is None else self.first_byte - self.call.arrived

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per output token after the first; None with fewer than two tokens."""
        if self.first_byte is None or self.last_byte is None or self.usage is None:
            return None
        tokens = self.usage.completion_tokens
        if tokens < 2 or not self.call.stream:
            return None
        return (self.last_byte - self.first_byte) / (tokens - 1)
