"""How many tokens did an answer use, and how sure was the model of each?"""

from typing import Any

from backends.simulated.calls import Call, Progress
from backends.simulated.orders import Choice
from backends.simulated.words import seed_of, token_ids


def usage_of(call: Call, *, cache_report: bool) -> dict[str, Any]:
    """Give the usage of a whole call so far; a prompt counts once however many choices it has."""
    return _usage(call.progress, call.order.per_prompt, cache_report=cache_report)


def usage_of_one(progress: Progress, *, cache_report: bool) -> dict[str, Any]:
    """Give the usage of one choice so far."""
    return _usage([progress], 1, cache_report=cache_report)


def _usage(progresses: list[Progress], per_prompt: int, *, cache_report: bool) -> dict[str, Any]:
    firsts = [p.choice.sequence for p in progresses[::per_prompt]]
    prompt = sum(s.prompt_tokens for s in firsts)
    completion = sum(p.generated for p in progresses)
    cached = {"cached_tokens": sum(s.cached_tokens for s in firsts)} if cache_report else None
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": cached,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def metadata_of(call: Call) -> dict[str, Any]:
    """Give the metadata that SGLang adds to unary answers."""
    end = max(p.generated for p in call.progress)
    return {
        "weight_version": "default",
        "weight_versions": [{"version": "default", "start": 0, "end": end}],
    }


def finish_of(progress: Progress) -> tuple[str | None, int | str | None]:
    """Give `finish_reason` and `matched_stop` of a choice."""
    if progress.finish is None:
        return None, None
    if progress.finish == "stop":
        return "stop", progress.choice.matched
    return str(progress.finish), None


def chat_logprobs(choice: Choice, start: int, end: int, alternatives: int) -> dict[str, Any]:
    """Give made-up log-probabilities of the tokens from `start` up to `end`, in the shape of
    chat.
    """
    content = []
    for i in range(start, end):
        text = choice.script.text(i, i + 1)
        entry = _entry(text, -0.1 - seed_of(text, i) % 1000 / 1000)
        others = [_entry(f" w{k}", entry["logprob"] - 0.5 * k) for k in range(1, alternatives)]
        top = [dict(entry), *others] if alternatives else []
        content.append({**entry, "top_logprobs": top})
    return {"content": content}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob}


def completion_logprobs(choice: Choice, start: int, end: int, alternatives: int) -> dict[str, Any]:
    """Give made-up log-probabilities in the shape of completions."""
    listed = chat_logprobs(choice, start, end, alternatives)["content"]
    offsets, at = [], len(choice.script.text(0, start)) if start else 0
    for entry in listed:
        offsets.append(at)
        at += len(entry["token"])
    return {
        "text_offset": offsets,
        "token_logprobs": [e["logprob"] for e in listed],
        "tokens": [e["token"] for e in listed],
        "top_logprobs": [{t["token"]: t["logprob"] for t in e["top_logprobs"]} for e in listed],
    }


def output_ids(choice: Choice, start: int, end: int) -> list[int]:
    """Give the ids of a choice's tokens."""
    return [(token_ids(choice.script.text(i, i + 1)) or [0])[0] for i in range(start, end)]
