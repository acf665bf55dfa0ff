"""How many tokens does an engine say that it used?"""

from typing import Any

from gateway.call import Usage


def usage_of(found: Any) -> Usage | None:
    """Read OpenAI's or Anthropic's usage object; None where it is not one."""
    if not isinstance(found, dict):
        return None
    prompt_details = found.get("prompt_tokens_details") or {}
    completion_details = found.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=_count(found.get("prompt_tokens", found.get("input_tokens"))),
        completion_tokens=_count(found.get("completion_tokens", found.get("output_tokens"))),
        cached_tokens=_count(
            prompt_details.get("cached_tokens", found.get("cache_read_input_tokens"))
        ),
        reasoning_tokens=_count(
            completion_details.get("reasoning_tokens", found.get("reasoning_tokens"))
        ),
    )


def respell(usage: Any) -> bool:
    """Put the reasoning tokens where OpenAI has them; whether anything changed.

    SGLang 0.5.23 counts them beside a null `completion_tokens_details`.
    """
    if not isinstance(usage, dict) or usage.get("completion_tokens_details", 0) is not None:
        return False
    usage["completion_tokens_details"] = {"reasoning_tokens": _count(usage.get("reasoning_tokens"))}
    return True


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
