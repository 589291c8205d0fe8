"""What one asks of an engine, and what comes back token by token: plain values that hold no tensor.

    ticket = engine.submit(Request(tokens=(464, 4252), max_tokens=50, seed=7), on_token=queue.put)
    ticket.cancel()                                            # from any thread; takes effect within a step

`on_token` is called in the engine's thread, once per token and in order, and must not wait. The last `Emitted` of a request, and only it,
has a `finish`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from daybreak.inference.sampling import Sampling

Finish = Literal["stop", "length", "cancelled", "failed"]
"""Why a text ended: a stop string or the end of text; its limit or the context; who asked; a fault, which `problem` tells."""

MOST_LOGPROBS = 100
"""How many alternatives one may ask for at each position."""


@dataclass(frozen=True)
class Request:
    """A text to continue, and how."""

    tokens: tuple[int, ...]
    """The prompt's ids, at least one: the end-of-text token begins a new text."""
    max_tokens: int = 16
    """How many tokens to write at most; 0 writes none and only tells the prompt's log-probabilities."""
    sampling: Sampling = field(default_factory=Sampling)
    """How each token is chosen."""
    seed: int = 0
    """The same request with the same seed gets the same text, whatever else is in the batch."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings that appears in it."""
    logprobs: int | None = None
    """How many alternatives to tell with each token; 0 tells only the chosen token's log-probability, none tells nothing."""
    prompt_logprobs: bool = False
    """Whether to tell the prompt's log-probabilities too, with as many alternatives."""
    ignore_eot: bool = False
    """Whether to write on behind the end of text."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with these values, as (field, sentence)."""
        if not self.tokens:
            yield "tokens", "wanted at least one token, came none; begin with the end-of-text token"
        if self.max_tokens < 0:
            yield "max_tokens", f"wanted 0 or more, came {self.max_tokens}"
        if not 0 <= self.seed < 2**63:
            yield "seed", f"wanted 0 or more and less than 2^63, came {self.seed}"
        if "" in self.stop:
            yield "stop", "wanted strings of at least one character, came an empty one"
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            yield "logprobs", f"wanted 0 to {MOST_LOGPROBS} or none, came {self.logprobs}"
        yield from ((f"sampling.{name}", sentence) for name, sentence in self.sampling.problems())


Top = tuple[tuple[int, float], ...]
"""The likeliest tokens with their log-probabilities, likeliest first."""


@dataclass(frozen=True)
class Scored:
    """A token of the prompt, and how likely the model held it. The first has no log-probability: nothing stands before it."""

    token: int
    logprob: float | None
    top: Top = ()


@dataclass(frozen=True)
class Emitted:
    """One token of the answer. Log-probabilities are the model's own, before penalties, temperature and truncation."""

    text: str = ""
    """What may be shown now: whole characters that can no longer become a stop string. Joined, the text of the answer."""
    token: int | None = None
    """None where the request ended without one: cancelled, failed, or with max_tokens 0."""
    logprob: float | None = None
    """The chosen token's, where asked for."""
    top: Top = ()
    """The likeliest tokens, where asked for."""
    finish: Finish | None = None
    """Why the text ends here; None where it goes on."""
    problem: str = ""
    """One line for people, where it failed."""
    prompt: tuple[Scored, ...] = ()
    """The prompt's tokens, with the first that is emitted and where asked for."""


OnToken = Callable[[Emitted], None]


class Busy(RuntimeError):
    """The queue is full: come again later."""


class Ticket:
    """A request under way."""

    def __init__(self, request: Request, on_token: OnToken) -> None:
        self.request = request
        self.reused = 0
        """How many of the prompt's tokens were found in the cache and not read again."""
        self.written = 0
        """How many tokens were written so far."""
        self.finish: Finish | None = None
        """Why it ended, once it has."""
        self._on_token = on_token
        self._cancelled = threading.Event()
        self._ended = threading.Event()

    def cancel(self) -> None:
        """Asks for the end, from any thread: the engine emits nothing of it after its current step but that it was cancelled."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the end was asked for."""
        return self._cancelled.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the request has ended; false where it has not after `timeout` seconds."""
        return self._ended.wait(timeout)

    def emit(self, emitted: Emitted) -> None:
        """For the engine: hands on a token. A listener that raises is one that has gone away: the request is cancelled."""
        if self.finish is not None:
            return
        self.written += emitted.token is not None
        self.finish = emitted.finish
        try:
            self._on_token(emitted)
        except Exception:
            self.cancel()
        if emitted.finish is not None:
            self._ended.set()


@dataclass(frozen=True)
class Limits:
    """How much an engine takes on at once."""

    running: int = 32
    """How many requests are decoded together."""
    waiting: int = 256
    """How many more may wait; the next is told `Busy`."""
    cache_tokens: int = 32_768
    """How many tokens the cache holds for all requests together; rounded up to what one request of full length needs. A server holds
    fewer where these would not fit."""
    step_tokens: int = 256
    """How many tokens one step reads at most: long prompts are read in such pieces, between which others write on."""


@dataclass(frozen=True)
class Stats:
    """What an engine is doing, and has done since it was made."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    """Read, those found in the cache included."""
    reused_tokens: int = 0
    """Of those, found in the cache."""
    written_tokens: int = 0
    steps: int = 0
    preempted: int = 0
    """How often a request had to give its place in the cache to an older one, to be read again later."""
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Of the tokens that the speculator guessed, those that were right."""
    finished: tuple[tuple[Finish, int], ...] = ()
    cache_use: float = 0.0
    """The share of the cache that running requests hold, 0 to 1."""
