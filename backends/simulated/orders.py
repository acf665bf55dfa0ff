"""What does a request's body ask for, in tokens?"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.simulated.constrained import constrained
from backends.simulated.fields import (
    Body,
    check_sampling,
    flag,
    integer,
    messages_of,
    rendered,
    text_or_ids,
)
from backends.simulated.refusals import Invalid, Refusal, missing
from backends.simulated.sequences import Finish, Sequence
from backends.simulated.settings import SimulatedSettings
from backends.simulated.words import (
    EOS_ID,
    CutScript,
    Dictionary,
    FixedScript,
    Script,
    block_keys,
    count_tokens,
    draw_output_tokens,
    seed_of,
)


@dataclass(slots=True)
class Choice:
    """One answer to a prompt: what it will say and the sequence that says it.

    `silent_end` is 1 where the last token is the end of text, which shows no text. `tool` is the
    name of the function that the text is the arguments of.
    """

    index: int
    script: Script
    sequence: Sequence
    matched: int | str | None = None
    silent_end: int = 0
    tool: str | None = None
    call_id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")


@dataclass(slots=True)
class Order:
    """A validated request for generation."""

    rid: str
    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    logprobs: int | None  # how many alternatives per token; None: none are asked for
    choices: list[Choice]
    per_prompt: int  # choices per prompt
    incremental: bool = False
    echo: str = ""
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, slots=True)
class _Sampling:
    """How long an answer may be and what ends it."""

    limit: int | None
    least: int = 0
    ignore_eos: bool = False
    stops: tuple[str, ...] = ()
    keep_stop: bool = False
    seed: object = None


class Orders:
    """Reads the bodies of one replica's generating routes; Refusal where SGLang would refuse."""

    def __init__(self, settings: SimulatedSettings) -> None:
        self._settings = settings
        self._profile = settings.profile
        self._context = settings.context
        self._mean = settings.mean_output_tokens or self._profile.mix.output_tokens
        self._dictionary = Dictionary()

    def chat(self, body: Body) -> Order:
        """Read a body of /v1/chat/completions."""
        if "messages" not in body:
            raise missing("messages", body)
        messages = messages_of(body)
        if not messages:
            raise Refusal("Messages cannot be empty.")
        limit = integer(body, "max_completion_tokens") or integer(body, "max_tokens")
        if limit is not None and limit > self._context:
            raise Refusal(
                f"max_completion_tokens is too large: {limit}."
                f"This model supports at most {self._context} completion tokens."
            )
        fixed, tool = constrained(body)
        logprobs = None
        if flag(body, "logprobs"):
            logprobs = integer(body, "top_logprobs") or 0
        prompt = rendered(messages, body.get("tools"))
        if fixed is None:
            known = (said for asked, said in self._settings.answers if asked in prompt)
            fixed = next(known, None)
        return self._order(
            body,
            [prompt],
            limit,
            logprobs=logprobs,
            fixed=fixed,
            tool=tool,
        )

    def completion(self, body: Body) -> Order:
        """Read a body of /v1/completions (16 tokens unless it says otherwise)."""
        if "prompt" not in body:
            raise missing("prompt", body)
        prompts = text_or_ids(body["prompt"], "prompt")
        limit = integer(body, "max_tokens")
        fixed, _ = constrained(body)
        order = self._order(
            body,
            prompts,
            16 if limit is None else limit,
            logprobs=integer(body, "logprobs"),
            fixed=fixed,
        )
        if flag(body, "echo"):
            order.echo = prompts[0]
        return order

    def native(self, body: Body) -> Order:
        """Read a body of /generate (128 tokens unless it says otherwise)."""
        given = body.get("text", body.get("input_ids"))
        if given is None:
            raise Refusal("Either text, input_ids or input_embeds should be provided.")
        sampling = body.get("sampling_params") or {}
        if not isinstance(sampling, Mapping):
            raise Invalid(
                "dict_type", ("sampling_params",), "Input should be a valid dictionary", sampling
            )
        flattened = {**sampling, "stream": body.get("stream"), "rid": body.get("rid"), "model": ""}
        limit = integer(flattened, "max_new_tokens")
        order = self._order(flattened, text_or_ids(given, "text"), 128 if limit is None else limit)
        if flag(body, "return_logprob"):
            order.logprobs = integer(body, "top_logprobs_num") or 0
        return order

    def _order(
        self,
        body: Body,
        prompts: list[str],
        limit: int | None,
        *,
        logprobs: int | None = None,
        fixed: str | None = None,
        tool: str | None = None,
    ) -> Order:
        check_sampling(body, limit)
        count = integer(body, "n") or 1
        stop = body.get("stop") or ()
        sampling = _Sampling(
            limit=limit,
            least=integer(body, "min_tokens") or integer(body, "min_new_tokens") or 0,
            ignore_eos=flag(body, "ignore_eos"),
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
            keep_stop=flag(body, "no_stop_trim"),
            seed=body.get("seed"),
        )
        stream = flag(body, "stream")
        interval = self._settings.stream_interval if stream else 0
        salt = f"{body.get('cache_salt') or ''}|{body.get('extra_key') or ''}"
        choices = [
            self._choice(p * count + i, i, prompt, sampling, interval, salt, fixed, tool)
            for p, prompt in enumerate(prompts)
            for i in range(count)
        ]
        options = body.get("stream_options") or {}
        rid = body.get("rid")
        return Order(
            rid=rid if isinstance(rid, str) and rid else uuid.uuid4().hex,
            model=str(body.get("model") or "default"),
            stream=stream,
            include_usage=bool(options.get("include_usage")),
            continuous_usage=bool(options.get("continuous_usage_stats")),
            logprobs=logprobs,
            choices=choices,
            per_prompt=count,
        )

    def _choice(
        self,
        index: int,
        variant: int,
        prompt: str,
        sampling: _Sampling,
        interval: int,
        salt: str,
        fixed: str | None,
        tool: str | None,
    ) -> Choice:
        prompt_tokens = count_tokens(prompt)
        limit = self._room(prompt_tokens, sampling.limit)
        seed = seed_of(prompt, sampling.seed, variant)
        matched: int | str | None
        if fixed is not None:
            given = FixedScript(fixed)
            script: Script = given
            tokens, matched, silent = given.tokens + 1, EOS_ID, 1
        else:
            script = self._dictionary.script(seed)
            drawn = draw_output_tokens(seed, self._mean, self._profile.output_sigma)
            tokens = limit + 1 if sampling.ignore_eos else max(drawn, sampling.least)
            matched, silent = EOS_ID, 1
        if tokens > limit:
            tokens, matched, silent = limit, None, 0
        if sampling.stops:
            found = _stopped(script, tokens - silent, sampling)
            if found is not None:
                script, tokens, matched = found
                silent = 0
        block = self._settings.limits().block_tokens
        sequence = Sequence(
            prompt_tokens=prompt_tokens,
            output_tokens=max(1, tokens),
            interval=interval,
            ends_by=Finish.LENGTH if matched is None else Finish.STOP,
            blocks=block_keys(prompt.encode(), block, salt) if self._settings.prefix_cache else (),
        )
        return Choice(index, script, sequence, matched, silent, tool)

    def _room(self, prompt_tokens: int, limit: int | None) -> int:
        """Give the most output tokens; Refusal where the prompt, or prompt and output, exceed
        the context.
        """
        context = self._context
        if prompt_tokens >= context:
            raise Refusal(
                f"The input ({prompt_tokens} tokens) is longer than the model's context length "
                f"({context} tokens)."
            )
        if limit is None:
            return context - prompt_tokens
        total = prompt_tokens + limit
        if total > context:
            raise Refusal(
                f"Requested token count exceeds the model's maximum context length of {context} "
                f"tokens. "
                f"You requested a total of {total} tokens: {prompt_tokens} tokens from the input "
                f"messages and "
                f"{limit} tokens for the completion. Please reduce the number of tokens in the "
                f"input messages or the "
                "completion to fit within the limit."
            )
        return limit


def _stopped(script: Script, tokens: int, sampling: _Sampling) -> tuple[Script, int, str] | None:
    """Find the first stop string in what a script will say; give the script cut there, its
    tokens and the string.
    """
    ends = []
    length = 0
    for i in range(tokens):
        length += len(script.text(i, i + 1))
        ends.append(length)
    text = script.text(0, tokens)
    hits = [(text.find(s), s) for s in sampling.stops if s and s in text]
    if not hits:
        return None
    at, stop = min(hits)
    end = at + len(stop)
    used = next(i for i, reached in enumerate(ends) if reached >= end) + 1
    return CutScript(script, used, end if sampling.keep_stop else at), used, stop
