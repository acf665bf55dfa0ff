"""How does a request for a response become a call, in the foreground or without a caller?"""

from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from gateway.api.drafts import Asker, Draft
from gateway.api.responses_follow import follow
from gateway.call import Call, Operation
from gateway.errors import GatewayError, InvalidRequest, QueueFull
from gateway.relay import STREAM_HEADERS
from gateway.responses_background import ResponseRuns
from gateway.responses_record import History, Stored
from gateway.responses_store import TooLarge
from gateway.sink import Sink
from gateway.wire.body import Body
from gateway.wire.dialect import Dialect
from gateway.wire.responses.chat import chat_request
from gateway.wire.responses.count import CountDialect
from gateway.wire.responses.dialect import ResponsesDialect
from gateway.wire.responses.document import Document, created
from gateway.wire.responses.fields import new_id
from gateway.wire.responses.items import Item, input_items, references
from gateway.wire.responses.messages import messages
from gateway.wire.responses.request import CreateResponse, parse, parse_count
from gateway.wire.responses.stream import encode
from gateway.wire.responses.tools import Toolbox, toolbox

CHAT = "/v1/chat/completions"
TOKENIZE = "/v1/tokenize"
MOST_RUNNING = 10_000  # background responses per process, those that wait for room included
FULL_RETRY_S = 30.0

_log = structlog.get_logger("responses")


@dataclass(frozen=True, slots=True)
class Desk:
    """Where requests to create a response are read."""

    runs: ResponseRuns

    async def read(self, raw: bytes, asker: Asker) -> Draft:
        """Read the body of `POST /v1/responses`; earlier turns come from the store."""
        request = parse(raw)
        tools = toolbox(request.tools, request.tool_choice)
        tenant = asker.principal.tenant
        history, own = await self._conversation(tenant, request.previous_response_id, request.input)
        detached = bool(request.background)
        stream = detached or bool(request.stream)
        chat = chat_request(request, [*history.items, *own], tools, stream=stream)
        creation = _Creation(self.runs, request, tools, own, history.chain, tenant, new_id("resp"))
        return Draft(
            operation=Operation.CHAT,
            path=CHAT,
            model=request.model,
            body=Body(orjson.dumps(chat)),
            dialect=creation.dialect,
            stream=stream,
            tier=request.tier,
            attributes={"sluice.api": "responses"},
            serve=creation.detach if detached else None,
        )

    async def read_count(self, raw: bytes, asker: Asker) -> Draft:
        """Read the body of `POST /v1/responses/input_tokens`."""
        request = parse_count(raw)
        tools = toolbox(request.tools, request.tool_choice)
        history, own = await self._conversation(
            asker.principal.tenant, request.previous_response_id, request.input
        )
        body: dict[str, Any] = {
            "model": request.model,
            "messages": messages([*history.items, *own], request.instructions),
        }
        if tools.offered:
            body["tools"] = list(tools.offered)
        return Draft(
            operation=Operation.TOKENIZE,
            path=TOKENIZE,
            model=request.model,
            body=Body(orjson.dumps(body)),
            dialect=lambda _: CountDialect(),
            takes_rid=False,
        )

    async def _conversation(
        self, tenant: str, previous: str | None, given: str | list[Item] | None
    ) -> tuple[History, list[Item]]:
        history = History() if previous is None else await self.runs.store.history(tenant, previous)
        known = {item["id"]: item for item in history.items}
        unknown = [each for each in references(given) if each not in known]
        if unknown:
            known |= await self.runs.store.find_items(tenant, unknown)
        return history, input_items(given, new_id=new_id, stored=known)


@dataclass(frozen=True, slots=True)
class _Creation:
    """One response in the making."""

    runs: ResponseRuns
    request: CreateResponse
    tools: Toolbox
    own: list[Item]
    chain: tuple[str, ...]
    tenant: str
    response_id: str

    def dialect(self, tier: str | None) -> Dialect:
        """Give the wording of this response, once it is known which tier is served."""
        clock = self.runs.clock
        document = created(
            self.request, self.tools, response_id=self.response_id, tier=tier, now=clock.now()
        )
        detached = bool(self.request.background)
        return ResponsesDialect(
            document,
            custom=self.tools.custom,
            members=self.tools.members,
            keep=self._end if detached else self._keep,
            now=clock.now,
            told=2 if detached else 0,
        )

    async def detach(self, call: Call, sink: Sink) -> None:
        """Begin to work on it, and answer at once, or follow it as it goes."""
        if not isinstance(call.dialect, ResponsesDialect):
            raise TypeError("a background response has the dialect of responses")
        document = call.dialect.created
        runs, records = self.runs, bool(self.request.stream)
        if runs.running >= MOST_RUNNING:
            raise QueueFull(FULL_RETRY_S)
        stored = Stored(document, self.own, self.chain, alive_at=runs.clock.now())
        try:
            await runs.store.keep(self.tenant, stored)
        except TooLarge:
            raise InvalidRequest("The input is too large to be kept.", param="input") from None
        if records:
            kinds = ("created", "queued")
            events = [{"type": f"response.{kind}", "response": document} for kind in kinds]
            frames = [encode([event], number) for number, event in enumerate(events)]
            await runs.store.add_events(self.tenant, self.response_id, 0, frames)
        runs.start(call, document, records=records)
        if not records:
            body = orjson.dumps(document)
            length = (b"content-length", str(len(body)).encode())
            await sink.start(200, ((b"content-type", b"application/json"), length))
            await sink.finish(body)
            return
        await sink.start(200, STREAM_HEADERS)
        try:
            place = (self.tenant, self.response_id)
            async for frame in follow(runs.store, runs.clock, *place, after=-1):
                sink.write(frame)
        except GatewayError:
            pass  # the store is away: the work goes on, and the caller may resume its stream
        await sink.finish()

    async def _keep(self, document: Document) -> bool:
        """Store a response that has ended; without the store it is answered all the same."""
        try:
            await self.runs.store.keep(self.tenant, Stored(document, self.own, self.chain))
        except (TooLarge, GatewayError) as error:
            _log.warning("response_not_stored", response_id=self.response_id, why=str(error))
            return False
        return True

    async def _end(self, document: Document) -> bool:
        await self.runs.end(self.tenant, document)
        return True
