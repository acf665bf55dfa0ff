"""What becomes of a URL that a caller puts into a conversation? The engine never follows it.

SGLang fetches `image_url` by itself, from inside our network, and opens a plain path as a file of
its own (0.5.23, srt/utils/common.py: load_image). So what is no data URL is fetched here, by public
addresses alone, and handed on as data; or refused; or left alone where an operator says so.
"""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.fetch import fetch_image
from gateway.settings_jobs import FetchSettings
from gateway.wire.body import UNREADABLE, Body, fields_of

# Where the APIs that we serve, and the engines behind them, look for media.
_FIELDS = ("messages", "input", "query", "documents", "items", "system")
_KEYS = ("image_url", "video_url", "audio_url", "image", "video", "audio", "source")
# A body without any of these names no media: an escaped letter may hide a key.
_MARKS = (b'"image', b'"video', b'"audio', b'"source"', b"\\u00")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a URL stands: `holder[key]`."""

    holder: dict[str, Any]
    key: str
    is_anthropic: bool = False

    @property
    def url(self) -> str:
        """The URL."""
        found: str = self.holder[self.key]
        return found

    def fill(self, data: bytes) -> None:
        """Put an image in the place of its URL."""
        text = base64.b64encode(data).decode()
        if self.is_anthropic:
            self.holder.pop("url")
            self.holder.update({"type": "base64", "media_type": kind_of(data), "data": text})
        else:
            self.holder[self.key] = f"data:{kind_of(data)};base64,{text}"


async def settled(body: Body, how: FetchSettings) -> Body:
    """Give a body whose media are data. Raises InvalidRequest for what may not be named.

    A body without media is given back as it is, after a search for a few marks.
    """
    if how.urls == "pass" or not _names_media(body.raw):
        return body
    try:
        fields = fields_of(body.raw)
        decoded = {name: msgspec.json.decode(fields[name]) for name in _FIELDS if name in fields}
    except UNREADABLE:  # only what nobody has looked at so far
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from None
    places = [p for p in _places(decoded) if not p.url.startswith("data:")]
    if not places:
        return body
    if how.urls == "forbid":
        raise _refused("send the data itself, as a data URL")
    if len(places) > how.most_images:
        raise _refused(f"at most {how.most_images} may be named by URL")
    await _fetch(places, how)
    fresh = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in decoded.items()}
    return Body(msgspec.json.encode({**fields, **fresh}), body.ours)


def _names_media(raw: bytes) -> bool:
    for mark in _MARKS:  # noqa: SIM110 a generator would cost more than the searches
        if mark in raw:
            return True
    return False


async def _fetch(places: list[_Place], how: FetchSettings) -> None:
    for place in places:
        if not place.url.startswith(("http://", "https://")):
            raise _refused("an http or https URL or a data URL is needed")
        if place.key.startswith(("video", "audio")):
            raise _refused("video and audio are taken as data URLs only")
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_one(place.url, how)) for place in places]
    except* InvalidRequest as errors:
        raise _first(errors) from None
    for place, task in zip(places, tasks, strict=True):
        place.fill(task.result())


async def _one(url: str, how: FetchSettings) -> bytes:
    return await fetch_image(
        url,
        most_bytes=how.image_bytes,
        timeout_s=how.timeout_s,
        allow_private=how.allow_private,
    )


def _first(errors: BaseExceptionGroup[InvalidRequest]) -> InvalidRequest:
    found = errors.exceptions[0]
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return _refused(str(found).partition(": ")[2].rstrip("."))


def _places(value: Any) -> Iterator[_Place]:
    """Find every URL of media below a value."""
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, list):
            stack += found
        elif isinstance(found, dict):
            for key, inner in found.items():
                if key in _KEYS and isinstance(inner, str) and key != "source":
                    yield _Place(found, key)
                elif key in _KEYS and isinstance(inner, dict) and isinstance(inner.get("url"), str):
                    yield _Place(inner, "url", is_anthropic=key == "source")
                else:
                    stack.append(inner)


def kind_of(data: bytes) -> str:
    """Name the media type of an image that `fetch_image` has let through."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/gif" if data.startswith(b"GIF8") else "image/webp"


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"Media named by URL: {why}.", param="messages", code="invalid_media_url")
