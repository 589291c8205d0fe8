"""One step's view of the pages: texts of different lengths side by side, each with as many new tokens as it brings.

All new tokens stand in one row, text after text, so nothing is padded in the linear layers; only attention knows where each ends.

N new tokens of all texts, R texts that bring one, K heads of keys and values, G queries' heads to each, S tokens so far, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.inference.pages import Pages, Row
from daybreak.model.kv_cache import IN_PLACE, PAGE, Layout

if TYPE_CHECKING:
    from daybreak.model.attention import Kernel


class _Group(NamedTuple):
    """Texts of about the same length with one new token each, which attend together."""

    columns: Tensor  # (R,) where their tokens stand
    pages: Tensor  # (R S / PAGE,) that hold their keys, those of the shorter filled up with any
    lengths: Tensor  # (R, 1)


@final
class PagedCache:
    """The cache for one forward pass of tokens (1, N): `parts` says whose they are and how many, in order."""

    def __init__(self, pages: Pages, parts: Sequence[tuple[Row, int]]) -> None:
        """Every row must have pages for its new tokens."""
        self._pages = pages
        self._parts = parts
        device = pages.keys.device
        positions: list[int] = []
        slots: list[int] = []
        self._alone: list[tuple[Row, int, int]] = []  # row, first column, tokens
        alike: dict[int, list[tuple[Row, int]]] = {}
        for row, count in parts:
            assert row.length + count <= row.room()
            if count == 1:
                alike.setdefault(len(row.pages).bit_length(), []).append((row, len(positions)))
            else:
                self._alone.append((row, len(positions), count))
            new = range(row.length, row.length + count)
            positions += new
            slots += [row.pages[position // PAGE] * PAGE + position % PAGE for position in new]
        self._groups = []
        for members in alike.values():
            if len(members) == 1:
                self._alone.append((*members[0], 1))
            else:
                self._groups.append(_group(members, device))
        self._positions = torch.tensor(positions, device=device)
        self._slots = torch.tensor(slots, device=device)
        self._places = {id(row): _place(row, row.length + count, device) for row, _, count in self._alone}
        self._stretch: tuple[int, int] | None = None
        if len(parts) == 1 and isinstance(place := self._places[id(parts[0][0])], slice):
            self._stretch = place.start + parts[0][0].length, parts[0][1]

    def positions(self, count: int) -> Tensor:
        """(N,) each token's position in its own text."""
        assert count == len(self._positions)
        return self._positions

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None = None) -> Tensor:
        """Stores a layer's new keys and values (1, K, N, D) and gathers for its queries (1, H, N, D) from their own texts."""
        all_keys, all_values = self._pages.keys[layer], self._pages.values[layer]  # (K, S, D)
        if self._stretch is not None:  # one text in one stretch, as most often: nothing has to be looked up
            all_keys.narrow(1, *self._stretch).copy_(keys[0])
            all_values.narrow(1, *self._stretch).copy_(values[0])
            return self._one(queries, all_keys, all_values, kernel, band, *self._alone[0])
        all_keys.index_copy_(1, self._slots, keys[0].to(all_keys.dtype))
        all_values.index_copy_(1, self._slots, values[0].to(all_values.dtype))
        if len(self._parts) == 1:
            return self._one(queries, all_keys, all_values, kernel, band, *self._alone[0])
        gathered = torch.empty_like(queries)
        for row, first, count in self._alone:
            own = queries[:, :, first : first + count]
            gathered[:, :, first : first + count] = self._one(own, all_keys, all_values, kernel, band, row, first, count)
        for group in self._groups:
            gathered[0].index_copy_(1, group.columns, _together(queries[0], all_keys, all_values, group, band))
        return gathered

    def advance(self, tokens: int) -> None:
        """Counts the new tokens as read, once every layer has stored them."""
        assert tokens == len(self._positions)
        for row, count in self._parts:
            row.length += count

    def layout(self, batch: int, tokens: int) -> Layout | None:
        """Where the new tokens (1, N) are to be kept; None where no kernel can work in place."""
        assert (batch, tokens) == (1, len(self._positions))
        keys, values = self._pages.keys, self._pages.values
        if keys.dtype not in IN_PLACE or keys.device.type != "cpu":
            return None
        most = max(len(row.pages) for row, _ in self._parts)
        pages = torch.tensor([row.pages + [0] * (most - len(row.pages)) for row, _ in self._parts], dtype=torch.int32)
        texts = torch.tensor([text for text, (_, count) in enumerate(self._parts) for _ in range(count)], dtype=torch.int32)
        return Layout(keys, values, 0, keys.stride(1), pages, most, texts, self._positions.int())

    def _one(
        self, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None, row: Row, first: int, count: int
    ) -> Tensor:
        start = 0 if band is None else max(0, row.length + 1 - band)
        place = self._places[id(row)]
        if isinstance(place, slice):
            within = slice(place.start + start, place.stop)
            keys, values = keys[None, :, within], values[None, :, within]
        else:
            keys, values = (each.index_select(1, place[start:])[None] for each in (keys, values))
        keys, values = keys.to(queries.dtype), values.to(queries.dtype)
        if count == 1:  # it sees all that is left, so that kernels differ in time alone
            return F.scaled_dot_product_attention(queries, keys, values, enable_gqa=queries.shape[1] != keys.shape[1])
        return kernel(queries, keys, values, 0.0, band)


def _group(members: Sequence[tuple[Row, int]], device: torch.device) -> _Group:
    columns = torch.tensor([column for _, column in members], device=device)
    lengths = torch.tensor([[row.length + 1] for row, _ in members], device=device)
    most = -(-max(row.length + 1 for row, _ in members) // PAGE)
    table = torch.tensor([(row.pages + [0] * most)[:most] for row, _ in members], device=device)  # (R, pages)
    return _Group(columns, table.flatten(), lengths)


def _together(queries: Tensor, keys: Tensor, values: Tensor, group: _Group, band: int | None) -> Tensor:
    """(H, N, D) queries, (K, all, D) keys and values -> (H, R, D) for the group's tokens: the plain kernel, and a mask for the ends."""
    (H, _, D), (K, R) = queries.shape, (keys.shape[0], len(group.columns))
    grouped = queries.index_select(1, group.columns).view(K, H // K, R, D).transpose(1, 2)  # (K, R, G, D)
    held = (each.view(K, -1, PAGE * D).index_select(1, group.pages) for each in (keys, values))  # whole pages copy faster than tokens
    keys, values = (each.view(K, R, -1, D).to(queries.dtype) for each in held)  # (K, R, S, D)
    scores = (grouped * (1.0 / math.sqrt(D))) @ keys.transpose(-2, -1)  # (K, R, G, S)
    behind = torch.arange(keys.shape[2], device=queries.device) - group.lengths  # (R, S)
    hidden = behind >= 0 if band is None else (behind >= 0) | (behind < -band)
    weights = scores.masked_fill(hidden[:, None], -math.inf).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).reshape(H, R, D)


def _place(row: Row, length: int, device: torch.device) -> slice | Tensor:
    """Where a row's first `length` tokens lie: one stretch where its pages lie side by side, else each one's place."""
    pages = row.pages[: -(-length // PAGE)]
    if pages == list(range(pages[0], pages[0] + len(pages))):
        return slice(pages[0] * PAGE, pages[0] * PAGE + length)
    slots = torch.tensor(pages, device=device)[:, None] * PAGE + torch.arange(PAGE, device=device)
    return slots.flatten()[:length]
