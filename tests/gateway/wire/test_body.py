"""A caller's body reaches the engine as it was written, with our fields in front."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.body import Body

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=6)


@given(document=OBJECTS, indent=st.sampled_from([None, 2]))
def test_our_fields_are_added_and_nothing_is_lost(
    document: dict[str, object], indent: int | None
) -> None:
    document.pop("rid", None)
    raw = ("  " + json.dumps(document, indent=indent)).encode()
    assert json.loads(Body(raw).encode(rid="r")) == {"rid": "r", **document}
    assert Body(raw).encode() == raw


@given(document=OBJECTS)
def test_fields_are_taken_out_and_the_others_kept(document: dict[str, object]) -> None:
    raw = json.dumps({**document, "rid": "theirs"}).encode()
    document.pop("rid", None)
    assert json.loads(Body(raw).without({"rid"}).encode()) == document


@pytest.mark.parametrize("value", ["1e400", "123456789012345678901234567890", "1.10"])
def test_a_value_keeps_its_bytes(value: str) -> None:
    raw = f'{{"a": {value}, "rid": 1}}'.encode()
    assert Body(raw).without({"rid"}).raw == f'{{"a":{value}}}'.encode()
