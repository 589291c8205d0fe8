"""An engine's small steps as recordings: the new tokens of texts in pages, each replayed with one launch.

Beside `graphs`, where a batch of texts goes on together: here texts come and go, and each brings one token, or some that were guessed, or
the end of a prompt. To a recording all of them are tokens, each with a position, a place in the pages, and a row of pages to gather from.
All keys are stored before any are gathered, so that tokens of one text see each other as they should. There is a recording for each
number of tokens and each window, powers of two, made when it is first needed; a step with fewer tokens repeats its last one.

N tokens, W window, H heads, K heads of keys and values, G = H / K, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.inference.graphs import Record, Replay, not_recorded, windows
from daybreak.inference.pages import Pages, Row
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import PAGE

if TYPE_CHECKING:
    from daybreak.model.attention import Kernel

MOST = 64
"""Tokens in a recorded step; more keep a GPU busy without."""


@final
class _Places:
    """The cache for one recording: where its tokens stand is read from numbers on the device."""

    def __init__(self, pages: Pages, tokens: int, window: int) -> None:
        self._pages = pages
        device = pages.keys.device
        self.numbers = torch.zeros(tokens, 3 + -(-window // PAGE), device=device, dtype=torch.long)
        """Of each token its id, its position, its place in the pages, and the pages that it gathers from."""
        self._columns = torch.arange((self.numbers.shape[1] - 3) * PAGE, device=device)  # (W,)

    def tell(self, tokens: Sequence[int], parts: Sequence[tuple[Row, int]]) -> None:
        """Says what the next step's tokens are, and where; the last fills up what is more."""
        count, wide = len(self.numbers), self.numbers.shape[1] - 3
        told: list[list[int]] = []
        for row, new in parts:
            pages = (row.pages + row.pages[:1] * wide)[:wide]  # filled up with one of its own, as what is masked is yet multiplied
            for at in range(row.length, row.length + new):
                told.append([tokens[len(told)], at, row.pages[at // PAGE] * PAGE + at % PAGE, *pages])
        self.numbers.copy_(torch.tensor(told + told[-1:] * (count - len(told))))

    def positions(self, count: int) -> Tensor:
        """(N,) each token's position in its own text."""
        assert count == len(self.numbers)
        return self.numbers[:, 1]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None = None) -> Tensor:
        """Stores a layer's new keys and values (1, K, N, D) and gathers for its queries (1, H, N, D) from their own texts."""
        (_, H, N, D), K = queries.shape, keys.shape[1]

        def kept(pool: Tensor, new: Tensor) -> Tensor:
            """All that each token's text has so far, and what is masked behind it: (K, N, W, D)."""
            pool.index_copy_(1, self.numbers[:, 2], new[0].to(pool.dtype))
            whole = pool.view(K, -1, PAGE * D).index_select(1, self.numbers[:, 3:].flatten())
            return whole.view(K, N, -1, D).to(queries.dtype)

        all_keys, all_values = kept(self._pages.keys[layer], keys), kept(self._pages.values[layer], values)
        ends = self.numbers[:, 1:2]
        seen = self._columns <= ends  # (N, W)
        if band is not None:
            seen &= self._columns > ends - band
        grouped = queries.view(K, H // K, N, D).transpose(1, 2)  # (K, N, G, D)
        gathered = F.scaled_dot_product_attention(grouped, all_keys, all_values, attn_mask=seen[None, :, None])
        return gathered.transpose(1, 2).reshape(1, H, N, D)

    def advance(self, tokens: int) -> None:
        """Counts nothing: where texts end is told anew for each step."""


@final
class Replays:
    """Forward passes of few tokens of texts in pages, from recordings."""

    def __init__(self, gpt: GPT, pages: Pages, record: Record) -> None:
        self._gpt = gpt
        self._pages = pages
        self._record: Record | None = record
        self._windows = windows(gpt.config.context_length)
        self._places: dict[tuple[int, int], _Places] = {}  # by number of tokens and window
        self._steps: dict[tuple[int, int], Replay] = {}

    def __call__(self, tokens: Sequence[int], parts: Sequence[tuple[Row, int]]) -> Tensor | None:
        """New tokens, text after text, each row with how many are its own -> (N, V) their logits, good until the next step.

        Every row must have pages for them; its length stays for the caller to change. None where there is no recording for so many.
        """
        if len(tokens) > MOST or self._record is None:
            return None
        longest = max(row.length + new for row, new in parts)
        key = 1 << (len(tokens) - 1).bit_length(), next(window for window in self._windows if window >= longest)
        if key not in self._places:
            self._places[key] = _Places(self._pages, *key)
        self._places[key].tell(tokens, parts)
        if key not in self._steps:
            try:
                self._steps[key] = self._record(partial(self._step, self._places[key]))
            except RuntimeError as error:
                self._record = None
                not_recorded(error)
                return None
        return self._steps[key]()[: len(tokens)]

    def _step(self, places: _Places) -> Tensor:
        logits: Tensor = self._gpt(places.numbers[None, :, 0], places)
        return logits[0]
