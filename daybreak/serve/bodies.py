"""What clients may ask: the bodies of requests in OpenAI's form, with the fields that vLLM and llama.cpp added, checked strictly.

A field that would be silently ignored elsewhere is refused here if it would change the answer (`tools`, `suffix`), and passed over if it
would not (`user`, `metadata`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema, model_validator

from daybreak.config import closest
from daybreak.serve.problems import shortened

MOST_CHOICES = 128
"""Texts that one request may ask for: prompts times n."""
MOST_STOPS = 16
MOST_BIASES = 1024
MOST_PARTS = 64

PASSED_OVER = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "add_special_tokens",
    "prediction",
    "verbosity",
    "annotations",
}
"""Fields that others know and that change nothing here."""

REFUSED = {
    "suffix": "these models write on behind a prompt, they do not fill in between two texts",
    "tools": "these are base models, which know no tools",
    "tool_choice": "these are base models, which know no tools",
    "tool_calls": "these are base models, which know no tools",
    "functions": "these are base models, which know no functions",
    "function_call": "these are base models, which know no functions",
    "response_format": "only text can be asked for",
    "guided_json": "only text can be asked for",
    "audio": "only text can be asked for",
    "modalities": "only text can be asked for",
    "use_beam_search": "only sampling can be asked for",
    "reasoning_effort": "these are base models, which do not reason apart",
    "web_search_options": "these are base models, which search nothing",
}
_MEANS_NOTHING: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "use_beam_search": (False,),
}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in REFUSED:
                if value not in (None, "", [], *_MEANS_NOTHING.get(name, ())):
                    raise ValueError(f"{name}: {REFUSED[name]}; leave it out")
            elif name not in PASSED_OVER:
                shown = shortened(str(name), 60)
                raise ValueError(f"{shown}: no such field{closest(shown, list(cls.model_fields))}")
        return kept


Prompt = str | list[str] | list[int] | list[list[int]]
_PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half of a character that takes two
        return False
    return True


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(item) is int and -1 < item < 2**32 for item in value)


def _prompt(value: Any) -> Any:
    if _is_text(value) or _are_ids(value):
        return value
    if isinstance(value, list) and 0 < len(value) <= MOST_CHOICES and (all(map(_is_text, value)) or all(map(_are_ids, value))):
        return value
    raise ValueError(f"prompt: wanted a text, a list of token ids, or 1 to {MOST_CHOICES} of these, came {_kind(value)}")


def _input(value: Any) -> Any:
    try:
        return _prompt(value)
    except ValueError as error:
        raise ValueError(str(error).replace("prompt", "input", 1)) from None


def _stop(value: Any) -> Any:
    if value is None or (_is_text(value) and value):
        return [] if value is None else [value]
    if isinstance(value, list) and len(value) <= MOST_STOPS and all(_is_text(item) and 0 < len(item) <= 1000 for item in value):
        return value
    raise ValueError(f"stop: wanted a text or up to {MOST_STOPS}, each of 1 to 1,000 characters, came {_kind(value)}")


def _bias(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, dict) and len(value) <= MOST_BIASES:
        try:
            found = {int(token): number for token, number in value.items() if len(token) < 20}
        except ValueError:
            found = {}
        if len(found) == len(value) and all(type(number) in (int, float) and -100 <= number <= 100 for number in found.values()):
            return {token: float(number) for token, number in found.items()}
    raise ValueError(f"logit_bias: wanted up to {MOST_BIASES:,} token ids, each with a number from -100 to 100, came {_kind(value)}")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        kinds = sorted({type(item).__name__ for item in value})
        return f"a list of {len(value):,} items" + (f" ({', '.join(kinds)})" if kinds else "")
    if isinstance(value, dict):
        return f"an object with {len(value):,} fields"
    return shortened(ascii(value), 80)


Texts = Annotated[Prompt, BeforeValidator(_prompt), WithJsonSchema(cast(Any, _PROMPT))]
Stops = Annotated[
    list[str],
    BeforeValidator(_stop),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": MOST_STOPS}, {"type": "null"}]}
    ),
]
Biases = Annotated[
    dict[int, float],
    BeforeValidator(_bias),
    WithJsonSchema(
        {"anyOf": [{"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}, {"type": "null"}]}
    ),
]
Name = Annotated[str, Field(max_length=256)]
Real = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(_Body):
    """What else a stream tells."""

    include_usage: bool | None = None
    """Whether a last event tells the tokens used."""
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class WritingBody(_Body):
    """What completions and chats share."""

    model: Name | None = None
    """One of /v1/models; the first where nothing is said."""
    temperature: Annotated[Real, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Real, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    """-1 and 0 keep all."""
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[Real, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[Real, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    logit_bias: Biases = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops = Field(default_factory=list)
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    """Whether to write on behind the end of text."""
    truncate_prompt_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Keeps only so many tokens of the prompt, the last ones."""
    return_token_ids: bool | None = None
    """Tells the tokens' ids too."""

    @model_validator(mode="after")
    def _fits(self) -> WritingBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: wanted only together with stream, came without; set stream or leave it out")
        return self


class CompletionBody(WritingBody):
    """POST /v1/completions."""

    prompt: Texts = ""
    """What to continue; nothing begins a new text."""
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many alternatives to tell for each token."""
    echo: bool | None = None
    """Whether the answer begins with the prompt."""
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None

    @model_validator(mode="after")
    def _few_enough(self) -> CompletionBody:
        n = self.n or 1
        if self.best_of not in (None, 1, n):
            raise ValueError(f"best_of: wanted 1 or n = {n}, came {self.best_of}; ask for more texts with n and choose among them")
        prompts = len(self.prompt) if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else 1
        if prompts * n > MOST_CHOICES:
            raise ValueError(f"n: wanted at most {MOST_CHOICES} texts in one request, came {prompts} prompts times {n}")
        return self


def _content(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_PARTS:
        raise ValueError(f"content: wanted a text or up to {MOST_PARTS} parts of one, came {_kind(value)}")
    return value


class Part(_Body):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(_Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | list[Part] | None, BeforeValidator(_content)] = None
    name: Name | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """Its whole text."""
        return "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""


class ChatBody(WritingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], FailFast(), Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _asked(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: wanted only together with logprobs, came without; set logprobs or leave it out")
        return self


class EmbeddingBody(_Body):
    """POST /v1/embeddings."""

    input: Annotated[Prompt, BeforeValidator(_input), WithJsonSchema(cast(Any, _PROMPT))]
    model: Name | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None


class TokenizeBody(_Body):
    """POST /tokenize."""

    prompt: Annotated[str, Field(max_length=2**22)]
    model: Name | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(_Body):
    """POST /detokenize."""

    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], FailFast()]
    model: Name | None = None
