"""What is one call: who asks, for what, under which promise, and how did it end?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.wire.body import Body
    from gateway.wire.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `models` and `classes` None: all of them."""

    key_id: str
    tenant: str = "default"
    name: str = ""
    models: frozenset[str] | None = None
    classes: frozenset[str] | None = None
    default_class: str | None = None
    expires_at: float | None = None

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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Call:
    """One streaming or unary inference held on a connection.

    `id` is the request id that the caller sees; `key` names the call in the ledger.
    `arrived` is on the monotonic clock, `arrived_at` in Unix seconds; `deadline` (monotonic) is
    when the caller stops waiting.
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
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(slots=True)
class Receipt:
    """What a call used and how it ended; instants are monotonic, None where it never got there."""

    call: Call
    outcome: Outcome = Outcome.INTERNAL
    status: int = 0
    error_code: str | None = None
    replica_id: str | None = None
    attempts: int = 0
    queued_s: float = 0.0
    first_byte: float | None = None
    last_byte: float | None = None
    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    chunks: int = 0

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
