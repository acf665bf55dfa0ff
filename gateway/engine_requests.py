"""What is sent to an engine: which headers, and which body?"""

from backends.fleet import Replica
from gateway.call import Call

_CONTENT_TYPE = b"content-type: application/json\r\n"


def engine_headers(replica: Replica, *more: tuple[bytes, bytes]) -> bytes:
    """Give the header lines that every request to an engine has, and `more`."""
    if replica.api_key is None and not more:
        return _CONTENT_TYPE
    lines = [_CONTENT_TYPE]
    if replica.api_key is not None:
        lines.append(b"authorization: Bearer %b\r\n" % replica.api_key.encode())
    lines += [b"%b: %b\r\n" % pair for pair in more]
    return b"".join(lines)


def engine_body(call: Call, replica: Replica, rid: str) -> bytes:
    """Give the body of one attempt: with its rid, and the model as this engine knows it."""
    body, more = call.body, {"rid": rid} if call.takes_rid else {}
    if replica.served_name is not None:
        body, more = body.without({"model"}), {**more, "model": replica.served_name}
    return body.encode(**more)
