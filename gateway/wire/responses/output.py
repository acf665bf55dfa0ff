"""Which items does an answer consist of, and which events tell how they grow?

One builder serves both ways of answering: a stream sends the events, a document keeps the items.
An item of text ends when something else begins; calls of tools may grow side by side and end with
the answer. Arguments of a finished call are always a JSON object (see `tools.arguments_of`): they
are streamed on once they begin like one, and held back until the end where they do not.
"""

from collections.abc import Iterator
from typing import Any

from gateway.wire.responses.fields import NewId
from gateway.wire.responses.items import Item
from gateway.wire.responses.namespaces import Members
from gateway.wire.responses.tools import arguments_of, custom_input

Event = dict[str, Any]
NO_MEMBERS: Members = {}


class Output:
    """The answer so far. `custom` names the tools whose calls take free text.

    `members` tells the tools of namespaces by the engine's names.
    """

    def __init__(
        self, custom: frozenset[str], new_id: NewId, members: Members = NO_MEMBERS
    ) -> None:
        self.items: list[Item] = []
        self._custom = custom
        self._members = members
        self._new_id = new_id
        self._text: _Text | None = None
        self._calls: dict[int, _Call] = {}
        self._ended_calls: list[_Call] = []

    def add(self, message: dict[str, Any], logprobs: Any = None) -> list[Event]:
        """Take a chat delta, or a whole chat message, in the order in which models speak."""
        events: list[Event] = []
        if thought := message.get("reasoning_content") or message.get("reasoning"):
            events += self._grow("reasoning", "reasoning_text", str(thought), None)
        if said := message.get("content"):
            events += self._grow("message", "output_text", str(said), logprobs)
        if refused := message.get("refusal"):
            events += self._grow("message", "refusal", str(refused), None)
        for position, call in enumerate(message.get("tool_calls") or ()):
            index = call.get("index")
            events += self._call(position if index is None else index, call)
        return events

    def end(self, *, complete: bool) -> list[Event]:
        """End the items that are open. Not complete: what was open last stayed unfinished."""
        status = "completed" if complete else "incomplete"
        events = self._end_text(status)
        calls = [*self._ended_calls, *self._calls.values()]
        calls = sorted((call for call in calls if call.opened), key=lambda call: call.at)
        for call in calls:
            events += call.end("completed" if call is not calls[-1] else status)
        self._calls, self._ended_calls = {}, []
        if complete and not self.items:
            empty = self._open_text("message")
            events += [_added(empty.at, empty.item), *empty.turn_to("output_text")]
            events += self._end_text(status)
        return events

    def _grow(self, kind: str, part: str, delta: str, logprobs: Any) -> list[Event]:
        events: list[Event] = []
        growing = self._text
        if growing is None or growing.item["type"] != kind:
            events += self._end_text("completed")
            growing = self._open_text(kind)
            events.append(_added(growing.at, growing.item))
        events += growing.turn_to(part)
        events.append(growing.grow(delta, logprobs))
        return events

    def _open_text(self, kind: str) -> "_Text":
        item: Item = {"type": kind, "id": self._new_id("msg" if kind == "message" else "rs")}
        item["status"] = "in_progress"
        if kind == "message":
            item["role"] = "assistant"
        else:
            item["summary"] = []
        item["content"] = []
        self._text = _Text(item, len(self.items))
        self.items.append(item)
        return self._text

    def _end_text(self, status: str) -> list[Event]:
        if self._text is None:
            return []
        events = [*self._text.end(status)]
        self._text = None
        return events

    def _call(self, index: int, delta: dict[str, Any]) -> list[Event]:
        function = delta.get("function") or {}
        call = self._calls.get(index)
        # Some engines number every call 0: another id is another call.
        if call is None or (delta.get("id") and call.id and delta["id"] != call.id):
            if call is not None:
                self._ended_calls.append(call)
            call = self._calls[index] = _Call(delta.get("id"))
        events: list[Event] = []
        name = function.get("name")
        if not call.opened and name:
            events += self._end_text("completed")
            call.open(
                self._members.get(name, (None, name)),
                name in self._custom,
                self._new_id,
                len(self.items),
            )
            self.items.append(call.item)
            events.append(_added(call.at, call.item))
        arguments = function.get("arguments")
        return [*events, *call.grow(arguments if isinstance(arguments, str) else "")]


