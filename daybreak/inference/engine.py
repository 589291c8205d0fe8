"""The engine: many requests, one forward pass for all of them at each step.

    engine = Engine(gpt, tokenizer.token_bytes, eot=tokenizer.eot)
    ticket = engine.submit(Request(tokens), on_token)     # from any thread; raises Busy where the queue is full
    while engine.step(): ...                              # in one thread; or engine.run_forever(stop) in one of its own
    engine.stats

First come, first served: the oldest request always has its place, a long prompt is read in pieces between which others write on, and
where the cache is full the youngest gives its place back, to be read again later (its pages mostly still being there).

N new tokens of all texts, V vocabulary.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import final

import torch

from daybreak import config
from daybreak.inference.graphs import Record, cuda_graphs
from daybreak.inference.pages import Pages
from daybreak.inference.replays import Replays
from daybreak.inference.requests import Busy, Finish, Limits, OnToken, Request, Stats, Ticket
from daybreak.inference.speculation import MOST_GUESSED, PromptLookup, Speculator
from daybreak.inference.stepping import Outcome, Part, read
from daybreak.inference.text import Text
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import PAGE


@final
class Engine:
    """Requests come in from any thread; one thread at a time makes the steps."""

    def __init__(
        self,
        gpt: GPT,
        token_bytes: Callable[[int], bytes],
        eot: int,
        limits: Limits | None = None,
        *,
        speculator: Speculator | None = PromptLookup,
        speculate_rows: int = 4,
        reuse: bool = True,
        dtype: torch.dtype | None = None,
        record: Record | None = None,
    ) -> None:
        """`token_bytes`: the bytes of a token's id; `speculator` guesses while at most `speculate_rows` are running, none never.

        `dtype`: what keys and values are kept in, without it what suits the model.
        `record` makes recordings of small steps: CUDA's graphs on a GPU, elsewhere none are made without it.
        """
        self.limits = limits or Limits()
        self.gpt = gpt.eval()
        self.context_length = gpt.config.context_length
        device = gpt.token_embedding.weight.device
        self.pages = Pages(gpt.config, max(self.limits.cache_tokens, self.context_length), device, dtype or gpt.cache_dtype, reuse)
        record = record or (cuda_graphs() if device.type == "cuda" else None)
        self._replays = Replays(self.gpt, self.pages, record) if record else None
        self._token_bytes = token_bytes
        self._eot = eot
        self._speculator = speculator
        self._speculate_rows = speculate_rows
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # of the queue
        self._arrived = threading.Condition(self._lock)
        self._waiting: deque[Text] = deque()
        self._running: list[Text] = []  # the oldest first
        self._counts: Counter[str] = Counter()
        self._finished: Counter[Finish] = Counter()

    # --- from any thread ---

    def submit(self, request: Request, on_token: OnToken) -> Ticket:
        """Takes a request on. Raises ConfigError for one that is impossible, Busy where too many wait."""
        wrong = config.check(request)
        if len(request.tokens) > self.context_length:
            wrong.append(f"tokens: wanted at most the model's context of {self.context_length}, came {len(request.tokens)}")
        size = self.gpt.config.tokens
        if request.tokens and not 0 <= min(request.tokens) <= max(request.tokens) < size:
            outside = next(token for token in request.tokens if not 0 <= token < size)
            wrong.append(f"tokens: wanted ids from 0 to {size - 1}, came {outside}")
        if wrong:
            raise config.ConfigError(wrong)
        ticket = Ticket(request, on_token)
        text = Text(ticket, next(self._numbers), self._speculator(request) if self._speculator else None)
        with self._arrived:
            if len(self._waiting) >= self.limits.waiting:
                raise Busy(f"{len(self._waiting)} requests wait already; come again later")
            self._waiting.append(text)
            self._arrived.notify()
        return ticket

    @property
    def stats(self) -> Stats:
        """What it is doing, and has done so far."""
        counts = dict(self._counts)
        finished = tuple(sorted(self._finished.items()))
        use = self.pages.held / self.pages.count
        return Stats(len(self._running), len(self._waiting), finished=finished, cache_use=use, **counts)

    # --- from one thread at a time ---

    def run_forever(self, stop: threading.Event) -> None:
        """Makes steps until `stop` is set, and sleeps while there is nothing to do. What is under way then ends as cancelled."""
        while not stop.is_set():
            if not self.step():
                with self._arrived:
                    if not self._waiting:
                        self._arrived.wait(timeout=0.05)
        self.cancel_all()

    def cancel_all(self) -> None:
        """Ends everything under way."""
        with self._lock:
            texts = [*self._running, *self._waiting]
        for text in texts:
            text.ticket.cancel()
        self._drop_cancelled()

    @torch.inference_mode()
    def step(self) -> bool:
        """One forward pass for what is running, after letting in what waits; true while there is work."""
        self._drop_cancelled()
        self._admit()
        parts = self._plan()
        if parts:
            self._counts["steps"] += 1
            try:
                outcomes = read(self.gpt, self.pages, parts, self._replays)
            except Exception as error:  # out of memory, say: the engine goes on for those who come next
                for part in parts:
                    self._end(part.text, "failed", _told(error))
            else:
                for part, outcome in zip(parts, outcomes, strict=True):
                    self._take(part, outcome)
        self._drop_cancelled()
        return bool(self._running or self._waiting)

    def _admit(self) -> None:
        """Lets in who came first, while there is room for all that he has and a page more for each who is running."""
        while len(self._running) < self.limits.running:
            with self._lock:
                if not self._waiting:
                    return
                text = self._waiting[0]
            if not text.scores_prompt:
                self.pages.adopt(text.row, text.tokens)
            if -(-len(text.tokens) // PAGE) - len(text.row.pages) + len(self._running) > self.pages.available:
                self.pages.release(text.row)
                return
            with self._lock:
                self._waiting.popleft()
            if not text.admitted:
                text.admitted = True
                text.ticket.reused = text.row.length
                self._counts["prompt_tokens"] += text.prompt_length
                self._counts["reused_tokens"] += text.row.length
            self._running.append(text)
            self._running.sort(key=lambda text: text.number)

    def _plan(self) -> list[Part]:
        """What each reads in this step: one token where it is writing, and what is left of the step's tokens for prompts, oldest first."""
        writing = sum(text.unread == 1 for text in self._running)
        left = max(self.limits.step_tokens - writing, PAGE)
        parts: list[Part] = []
        for text in list(self._running):
            if text not in self._running:  # it had to give its place to an older one
                continue
            count = 1 if text.unread == 1 else min(text.unread, left)
            if not count:
                continue
            guessed = self._guess(text) if text.unread == 1 else ()
            if guessed and not self.pages.extend(text.row, text.row.length + 1 + len(guessed)):
                guessed = ()
            while not self.pages.extend(text.row, text.row.length + count):
                youngest = self._running.pop()
                self.pages.release(youngest.row)
                self._counts["preempted"] += 1
                with self._lock:
                    self._waiting.appendleft(youngest)
                if youngest is text:
                    return parts
            left -= 0 if text.unread == 1 else count
            parts.append(Part(text, count, tuple(guessed)))
        return parts

    def _guess(self, text: Text) -> Sequence[int]:
        most = min(MOST_GUESSED, text.request.max_tokens - text.ticket.written - 1, self.context_length - len(text.tokens))
        if text.guess is None or most < 1 or len(self._running) > self._speculate_rows:
            return ()
        return text.guess(text.tokens, most)

    def _take(self, part: Part, outcome: Outcome) -> None:
        text = part.text
        if isinstance(outcome, Exception):
            self._end(text, "failed", _told(outcome))
            return
        if part.guessed:
            self._counts["drafted_tokens"] += len(part.guessed)
            self._counts["accepted_tokens"] += len(outcome) - 1
        finish: Finish | None = None
        for token, told in outcome:
            if text.ticket.cancelled:
                return
            self._counts["written_tokens"] += 1
            finish = text.add(token, told, self._token_bytes, self._eot, self.context_length)
            if finish:
                break
        if not finish and text.request.max_tokens == 0 and not text.unread:
            self._end(text, "length")
            return
        self.pages.publish(text.row, text.tokens)
        if finish:
            self._leave(text, finish)

    def _end(self, text: Text, finish: Finish, problem: str = "") -> None:
        text.end(finish, problem)
        self._leave(text, finish)

    def _leave(self, text: Text, finish: Finish) -> None:
        self.pages.release(text.row)
        self._finished[finish] += 1
        self._running.remove(text)

    def _drop_cancelled(self) -> None:
        for text in [text for text in self._running if text.ticket.cancelled]:
            self._end(text, "cancelled")
        with self._lock:
            gone = [text for text in self._waiting if text.ticket.cancelled]
            for text in gone:
                self._waiting.remove(text)
        for text in gone:
            text.end("cancelled")
            self._finished["cancelled"] += 1


def _told(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
