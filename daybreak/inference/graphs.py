"""Decoding on a GPU as a recording: a step is a few hundred small kernels, which take longer to launch one by one than to run.

So a step is recorded once as a CUDA graph and then replayed with a single launch. A recording has its shapes and its places in memory for
good: the cache is as large from the start as it will ever be, where each text stands is a number on the device, and attention reads a
window of the cache, the first columns of it, masked behind each text's end. There is a recording for each window, a power of two.

    step = Recorded(gpt, batch=2)
    logits = step.begin([[464, 4252], [464]])        # prompts of any lengths
    logits = step(logits.argmax(dim=-1))             # (B,) -> (B, V), and so on

B texts, T tokens of a prompt, L layers, H heads, K heads of keys and values, S capacity, W window, D head size, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import KVCache

if TYPE_CHECKING:
    from daybreak.model.attention import Kernel

_SMALLEST = 128
"""Columns of the smallest window: fewer take no less time."""

Replay = Callable[[], Tensor]
"""Does the work again, on what now lies in the places that it was recorded with; returns the place where its result lies."""

Record = Callable[[Replay], Replay]
"""Makes a recording of work that returns a tensor."""


@final
class FixedCache:
    """Keys and values of B texts of any lengths in one place, each text's end on the device: nothing that a recording would fix."""

    def __init__(self, config: GPTConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layer, batch, config.kv_heads, capacity, config.head_size)
        self._keys = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, K, S, D); zeros, as what is masked is yet multiplied
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._rows = torch.arange(batch, device=device)
        self._columns = torch.arange(capacity, device=device)
        self.ends = torch.zeros(batch, 1, device=device, dtype=torch.long)
        """(B, 1) how many tokens of each text are in it: the position of its next one."""
        self.window = capacity
        """How many columns a single token's attention reads."""

    def positions(self, count: int) -> Tensor:
        """(T,) the positions of prompts that begin, or (B, 1) those of one token more for each text."""
        return self._columns[:count] if count > 1 else self.ends

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None = None) -> Tensor:
        """Stores a layer's keys and values (B, K, T, D) and gathers for its queries (B, H, T, D): prompts from themselves, one token more
        from all that its text has so far."""
        all_keys, all_values = self._keys[layer], self._values[layer]
        (B, H, T, D), K = queries.shape, keys.shape[1]
        if T > 1:
            all_keys[:, :, :T], all_values[:, :, :T] = keys, values
            return kernel(queries, keys, values, 0.0, band)
        place = (self._rows, slice(None), self.ends[:, 0])
        all_keys[place], all_values[place] = keys[:, :, 0].to(all_keys.dtype), values[:, :, 0].to(all_values.dtype)
        seen = self._columns[: self.window] <= self.ends  # (B, W)
        if band is not None:
            seen &= self._columns[: self.window] > self.ends - band
        # Queries that share keys stand side by side as if they were of one head.
        together = queries.reshape(B, K, H // K, D)
        keys, values = (each[:, :, : self.window].to(queries.dtype) for each in (all_keys, all_values))
        return F.scaled_dot_product_attention(together, keys, values, attn_mask=seen[:, None, None]).view(B, H, 1, D)

    def advance(self, tokens: int) -> None:
        """Counts one token more for each text; whose prompts are new says `begin`."""
        if tokens == 1:
            self.ends += 1


class Recorded:
    """A model that takes B texts one token further at a time, each step replayed from a recording."""

    def __init__(
        self,
        gpt: GPT,
        batch: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype | None = None,
        record: Record | None = None,
    ) -> None:
        """Records a step for each window. `dtype`: the cache's, the model's own without it.

        `record` is CUDA's graphs on a GPU; elsewhere the work is simply done again.
        """
        weight = gpt.token_embedding.weight
        self.capacity = min(capacity or gpt.config.context_length, gpt.config.context_length)
        self.gpt = gpt
        self._cache = FixedCache(gpt.config, batch, self.capacity, weight.device, dtype or gpt.cache_dtype)
        self._tokens = torch.zeros(batch, 1, device=weight.device, dtype=torch.long)
        self._longest = 0
        self._address = weight.data_ptr()
        record = record or (cuda_graphs() if weight.device.type == "cuda" else _again)
        self._steps: dict[int, Replay] = {}
        with torch.inference_mode():
            for window in windows(self.capacity):
                self._cache.window = window
                self._steps[window] = record(self._step)
                self._cache.ends.zero_()  # recording wrote into the first columns, which `begin` will write anew

    @torch.inference_mode()
    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """B prompts of any lengths -> (B, V) the logits of what follows each. Raises ValueError for none, empty ones, or too long ones."""
        lengths = [len(prompt) for prompt in prompts]
        if len(lengths) != len(self._tokens) or min(lengths) < 1 or max(lengths) > self.capacity:
            wanted = f"wanted {len(self._tokens)} of 1 to {self.capacity} tokens"
            raise ValueError(f"prompts: {wanted}, came {len(lengths)} of {min(lengths, default=0)} to {max(lengths, default=0)}")
        device, longest = self._tokens.device, max(2, *lengths)  # a single token would be taken for one more
        tokens = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        ends = torch.tensor(lengths, device=device)[:, None]
        last = (ends - 1)[..., None].expand(-1, -1, self.gpt.config.d_model)
        logits: Tensor = self.gpt(tokens, self._cache, lambda x: self.gpt.unembed(x.gather(1, last)))
        self._cache.ends.copy_(ends)
        self._longest = max(lengths)
        return logits[:, 0]

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """(B,) each text's next token -> (B, V) the logits of the one after, where the next step will write its own.

        Raises ValueError where a text is full.
        """
        self._longest += 1
        if self._longest > self.capacity:
            raise ValueError(
                f"tokens: wanted at most {self.capacity} positions, came {self._longest}; begin again with the end of the text"
            )
        self._tokens[:, 0] = tokens
        return self._steps[next(window for window in self._steps if window >= self._longest)]()

    def is_of(self, gpt: GPT) -> bool:
        """Whether it computes with a model's weights as they lie in memory now."""
        return gpt is self.gpt and gpt.token_embedding.weight.data_ptr() == self._address

    def predict(self, tokens: Tensor, kv_cache: KVCache | None) -> Tensor:
        """A predictor (`generate`): (B, T) tokens that begin texts, or (B, 1) that go on -> (B, 1, V) the last logits.

        Keys and values are its own; the cache given only counts, and says by its length whether a text begins.
        """
        assert kv_cache is not None
        logits = self(tokens[:, 0]) if kv_cache.length else self.begin(tokens.tolist())
        kv_cache.advance(tokens.shape[1])
        return logits[:, None]

    def _step(self) -> Tensor:
        logits: Tensor = self.gpt(self._tokens, self._cache)
        return logits[:, 0]


@final
class Recordings:
    """A model's recordings for one text each, kept from text to text: two that are written in turns have two."""

    def __init__(self, record: Record | None = None) -> None:
        """`record` is CUDA's graphs on a GPU; elsewhere there are no recordings without it."""
        self._record = record
        self._idle: list[Recorded] = []
        self._broken = False

    @contextmanager
    def lent(self, gpt: GPT) -> Iterator[Recorded | None]:
        """One of these weights for nobody else; None where there is none, or none can be made."""
        recorded = self._idle.pop() if self._idle else None
        if recorded is None or not recorded.is_of(gpt):
            recorded = self._made(gpt)
        try:
            yield recorded
        finally:
            if recorded is not None:
                self._idle.append(recorded)

    def _made(self, gpt: GPT) -> Recorded | None:
        record = self._record or (cuda_graphs() if gpt.token_embedding.weight.device.type == "cuda" else None)
        if record is None or self._broken:
            return None
        try:
            return Recorded(gpt, record=record)
        except RuntimeError as error:  # no memory for it, or an operation that no recording can hold
            self._broken = True
            not_recorded(error)
            return None


def not_recorded(error: RuntimeError) -> None:
    """Warns that things go on without recordings, and why."""
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    warnings.warn(f"steps cannot be recorded on this device, and are launched kernel by kernel: {told}", stacklevel=3)


def windows(capacity: int) -> list[int]:
    """Powers of two, and the capacity."""
    found = []
    window = _SMALLEST
    while window < capacity:
        found.append(window)
        window *= 2
    return [*found, capacity]


def cuda_graphs() -> Record:
    """Recordings as CUDA graphs that share their memory, as only one of them runs at a time."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Replay) -> Replay:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # the libraries find their working memory, which a recording must not do
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # a server's other threads may go on
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    return record


def _again(work: Replay) -> Replay:
    work()  # as a recording does
    return work
