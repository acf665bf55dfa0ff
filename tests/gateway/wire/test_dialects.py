"""How are refusals worded for clients of another API?"""

import orjson

from gateway.errors import InvalidRequest, ModelNotFound
from gateway.wire.dialects import anthropic_refusal


def test_anthropics_envelope_names_the_field_in_its_text() -> None:
    body, _ = anthropic_refusal(InvalidRequest("Field required", param="max_tokens"))
    assert orjson.loads(body)["error"]["message"] == "max_tokens: Field required"


def test_a_field_that_the_text_names_is_not_told_twice() -> None:
    body, _ = anthropic_refusal(ModelNotFound("m"))
    assert orjson.loads(body)["error"]["message"].startswith("The model 'm'")
