"""The models that one server has: each by its folder's name, with an engine in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import final

import torch

from daybreak import machine
from daybreak.config import ConfigError, closest
from daybreak.data.tokenizer import END_OF_TEXT
from daybreak.inference.engine import Engine
from daybreak.inference.requests import Busy, Emitted, Limits, Request, Ticket
from daybreak.inference.speculation import PromptLookup, Speculator, draft_model
from daybreak.loading import Model
from daybreak.model.config import GPTConfig
from daybreak.serve.courier import Courier
from daybreak.serve.figures import Timings
from daybreak.serve.problems import Refused, shortened


@final
class Hosted:
    """A model that answers requests."""

    def __init__(self, name: str, model: Model, engine: Engine) -> None:
        self.name = name
        self.model = model
        self.engine = engine
        self.timings = Timings()
        self.created = int(time.time())
        self.fault: str | None = None
        """What ended the engine, if something did."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine of {name}", daemon=True)
        self._embedding = threading.Lock()

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Ends after the engine's current step."""
        self._stop.set()
        self._thread.join(timeout)

    @property
    def well(self) -> bool:
        """Whether it can answer."""
        return self._thread.is_alive() and self.fault is None

    @property
    def context_length(self) -> int:
        """How many tokens fit."""
        return self.model.config.context_length

    def _run(self) -> None:
        try:
            self.engine.run_forever(self._stop)
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"

    def encode(self, text: str) -> list[int]:
        """A text's ids. A new text begins with the end of the one before; within a text the words <|endoftext|> are only words.

        Raises Refused for what the tokenizer cannot take.
        """
        if text in ("", END_OF_TEXT):  # the second is OpenAI's word for the first
            return [self.model.tokenizer.eot]
        try:
            ids: list[int] = self.model.tokenizer.encode(text).tolist()
        except ValueError as error:
            raise Refused(400, str(error), param="prompt") from None
        return ids

    def embed(self, ids: Sequence[int]) -> list[float]:
        """The mean of the last layer's normalised outputs, scaled to length 1."""
        gpt = self.model.gpt
        with self._embedding, torch.inference_mode():
            hidden = gpt(torch.tensor([ids], device=self.model.device), unembed=gpt.norm)[0].float()
            mean = hidden.mean(dim=0)
            found: list[float] = (mean / mean.norm().clamp_min(1e-12)).tolist()
        return found


def host(name: str, model: Model, limits: Limits, draft: Model | None = None) -> Hosted:
    """A model with its engine, for which a smaller model of the same tokenizer may draft. Raises ConfigError where it has another."""
    speculator: Speculator = PromptLookup
    if draft is not None:
        if draft.tokenizer.fingerprint != model.tokenizer.fingerprint:
            raise ConfigError(
                [f"draft: wanted a model with the tokenizer of {name}, came one with another; its guesses would be other words"]
            )
        speculator = draft_model(draft.gpt, draft.config)
    limits = fitting(limits, model.config, model.device, model.gpt.cache_dtype)
    engine = Engine(model.gpt, model.tokenizer.token_bytes, eot=model.tokenizer.eot, limits=limits, speculator=speculator)
    return Hosted(name, model, engine)


def fitting(limits: Limits, config: GPTConfig, device: torch.device, dtype: torch.dtype) -> Limits:
    """The limits with a cache that leaves room beside it: half of what is free of a GPU's memory, or a quarter of the machine's."""
    token = 2 * config.n_layer * config.kv_heads * config.head_size * dtype.itemsize
    if (free := machine.free_memory(device)) is not None:
        room = free // 2
    elif (total := machine.total_memory(device)) is not None:
        room = total // 4
    else:
        return limits
    return replace(limits, cache_tokens=max(1, min(limits.cache_tokens, room // token)))


@final
class Hosts:
    """All of them; the first is meant where none is named."""

    def __init__(self, models: Sequence[Hosted]) -> None:
        self.models = {hosted.name: hosted for hosted in models}

    def find(self, name: str | None) -> Hosted:
        """By its name. Raises Refused where there is none, or it has broken down."""
        hosted = next(iter(self.models.values())) if name is None else self.models.get(name)
        if hosted is None:
            near = closest(name or "", list(self.models))
            known = ", ".join(self.models)
            message = f"the model '{shortened(name or '', 80)}' does not exist here{near}; there are {known}"
            raise Refused(404, message, param="model", code="model_not_found")
        if not hosted.well:
            raise Refused(503, f"the model {hosted.name} has broken down; start the server again")
        return hosted


@final
class Writing:
    """Requests of one client under way at once: an asynchronous iterator over (which of them, what was emitted)."""

    def __init__(self, hosted: Hosted, requests: Sequence[Request], courier: Courier) -> None:
        """Raises Refused if not all of them can be taken; then none is."""
        self.tickets: list[Ticket] = []
        self._queue: asyncio.Queue[tuple[int, Emitted]] = asyncio.Queue()
        try:
            for index, request in enumerate(requests):
                listen = _timed(hosted.timings, partial(self._put, courier, index))
                self.tickets.append(hosted.engine.submit(request, listen))
        except Busy:
            self.cancel()
            raise Refused(
                429, "the server has as many requests as it takes at once; come again in a second", code="rate_limit_exceeded"
            ) from None
        except ValueError as error:
            self.cancel()
            raise Refused(400, str(error)) from None

    def _put(self, courier: Courier, index: int, emitted: Emitted) -> None:
        courier.carry(partial(self._queue.put_nowait, (index, emitted)))

    def cancel(self) -> None:
        """Ends all that has not ended."""
        for ticket in self.tickets:
            ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Emitted]]]:
        """What has come since the last time, at least one, until all have ended. Raises Refused where one failed."""
        open_ones = len(self.tickets)
        while open_ones:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for _, emitted in batch:
                if emitted.finish == "failed":
                    raise Refused(500, emitted.problem or "the model failed")
                if emitted.finish == "cancelled":
                    raise Refused(503, "the server is shutting down")
                open_ones -= emitted.finish is not None
            yield batch


def _timed(timings: Timings, listen: Callable[[Emitted], None]) -> Callable[[Emitted], None]:
    """A listener that notes when each token came; it runs in the engine's thread."""
    begun = time.monotonic()
    last: float | None = None

    def on_token(emitted: Emitted) -> None:
        nonlocal last
        now = time.monotonic()
        if emitted.token is not None:
            if last is None:
                timings.first.observe(now - begun)
            else:
                timings.between.observe(now - last)
            last = now
        if emitted.finish is not None:
            timings.whole.observe(now - begun)
            timings.finished[emitted.finish] = timings.finished.get(emitted.finish, 0) + 1
        listen(emitted)

    return on_token
