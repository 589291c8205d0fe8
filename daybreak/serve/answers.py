"""From what an engine emits to what OpenAI's clients read: pieces of a stream, and whole answers, which are the sums of their pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from daybreak.data.tokenizer import END_OF_TEXT, Tokenizer
from daybreak.inference.requests import Emitted, Top

IMPOSSIBLE = -9999.0
"""OpenAI's word for minus infinity, which JSON has not."""


def spelled(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; one that is only a part of a character as OpenAI writes it, `bytes:\\xe2\\x80`."""
    if token >= tokenizer.eot:
        return END_OF_TEXT if token == tokenizer.eot else f"token:{token}"
    piece = tokenizer.token_bytes(token)
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, IMPOSSIBLE)


@final
class Completion:
    """One text of /v1/completions as it grows."""

    def __init__(self, index: int, tokenizer: Tokenizer, *, logprobs: bool, ids: bool, echo: str | None, prompt: Sequence[int]) -> None:
        """`echo`: the prompt's text, where the answer is to begin with it."""
        self.index = index
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._ids = ids
        self._echo = echo
        self._prompt = prompt
        self._offset = 0

    def piece(self, emitted: Emitted) -> dict[str, Any] | None:
        """What is new, or None if nothing is."""
        text, tokens = emitted.text, []
        told: dict[str, Any] = {}
        if self._echo is not None:
            text = self._echo + text
            tokens += [(scored.token, scored.logprob, scored.top) for scored in emitted.prompt]
        if emitted.token is not None:
            tokens.append((emitted.token, emitted.logprob, emitted.top))
        if self._ids:
            if self._prompt:
                told["prompt_token_ids"] = list(self._prompt)
            told["token_ids"] = [] if emitted.token is None else [emitted.token]
        self._echo, self._prompt = None, ()
        if not text and not self._logprobs and not self._ids and emitted.finish is None:
            return None
        logprobs = self._told(tokens) if self._logprobs else None
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": emitted.finish, **told}

    def _told(self, tokens: Iterable[tuple[int, float | None, Top]]) -> dict[str, list[Any]]:
        told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if self._ids:
            told["alternatives"] = []
        for token, logprob, top in tokens:
            name = spelled(self._tokenizer, token)
            told["tokens"].append(name)
            told["token_logprobs"].append(_finite(logprob))
            alternatives = {spelled(self._tokenizer, other): _finite(number) for other, number in top}
            told["top_logprobs"].append(None if logprob is None else {**alternatives, name: _finite(logprob)})
            told["text_offset"].append(self._offset)
            self._offset += len(name)
            if self._ids:
                told["alternatives"].append(
                    [{"id": other, "token": spelled(self._tokenizer, other), "logprob": _finite(at)} for other, at in top]
                )
        return told


@final
class Chat:
    """One answer of /v1/chat/completions as it grows. White space before its first word is left out."""

    def __init__(self, index: int, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self.index = index
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._begun = False
        self._greeted = False

    def piece(self, emitted: Emitted) -> dict[str, Any] | None:
        """What is new, or None if nothing is."""
        text = emitted.text if self._begun else emitted.text.lstrip()
        self._begun = self._begun or bool(text)
        if not text and not self._logprobs and emitted.finish is None:
            return None
        delta = {"content": text} if self._greeted else {"role": "assistant", "content": text}
        self._greeted = True
        logprobs = None
        if self._logprobs:
            tokens = [] if emitted.token is None else [self._told(emitted.token, emitted.logprob, emitted.top)]
            logprobs = {"content": tokens, "refusal": None}
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": emitted.finish}

    def _told(self, token: int, logprob: float | None, top: Top) -> dict[str, Any]:
        alternatives = [self._spelled(other, number) for other, number in top]
        return {**self._spelled(token, logprob), "top_logprobs": alternatives}

    def _spelled(self, token: int, logprob: float | None) -> dict[str, Any]:
        piece = self._tokenizer.token_bytes(token) if token < self._tokenizer.eot else b""
        return {"token": spelled(self._tokenizer, token), "logprob": _finite(logprob), "bytes": list(piece)}


def added(pieces: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sum of one text's pieces, none of which is left out: texts and lists join, the last reason to end holds."""
    whole: dict[str, Any] = {}
    for piece in pieces:
        whole = _sum(whole, piece) if whole else piece
    return whole


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        return {**left, **{name: _sum(left[name], value) if name in left else value for name, value in right.items()}}
    if isinstance(left, list) and isinstance(right, list):
        left += right
        return left
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    return right


def as_message(choice: dict[str, Any]) -> dict[str, Any]:
    """A chat's summed pieces as a whole answer."""
    delta = choice.pop("delta")
    return {"index": choice["index"], "message": {**delta, "refusal": None}, **choice}


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """How many tokens were read and written."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
