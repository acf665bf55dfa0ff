"""What does a file inside a request say? Engines know no files; text they can read."""

import base64
import binascii
from typing import Any

from gateway.errors import InvalidRequest
from gateway.wire.responses.fields import missing, optional_text

Part = dict[str, Any]


def read_file(part: Part, at: str) -> Part:
    """Give an `input_file` part in the form that is kept: `filename` and `file_data`.

    Raises InvalidRequest where it is not sent along, or is no text in UTF-8.
    """
    for name in ("file_id", "file_url"):
        if optional_text(part, name, at) is not None:
            raise _unsupported("send its data as 'file_data'", f"{at}.{name}")
    data = optional_text(part, "file_data", at)
    if data is None:
        raise missing(f"{at}.file_data")
    kept = {
        "type": "input_file",
        "filename": optional_text(part, "filename", at) or "file",
        "file_data": data,
    }
    _text(data, f"{at}.file_data")
    return kept


def spoken(part: Part) -> str:
    """Give what the model is told of a file that `read_file` has let through."""
    return f"File {part['filename']}:\n{_text(part['file_data'], 'input')}"


def _text(data: str, at: str) -> str:
    encoded = data.partition(",")[2] if data.startswith("data:") else data
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"'{at}' is not base64, nor a data URL of it.", param=at) from None
    try:
        found = content.decode()
    except UnicodeDecodeError:
        found = "\0"
    if "\0" in found or content.startswith(b"%PDF-"):
        raise _unsupported("only text in UTF-8 is read; send images as 'input_image'", at)
    return found


def _unsupported(why: str, at: str) -> InvalidRequest:
    return InvalidRequest(
        f"This file is not served here: {why}.", param=at, code="unsupported_file"
    )
