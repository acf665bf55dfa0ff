"""What does a simulated model say where a schema or a tool decides it?"""

import json
import re
from collections.abc import Mapping
from typing import Any

from backends.simulated.fields import Body, text_of
from backends.simulated.instances import minimal
from backends.simulated.refusals import Refusal

# Words of a tool's name, `get_weather` and `getWeather` alike, long enough to mean something.
_WORD = re.compile(r"[A-Za-z][a-z]{3,}")


def constrained(body: Body) -> tuple[str | None, str | None]:
    """Give the text that a schema or a tool leads to, and the tool's name.

    A tool that may be called is called where the last word is the user's and says a word of the
    tool's name. So an agent gets its call from a question, and its answer from the call's result.
    """
    choice = body.get("tool_choice")
    functions = [t.get("function") or {} for t in body.get("tools") or [] if isinstance(t, Mapping)]
    forced = choice.get("function", {}).get("name") if isinstance(choice, Mapping) else None
    if functions and (forced or choice == "required"):
        chosen = next((f for f in functions if forced in (None, f.get("name"))), None)
        if chosen is None:
            raise Refusal(f"Tool choice function '{forced}' not found in tools list.")
        return _call(chosen)
    form = body.get("response_format") or {}
    match form.get("type") if isinstance(form, Mapping) else None:
        case "json_schema":
            return _compact(minimal((form.get("json_schema") or {}).get("schema") or {})), None
        case "json_object":
            return "{}", None
    if choice in (None, "auto"):
        said = _last_words(body.get("messages"))
        for function in functions:
            if said and any(w.lower() in said for w in _WORD.findall(str(function.get("name")))):
                return _call(function)
    return None, None


def _call(function: Mapping[str, Any]) -> tuple[str, str | None]:
    return _compact(minimal(function.get("parameters") or {"type": "object"})), function.get("name")


def _last_words(messages: object) -> str:
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "user":
        return ""
    return text_of(last.get("content")).lower()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
