"""Embeddings, Anthropic's messages and SGLang's own routes, passed on to the engine."""

import base64
from array import array
from typing import Any

import orjson
import pytest

from tests.contract.site import Site

TOO_LONG = {"max_tokens": 8, "messages": [{"role": "user", "content": "word " * 10_000}]}
ANTHROPIC = {"max_tokens": 8, "messages": [{"role": "user", "content": "Hello there"}]}


async def test_embeddings_come_where_the_model_gives_them(site: Site) -> None:
    body = {"model": site.model, "input": ["a", "b"]}
    answer = await site.post("/v1/embeddings", body)
    if site.is_real:  # a model that generates
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        return
    vectors = [d["embedding"] for d in answer.document["data"]]
    assert len(vectors) == 2
    packed = (await site.post("/v1/embeddings", {**body, "encoding_format": "base64"})).document
    decoded = array("f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(decoded) == pytest.approx(vectors[0], abs=1e-6)


async def test_text_becomes_tokens_and_text_again(site: Site) -> None:
    asked = {"model": site.model, "prompt": "Hello there"}
    tokens = (await site.post("/v1/tokenize", asked)).document
    assert tokens["count"] == len(tokens["tokens"])
    back = await site.post("/v1/detokenize", {"model": site.model, "tokens": tokens["tokens"]})
    assert "Hello there" in back.document["text"]


async def test_a_message_is_answered_in_anthropics_words(site: Site) -> None:
    answer = await site.post("/v1/messages", {"model": site.model, **ANTHROPIC})
    assert answer.status == 200
    document = answer.document
    assert document["type"] == "message"
    assert document["role"] == "assistant"
    assert document["usage"]["output_tokens"] > 0


async def test_a_message_is_streamed_as_named_events(site: Site) -> None:
    answer = await site.post("/v1/messages", {"model": site.model, "stream": True, **ANTHROPIC})
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [
        line.removeprefix("event: ")
        for line in answer.body.decode().splitlines()
        if line.startswith("event: ")
    ]
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"
    assert "content_block_delta" in names


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "pick"}])
async def test_a_forced_tool_of_a_message_has_input_of_its_schema(
    site: Site, choice: dict[str, str]
) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    tools = [{"name": "pick", "input_schema": schema}]
    asked = {**ANTHROPIC, "max_tokens": 60, "tools": tools, "tool_choice": choice}
    for _ in range(5):
        document = (await site.post("/v1/messages", {"model": site.model, **asked})).document
        calls = [block for block in document["content"] if block["type"] == "tool_use"]
        assert all(call["input"]["colour"] in ("red", "blue") for call in calls)
        if calls:
            break
        # A small model may write nothing but the white space that JSON allows.
        assert document["stop_reason"] == "max_tokens", document


async def test_a_messages_tokens_are_counted(site: Site) -> None:
    answer = await site.post("/v1/messages/count_tokens", {"model": site.model, **ANTHROPIC})
    assert answer.document["input_tokens"] > 0


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({**ANTHROPIC}, 400, "invalid_request_error"),
        ({"model": "nobody", **ANTHROPIC}, 404, "not_found_error"),
        (b"{", 400, "invalid_request_error"),
        ({"model": "SELF", "max_tokens": 8, "messages": "hi"}, 400, "invalid_request_error"),
        ({"model": "SELF", "messages": []}, 400, "invalid_request_error"),
        ({"model": "SELF", **TOO_LONG}, 400, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_message_has_anthropics_envelope(
    site: Site, body: object, status: int, kind: str, stream: bool
) -> None:
    if isinstance(body, dict):
        body = {**body, "stream": stream}
        if body.get("model") == "SELF":
            body["model"] = site.model
    answer = await site.post("/v1/messages", body)
    assert answer.status == status, answer.body
    assert answer.error["type"] == kind
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


async def test_anthropics_paths_have_its_envelope_whatever_is_wrong(site: Site) -> None:
    kinds = {"/v1/messages": "invalid_request_error", "/v1/messages/batches": "not_found_error"}
    for path, kind in kinds.items():
        answer = await site.get(path)
        assert answer.document["type"] == "error"
        assert answer.error["type"] == kind
        assert answer.headers["request-id"] == answer.headers["x-request-id"]


RANKED: dict[str, Any] = {"query": "Where is Paris?", "documents": ["A dog", "Paris is there"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_documents_are_ranked_in_the_form_of_jina_and_cohere(
    site: Site, path: str, wrapped: bool
) -> None:
    documents = [{"text": each} for each in RANKED["documents"]] if wrapped else RANKED["documents"]
    asked = {**RANKED, "model": site.model, "documents": documents, "return_documents": None}
    answer = await site.post(path, asked)
    if site.is_real:  # a model that generates ranks nothing
        assert answer.status == 400, answer.body
        return
    document = answer.document
    assert document["model"] == site.model
    first, second = document["results"]
    assert (first["index"], second["index"]) == (1, 0)
    assert first["relevance_score"] > second["relevance_score"]
    assert first["document"] == {"text": "Paris is there"}
    assert document["usage"]["total_tokens"] == document["meta"]["tokens"]["input_tokens"] > 0
    bare = {**asked, "top_n": 1, "return_documents": False}
    (only,) = (await site.post(path, bare)).document["results"]
    assert set(only) == {"index", "relevance_score"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [{"title": "x"}]}, "documents[0].text"),
        ({"query": None}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
)
async def test_what_cannot_be_ranked_is_named(
    site: Site, fields: dict[str, Any], param: str
) -> None:
    answer = await site.post("/v1/rerank", {**RANKED, "model": site.model, **fields})
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param


async def test_anthropics_clients_list_models_in_their_shape(site: Site) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    listed = (await site.get("/v1/models", headers)).document
    (card,) = listed["data"]
    assert listed["first_id"] == listed["last_id"] == card["id"] == site.model
    assert listed["has_more"] is False
    assert card["type"] == "model"
    assert card["created_at"].endswith("Z")
    assert (await site.get(f"/v1/models/{site.model}", headers)).document == card


async def test_a_client_chosen_rid_never_names_the_call(site: Site) -> None:
    body = site.chat(rid="mine", priority=9, lora_path="x", data_parallel_rank=7)
    headers = {"x-override-rid": "mine", "x-data-parallel-rank": "7"}
    for stream in (False, True):
        answer = await site.post("/v1/chat/completions", {**body, "stream": stream}, headers)
        assert answer.status == 200, answer.body
        found = answer.frames[0] if stream else answer.document
        assert found["id"] != "mine"


async def test_models_are_listed_and_found_by_id(site: Site) -> None:
    listed = (await site.get("/v1/models")).document
    assert [card["id"] for card in listed["data"]] == [site.model]
    assert (await site.get(f"/v1/models/{site.model}")).document["object"] == "model"
    missing = await site.get("/v1/models/no%2Fsuch")
    assert missing.status == 404
    assert missing.error["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/v1/nothing", "/generate", "/flush_cache", "/v1/loads"])
async def test_the_engines_other_routes_are_not_there(site: Site, path: str) -> None:
    for answer in (await site.post(path, {}), await site.get(path)):
        assert answer.status == 404
        assert answer.error["code"] == "unknown_url"


async def test_every_probe_has_an_id(site: Site) -> None:
    for path in ("/health", "/livez", "/readyz", "/metrics", "/version", "/openapi.json"):
        assert (await site.get(path)).status == 200


async def test_a_body_is_passed_on_as_it_was_written(site: Site) -> None:
    # Spacing, order, escapes: nothing is rebuilt where no field of ours is named.
    text = '{ "messages" : [{"role":"user","content":"\\u00e9\\ud83d\\ude00 "}],"max_tokens": 2 ,'
    body = text + '"model":' + orjson.dumps(site.model).decode() + "}"
    assert (await site.post("/v1/chat/completions", body.encode())).status == 200
