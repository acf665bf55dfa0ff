"""How does an answer of /generate look?"""

from typing import Any

import orjson

from backends.clock import Clock
from backends.simulated.calls import Call, Progress
from backends.simulated.dialects.chat import DONE
from backends.simulated.dialects.usage import chat_logprobs, output_ids
from backends.simulated.orders import Choice
from backends.simulated.refusals import Refusal, error_frame


class NativeDialect:
    """Frames and bodies of SGLang's own route; the text of a frame is cumulative."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def opening(self, call: Call, choice: Choice) -> bytes:
        """Give nothing: there is no role."""
        return b""

    def delta(self, call: Call, choice: Choice, start: int, end: int) -> bytes:
        """Give one frame with the text so far."""
        return b"data: %b\n\n" % orjson.dumps(self._item(call, call.progress[choice.index]))

    def closing(self, call: Call) -> bytes:
        """Give [DONE]."""
        return DONE

    def refusal(self, refusal: Refusal) -> bytes:
        """Give the stream that says no."""
        return error_frame(refusal.message, refusal.kind, refusal.status) + DONE

    def unary(self, call: Call) -> bytes:
        """Give the answer: an object, or a list where there are several."""
        items = [self._item(call, p) for p in call.progress]
        return orjson.dumps(items[0] if len(items) == 1 else items)

    def _item(self, call: Call, progress: Progress) -> dict[str, Any]:
        choice = progress.choice
        item: dict[str, Any] = {
            "text": choice.script.text(0, progress.visible),
            "output_ids": output_ids(choice, 0, progress.visible),
            "meta_info": self._meta(call, progress),
        }
        if len(call.progress) > 1:
            item["index"] = choice.index
        return item

    def _meta(self, call: Call, progress: Progress) -> dict[str, Any]:
        sequence = progress.choice.sequence
        now = self._clock.monotonic()
        skew = self._clock.now() - now
        latency_s = now - sequence.arrived_at
        decoded_s = max(now - sequence.first_token_at, 1e-6)
        meta: dict[str, Any] = {
            "id": call.order.rid,
            "finish_reason": _finish(progress),
            "prompt_tokens": sequence.prompt_tokens,
            "weight_version": "default",
            "num_retractions": 0,
            "storage_prefetch_wait": 0.0,
            "storage_staging_wait": 0.0,
            "forward_entry_time": sequence.started_at + skew,
            "prefill_finished_time": sequence.first_token_at + skew,
            "queue_time": max(0.0, sequence.started_at - sequence.arrived_at),
            "reasoning_tokens": 0,
            "completion_tokens": progress.generated,
            "cached_tokens": sequence.cached_tokens,
            "weight_versions": [{"version": "default", "start": 0, "end": progress.generated}],
            "cached_tokens_details": {"device": sequence.cached_tokens, "host": 0},
            "dp_rank": None,
            "e2e_latency": latency_s,
            "request_received_ts": sequence.arrived_at + skew,
            "first_token_latency": max(0.0, sequence.first_token_at - sequence.arrived_at),
            "api_server_dispatch_finish_ts": sequence.arrived_at + skew,
            "request_finished_ts": now + skew,
            "decode_throughput": max(0, progress.generated - 1) / decoded_s,
            "response_sent_to_client_ts": now + skew,
        }
        if call.order.logprobs is not None:
            listed = chat_logprobs(progress.choice, 0, progress.visible, 0)["content"]
            ids = output_ids(progress.choice, 0, progress.visible)
            meta["output_token_logprobs"] = [
                [e["logprob"], i, None] for e, i in zip(listed, ids, strict=True)
            ]
        return meta


def _finish(progress: Progress) -> dict[str, Any] | None:
    match progress.finish:
        case None:
            return None
        case "length":
            return {"type": "length", "length": progress.generated}
        case "stop":
            return {"type": "stop", "matched": progress.choice.matched}
        case _:
            return {"type": "abort", "message": "Abort in running", "status_code": None}
