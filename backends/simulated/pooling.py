"""What do a simulated model's vectors, ranks, scores and classes look like?"""

import base64
import math
import random
import struct
import time
import uuid
from typing import Any

from backends.simulated.fields import Body, integer, text_of, text_or_ids
from backends.simulated.refusals import Refusal, missing
from backends.simulated.words import count_tokens, seed_of


def unit_vector(text: str, size: int) -> list[float]:
    """Give a vector of length 1 that depends on the text alone."""
    drawn = random.Random(seed_of("embedding", text))
    values = [drawn.gauss(0.0, 1.0) for _ in range(size)]
    length = math.sqrt(sum(v * v for v in values)) or 1.0
    return [v / length for v in values]


def embeddings(body: Body, model: str, size: int) -> dict[str, Any]:
    """Answer /v1/embeddings; `dimensions` cuts the vectors short and makes their length 1 again."""
    if "input" not in body:
        raise missing("input", body)
    texts = _texts(body["input"])
    if isinstance(body.get("rid"), str) and _is_batch(body["input"]):
        message = "Internal server error: The rid should be a list."
        raise Refusal(message, status=500, kind="InternalServerError")
    size = integer(body, "dimensions") or size
    packed = body.get("encoding_format") == "base64"
    data = []
    for i, text in enumerate(texts):
        vector: Any = unit_vector(text, size)
        if packed:
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"embedding": vector, "index": i, "object": "embedding"})
    usage = _usage(sum(count_tokens(t) for t in texts))
    return {"data": data, "model": model, "object": "list", "usage": usage}


def rerank(body: Body) -> list[dict[str, Any]]:
    """Answer /v1/rerank: the documents by falling score."""
    for name in ("query", "documents"):
        if name not in body:
            raise missing(name, body)
    query, documents = text_of(body["query"]), body["documents"]
    if not query:
        raise Refusal("Query cannot be empty")
    if not isinstance(documents, list) or not documents:
        raise Refusal("Documents cannot be empty")
    shown = body.get("return_documents", True)
    ranked = []
    for i, document in enumerate(documents):
        text = text_of(document)
        item: dict[str, Any] = {"score": _alike(query, text)}
        if shown:
            item["document"] = text
        meta = {"id": uuid.uuid4().hex, "prompt_tokens": count_tokens(query + text)}
        ranked.append({**item, "index": i, "meta_info": meta})
    ranked.sort(key=lambda item: -float(item["score"]))
    return ranked[: integer(body, "top_n") or len(ranked)]


def score(body: Body, model: str) -> dict[str, Any]:
    """Answer /v1/score: a row of label probabilities per item."""
    items = body.get("items")
    labels = body.get("label_token_ids") or []
    if items is None or body.get("query") is None:
        raise Refusal("Both query and items must be provided.")
    query = text_or_ids(body["query"], "query")[0]
    texts = text_or_ids(items, "items")
    rows = []
    for text in texts:
        drawn = random.Random(seed_of("score", query, text))
        weights = [drawn.random() for _ in labels] or [drawn.random()]
        whole = sum(weights) if body.get("apply_softmax") else 1.0
        rows.append([w / whole for w in weights])
    tokens = sum(count_tokens(query + t) for t in texts)
    return {
        "scores": rows,
        "pooled_hidden_states": None,
        "token_logprobs": None,
        "model": body.get("model") or model,
        "usage": _usage(tokens),
        "object": "scoring",
    }


def classify(body: Body, model: str) -> dict[str, Any]:
    """Answer /v1/classify: two labels and their probabilities per input."""
    if "input" not in body:
        raise missing("input", body)
    texts = _texts(body["input"])
    data = []
    for i, text in enumerate(texts):
        first = 1.0 / (1.0 + math.exp(-random.Random(seed_of("class", text)).gauss(0.0, 1.0)))
        label = "LABEL_0" if first >= 0.5 else "LABEL_1"
        data.append({"index": i, "label": label, "probs": [first, 1.0 - first], "num_classes": 2})
    tokens = sum(count_tokens(t) for t in texts)
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": _usage(tokens),
    }


def _texts(value: object) -> list[str]:
    if value in ("", []):
        raise Refusal("Input cannot be empty")
    texts = text_or_ids(value, "input")
    if not all(t.strip() for t in texts):
        raise Refusal("Input cannot be empty or whitespace only")
    return texts


def _is_batch(value: object) -> bool:
    return isinstance(value, list) and not all(isinstance(v, int) for v in value)


def _alike(query: str, text: str) -> float:
    """Give the share of the query's words that a text holds, and a little of chance."""
    wanted = set(query.lower().split())
    shared = len(wanted & set(text.lower().split())) / max(1, len(wanted))
    return 0.9 * shared + 0.1 * random.Random(seed_of("rank", query, text)).random()


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }
