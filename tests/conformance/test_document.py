"""What our own OpenAPI document allows, and what it does not, never meets a fault of ours."""

import asyncio
import json
import re
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from tests.conformance.conftest import SERVED, Served
from tests.gateways import until

EXAMPLES = 12  # per operation
CALL_WITHIN_S = 30.0


async def test_the_document_names_no_schema_that_it_lacks(served: Served) -> None:
    answer = await asyncio.to_thread(requests.get, f"{served.gateway.url}/openapi.json", timeout=10)
    schemas = answer.json()["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/(\w+)"', answer.text))
    assert {"ChatRequest", "CreateResponse", "CountTokens", "RerankRequest"} <= named
    assert named <= set(schemas)
    assert "max_output_tokens" in schemas["CreateResponse"]["properties"]
    assert "max_tokens" not in schemas["CreateResponse"]["properties"]  # read to be refused


# The gateway draws random numbers in the same process, in the event loop's thread.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module")
async def test_no_request_of_the_document_meets_a_fault(served: Served) -> None:
    answer = await asyncio.to_thread(requests.get, f"{served.gateway.url}/openapi.json", timeout=10)
    schema = schemathesis.openapi.from_dict(answer.json())
    schema.config.generation.update(modes=list(GenerationMode))
    seen = await asyncio.to_thread(_exercise, schema, served)
    assert {400, 404, 200} <= seen
    await until(lambda: not any(served.gateway.leftovers().values()))


def _exercise(schema: Any, served: Served) -> set[int]:
    """Send examples of every operation; give the statuses seen."""
    seen: set[int] = set()
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {served.key}"
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def check(case: Any) -> None:
                _name_a_model(case)
                seen.add(_check(case, served, session))

            check()
    return seen


def _name_a_model(case: Any) -> None:
    """Let most bodies name a model that is served, so that they come further than its name."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = SERVED
        body["max_tokens"] = 2 if isinstance(body.get("max_tokens"), int) else None


def _check(case: Any, served: Served, session: requests.Session) -> int:
    # 503 is for the model that has no replica here, which no body names.
    response = case.call(
        base_url=served.gateway.url, session=session, timeout=CALL_WITHIN_S, allow_redirects=False
    )
    status = response.status_code
    assert status < 500, (case.method, case.path, case.body, response.text)
    assert response.headers["x-request-id"]
    if status >= 400 and case.method != "HEAD":
        error = json.loads(response.content)["error"]
        wanted = {"message", "type", "param", "code"}
        assert set(error) == ({"message", "type"} if "messages" in case.path else wanted)
    try:
        case.validate_response(
            response, checks=[content_type_conformance, response_schema_conformance]
        )
    except BaseExceptionGroup as failures:  # which would end the runner of the event loop
        told = "\n".join(map(str, failures.exceptions))
        raise AssertionError(f"{case.method} {case.path} {case.body!r}: {told}") from None
    return int(status)