class _Text:
    """A message or a reasoning item that grows."""

    def __init__(self, item: Item, at: int) -> None:
        self.item = item
        self.at = at
        self._kind = ""
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []

    def turn_to(self, kind: str) -> Iterator[Event]:
        """Open a part of this kind, unless it is open already."""
        if kind == self._kind:
            return
        yield from self._end_part()
        self._kind = kind
        part = _part(kind, "", [])
        self.item["content"].append(part)
        yield self._event("response.content_part.added", part=part)

    def grow(self, delta: str, logprobs: Any) -> Event:
        self._pieces.append(delta)
        event = self._event(f"response.{self._kind}.delta", delta=delta)
        if self._kind == "output_text":
            event["logprobs"] = found = _logprobs(logprobs)
            self._logprobs += found
        return event

    def end(self, status: str) -> Iterator[Event]:
        yield from self._end_part()
        self.item["status"] = status
        yield {"type": "response.output_item.done", "output_index": self.at, "item": self.item}

    def _end_part(self) -> Iterator[Event]:
        if not self._kind:
            return
        told, logprobs = "".join(self._pieces), self._logprobs
        self._pieces, self._logprobs = [], []
        part = _part(self._kind, told, logprobs)
        self.item["content"][-1] = part
        if self._kind == "output_text":
            yield self._event("response.output_text.done", text=told, logprobs=logprobs)
        elif self._kind == "refusal":
            yield self._event("response.refusal.done", refusal=told)
        else:
            yield self._event("response.reasoning_text.done", text=told)
        yield self._event("response.content_part.done", part=part)

    def _event(self, kind: str, **fields: Any) -> Event:
        place = {
            "item_id": self.item["id"],
            "output_index": self.at,
            "content_index": max(len(self.item["content"]) - 1, 0),
        }
        return {"type": kind, **place, **fields}


class _Call:
    """A call of a tool that grows; it is an item once its name is known."""

    def __init__(self, call_id: str | None) -> None:
        self.id = call_id
        self.opened = False
        self.item: Item = {}
        self.at = 0
        self._arguments = ""
        self._sent = 0
        self._field = "arguments"

    def open(self, named: tuple[str | None, str], custom: bool, new_id: NewId, at: int) -> None:
        namespace, name = named
        self.opened, self.at = True, at
        self._field = "input" if custom else "arguments"
        self.item = {
            "type": "custom_tool_call" if custom else "function_call",
            "id": new_id("ctc" if custom else "fc"),
            "status": "in_progress",
            "call_id": self.id or new_id("call"),
            **({} if namespace is None else {"namespace": namespace}),
            "name": name,
            self._field: "",
        }

    def grow(self, arguments: str) -> Iterator[Event]:
        self._arguments += arguments
        if not self.opened or self._field == "input":
            return
        if self._sent or self._arguments.lstrip().startswith("{"):
            yield from self._send(self._arguments)

    def end(self, status: str) -> Iterator[Event]:
        if self._field == "input":
            whole = custom_input(self._arguments)
        else:
            whole = arguments_of(self._arguments)
        if not self._sent:
            yield from self._send(whole)
        yield self._event("done", **{self._field: whole})
        self.item[self._field] = whole
        self.item["status"] = status
        yield {"type": "response.output_item.done", "output_index": self.at, "item": self.item}

    def _send(self, arguments: str) -> Iterator[Event]:
        if delta := arguments[self._sent :]:
            self._sent = len(arguments)
            yield self._event("delta", delta=delta)

    def _event(self, what: str, **fields: str) -> Event:
        stem = "custom_tool_call_input" if self._field == "input" else "function_call_arguments"
        place = {"item_id": self.item["id"], "output_index": self.at}
        return {"type": f"response.{stem}.{what}", **place, **fields}


def _added(at: int, item: Item) -> Event:
    return {
        "type": "response.output_item.added",
        "output_index": at,
        "item": {**item, "content": []} if "content" in item else {**item},
    }


def _part(kind: str, told: str, logprobs: list[Any]) -> Item:
    if kind == "output_text":
        return {"type": kind, "text": told, "annotations": [], "logprobs": logprobs}
    return {"type": kind, "refusal" if kind == "refusal" else "text": told}


def _logprobs(found: Any) -> list[Any]:
    """Give chat's `logprobs.content` in the shape of the Responses API."""
    content = found.get("content") if isinstance(found, dict) else None
    return [
        {**_token(each), "top_logprobs": [_token(top) for top in each.get("top_logprobs") or ()]}
        for each in content or ()
    ]


def _token(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "token": found.get("token", ""),
        "bytes": found.get("bytes") or [],
        "logprob": found.get("logprob", 0.0),
    }
