"""What does an engine's refusal mean to a caller?"""

from backends.sglang import EngineError, ErrorKind
from gateway.errors import (
    ContextLengthExceeded,
    EngineBusy,
    EngineFailed,
    GatewayError,
    InvalidRequest,
    NotFound,
)
from gateway.wire.overflow import read_overflow

BUSY_RETRY_S = 1.0


def translate(said: EngineError) -> GatewayError:
    """Turn an engine's refusal into ours."""
    match said.kind:
        case ErrorKind.CONTEXT_LENGTH:
            overflow = read_overflow(said.message)
            words = overflow.in_openais_words() if overflow else said.message
            return ContextLengthExceeded(words, param=said.param)
        case ErrorKind.INVALID_REQUEST:
            return InvalidRequest(said.message, param=said.param)
        case ErrorKind.NOT_FOUND | ErrorKind.METHOD_NOT_ALLOWED:
            return NotFound("The engine of this model does not serve this.", code="unknown_url")
        case ErrorKind.QUEUE_FULL | ErrorKind.UNAVAILABLE | ErrorKind.ABORTED:
            return EngineBusy("The model is busy. Try again.", retry_after_s=BUSY_RETRY_S)
        case ErrorKind.UNAUTHORIZED | ErrorKind.FORBIDDEN:
            return EngineFailed("A replica refused the gateway's key.")
        case ErrorKind.DUPLICATE_RID | ErrorKind.INTERNAL:
            return EngineFailed("The engine failed.")


def may_try_another(error: GatewayError) -> bool:
    """Whether another replica may do better: not when the caller's words are wrong."""
    return isinstance(error, EngineBusy | EngineFailed)
