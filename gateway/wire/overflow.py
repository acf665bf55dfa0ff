"""How is a call told that its prompt and answer do not fit the model's context?

Clients that cut a conversation down, or ask for a shorter answer, know when to do so by the wording
of OpenAI's and of Anthropic's own refusals, numbers included. Engines have words of their own.
"""

import re

from msgspec import Struct

# SGLang 0.5.23 (srt/managers/tokenizer_manager.py), and OpenAI's own words, which vLLM uses.
_TOGETHER = (
    re.compile(
        r"maximum context length of (?P<context>\d+) tokens.*?"
        r"(?P<prompt>\d+) tokens from the input messages and (?P<answer>\d+) tokens"
    ),
    re.compile(
        r"maximum context length is (?P<context>\d+) tokens.*?"
        r"\((?P<prompt>\d+) in the (?:messages|prompt), (?P<answer>\d+) in the completion\)"
    ),
)
_ALONE = (
    re.compile(
        r"input \((?P<prompt>\d+) tokens\) is longer than the model's context length "
        r"\((?P<context>\d+) tokens\)"
    ),
    re.compile(
        r"maximum context length is (?P<context>\d+) tokens.*?"
        r"(?:messages|prompt) resulted in (?P<prompt>\d+) tokens"
    ),
)


class Overflow(Struct, frozen=True):
    """A prompt and what its answer may have, in tokens, beyond what the context holds.

    `answer` None: the prompt alone is too long.
    """

    context: int
    prompt: int
    answer: int | None = None

    def in_openais_words(self) -> str:
        """Say it as OpenAI does."""
        limit = f"This model's maximum context length is {self.context} tokens."
        if self.answer is None:
            return (
                f"{limit} However, your messages resulted in {self.prompt} tokens. "
                "Please reduce the length of the messages."
            )
        return (
            f"{limit} However, you requested {self.prompt + self.answer} tokens "
            f"({self.prompt} in the messages, {self.answer} in the completion). "
            "Please reduce the length of the messages or completion."
        )

    def in_anthropics_words(self) -> str:
        """Say it as Anthropic does."""
        if self.answer is None:
            return f"prompt is too long: {self.prompt} tokens > {self.context} maximum"
        return (
            "input length and `max_tokens` exceed context limit: "
            f"{self.prompt} + {self.answer} > {self.context}, "
            "decrease input length or `max_tokens` and try again"
        )


def read_overflow(message: str) -> Overflow | None:
    """Read the numbers in an engine's message; None where it tells none."""
    for form in (*_TOGETHER, *_ALONE):
        if found := form.search(message):
            return Overflow(**{name: int(digits) for name, digits in found.groupdict().items()})
    return None
