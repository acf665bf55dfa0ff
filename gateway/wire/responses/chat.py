"""What does the engine hear of a request to the Responses API?"""

from typing import Any

from gateway.wire.responses.items import Item
from gateway.wire.responses.messages import messages
from gateway.wire.responses.request import CreateResponse, response_format
from gateway.wire.responses.tools import Toolbox

_SAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


def chat_request(
    request: CreateResponse, items: list[Item], tools: Toolbox, *, stream: bool
) -> dict[str, Any]:
    """Give the body for `/v1/chat/completions`.

    `items` is the whole conversation, earlier turns first. Instructions are this request's own:
    they are not carried over from the response that it follows.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages(items, request.instructions),
        **request.given(),
    }
    for name in _SAME:
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.reasoning is not None and request.reasoning.effort is not None:
        body["reasoning_effort"] = request.reasoning.effort
    if (form := response_format(request.text)) is not None:
        body["response_format"] = form
    if request.wants_logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs or 0
    if tools.offered:
        body["tools"] = list(tools.offered)
        body["tool_choice"] = tools.chat_choice
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body
