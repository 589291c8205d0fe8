"""Memory for the keys and values of many texts, in pages of 16 tokens that texts with the same beginning share.

After Kwon et al. 2023, "PagedAttention". A page is named by the hash of its tokens and of all before them. Who begins with the same
tokens takes the same pages, counted and not copied; a page that nobody holds keeps its content until its place is needed.

L layers, K heads of keys and values, S all tokens that fit, D head size.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import math
import mmap
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch

from daybreak.model.config import GPTConfig
from daybreak.model.kv_cache import PAGE


@dataclass
class Row:
    """One text's place: its pages in order, and how many of its tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0
    names: list[bytes] = field(default_factory=list)
    """Of its full pages, as far as they were made known."""

    def room(self) -> int:
        """How many tokens fit into its pages."""
        return len(self.pages) * PAGE


@final
class Pages:
    """The pool, and who holds what. Not for several threads at once."""

    def __init__(
        self, config: GPTConfig, tokens: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, reuse: bool = True
    ) -> None:
        self.count = -(-tokens // PAGE)
        shape = (config.n_layer, config.kv_heads, self.count * PAGE, config.head_size)
        self.keys, self.values = (_zeros(shape, torch.device(device), dtype) for _ in range(2))  # (L, K, S, D)
        self._reuse = reuse
        self._empty = list(range(self.count))  # a heap: the lowest first, so that a text's pages mostly lie side by side
        self._holders = [0] * self.count
        self._known: dict[bytes, int] = {}
        self._name: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}  # known, held by nobody; the longest forgotten first

    @property
    def available(self) -> int:
        """How many pages can be taken now."""
        return len(self._empty) + len(self._idle)

    @property
    def held(self) -> int:
        """How many pages some text holds."""
        return self.count - self.available

    def extend(self, row: Row, length: int) -> bool:
        """Gives the row pages for `length` tokens in all; false, and nothing taken, where there are too few."""
        wanted = -(-length // PAGE) - len(row.pages)
        if wanted > self.available:
            return False
        for _ in range(wanted):
            row.pages.append(self._take())
        return True

    def release(self, row: Row) -> None:
        """Takes all its pages from a row."""
        for page in reversed(row.pages):  # the ends are forgotten before the beginnings, which more texts may share
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._name:
                self._idle[page] = None
            else:
                heapq.heappush(self._empty, page)
        row.pages, row.length, row.names = [], 0, []

    def adopt(self, row: Row, tokens: Sequence[int]) -> None:
        """Gives an empty row the known pages that hold the beginning of `tokens`, but never the last token: it has to be read."""
        if not self._reuse:
            return
        name = b""
        for start in range(0, len(tokens) - PAGE, PAGE):
            name = _name(name, tokens[start : start + PAGE])
            page = self._known.get(name)
            if page is None:
                return
            self._idle.pop(page, None)
            self._holders[page] += 1
            row.pages.append(page)
            row.names.append(name)
            row.length += PAGE

    def publish(self, row: Row, tokens: Sequence[int]) -> None:
        """Makes the row's full pages known; `tokens` are the text's. What they hold must not change any more."""
        while self._reuse and (len(row.names) + 1) * PAGE <= row.length:
            index = len(row.names)
            name = _name(row.names[-1] if row.names else b"", tokens[index * PAGE : (index + 1) * PAGE])
            row.names.append(name)
            if name not in self._known:
                self._known[name] = row.pages[index]
                self._name[row.pages[index]] = name

    def _take(self) -> int:
        if self._empty:
            page = heapq.heappop(self._empty)
        else:
            page = next(iter(self._idle))
            del self._idle[page], self._known[self._name.pop(page)]
        self._holders[page] = 1
        return page


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Zeros. On a CPU the system hands memory out in small pieces as they are first written to: the most of a pool is seldom used, and
    `torch.zeros` would take all of it at once."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a text's token lies in a place for each layer and head, which pieces of 2 MB would all round up
        with contextlib.suppress(OSError):  # a system without such pieces
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _name(before: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
