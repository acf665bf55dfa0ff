"""A schema that leads to itself alone kills an engine, and is refused; trees are not."""

from typing import Any

import pytest

from gateway.errors import InvalidRequest
from gateway.wire.schemas import refuse_endless

TEXT = {"type": "string"}
ENDLESS = [
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "allOf": [{"$ref": "#/$defs/a"}]},
    {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
    {"type": "array", "items": [TEXT, {"$ref": "#/items/1"}]},
    {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"$ref": "#/$defs/a~1b%20c"}}},
]
FINE: list[Any] = [
    True,
    {},
    {"type": "object", "properties": {"child": {"$ref": "#"}}},
    {"type": "array", "items": {"$ref": "#"}},
    {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}, "b": TEXT},
    },
    {"$ref": "#/$defs/missing"},
    {"$ref": "https://example.com/schema"},
    {"$ref": "#/items/7/x", "items": [TEXT]},
    {"properties": {"$ref": TEXT}},
    {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(5000)}},
]


@pytest.mark.parametrize("schema", ENDLESS)
def test_what_leads_to_itself_alone_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest) as told:
        refuse_endless(schema, "tools[0].function.parameters")
    assert told.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize("schema", FINE)
def test_what_asks_for_something_is_not(schema: Any) -> None:
    refuse_endless(schema, "schema")
