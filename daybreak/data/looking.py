"""What stands in token shards, for the eye: how long documents are, which tokens are frequent, windows as a model reads them.

Of a long text an even sample is read, 16 million tokens at most, so that terabytes take no longer than a moment.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daybreak.data import foreign
from daybreak.data.shards import TokenStream
from daybreak.data.tokenizer import Tokenizer

_MOST_TOKENS = 1 << 24
_BLOCKS = 64
_FAR = 1 << 22
"""How many tokens beyond its block the end of a document is looked for; a longer one counts as so long."""


@dataclass(frozen=True)
class Lengths:
    """How many tokens documents have, the end-of-text tokens not counted."""

    documents: int
    """How many were looked at."""
    shortest: int
    median: float
    mean: float
    longest: int
    histogram: tuple[tuple[int, int, int], ...]
    """From how many tokens, to how many, and how many documents have so many."""


@dataclass(frozen=True)
class Frequent:
    """A token and how often it came."""

    token: int
    text: str
    count: int
    share: float


@dataclass(frozen=True)
class Window:
    """A stretch of tokens as a model reads it, cut where documents end."""

    split: str
    start: int
    tokens: int
    pieces: tuple[str, ...]
    """The texts between end-of-text tokens, as many as these and one more."""


@dataclass(frozen=True)
class View:
    """A look at one split of a data folder."""

    tokens: int
    sampled: int
    """How many tokens were read for the figures below: all, or an even sample."""
    text_bytes: int
    """Of the tokens that were read."""
    distinct: int
    """How many different tokens came."""
    lengths: Lengths | None
    """None where no document ends in what was read."""
    frequent: tuple[Frequent, ...]


def look(folder: Path, split: str = "train", most_frequent: int = 20, most_tokens: int = _MOST_TOKENS) -> View:
    """Reads an even sample of a split, of at most `most_tokens` tokens. Raises as `foreign.open_manifest` does."""
    manifest = foreign.open_manifest(folder)
    tokenizer = foreign.open_tokenizer(manifest)
    stream = TokenStream(manifest.shard_paths(split))
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    lengths: list[NDArray[np.int64]] = []
    for start, count in _blocks(len(stream), most_tokens):
        tokens = stream.read(start, count)
        counts += np.bincount(tokens, minlength=tokenizer.vocab_size)[: tokenizer.vocab_size]
        lengths.append(_lengths_in(stream, start, tokens, tokenizer.eot))
    found = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    order = [int(token) for token in np.argsort(-counts, kind="stable")[: most_frequent + 1] if counts[token] and token != tokenizer.eot]
    whole = int(counts.sum() - counts[tokenizer.eot])
    return View(
        tokens=len(stream),
        sampled=int(counts.sum()),
        text_bytes=int(counts @ tokenizer.byte_lengths()),
        distinct=int(np.count_nonzero(counts)),
        lengths=_summed_up(found) if len(found) else None,
        frequent=tuple(
            Frequent(token, _text_of(tokenizer, token), int(counts[token]), int(counts[token]) / whole) for token in order[:most_frequent]
        ),
    )


def windows(folder: Path, split: str, count: int, length: int, seed: int = 0) -> list[Window]:
    """Some windows of a split, drawn at random as training draws them."""
    manifest = foreign.open_manifest(folder)
    tokenizer = foreign.open_tokenizer(manifest)
    stream = TokenStream(manifest.shard_paths(split))
    length = min(length, len(stream))
    starts = np.random.default_rng(seed).integers(0, len(stream) - length + 1, count)
    found = []
    for start in starts.tolist():
        tokens = stream.read(start, length)
        ends = np.flatnonzero(tokens == tokenizer.eot)
        pieces = tuple(tokenizer.decode(piece[piece != tokenizer.eot]) for piece in np.split(tokens, ends))
        found.append(Window(split, start, length, pieces))
    return found


@dataclass(frozen=True)
class Span:
    """Tokens whose bytes together are whole characters; most often one."""

    tokens: tuple[int, ...]
    text: str


def spans(tokenizer: Tokenizer, ids: NDArray[Any]) -> Iterator[Span]:
    """A text cut where its tokens end, but never within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    waiting: list[int] = []
    text = ""
    for token in ids.tolist():
        waiting.append(token)
        text += decoder.decode(tokenizer.token_bytes(token))
        if not decoder.getstate()[0]:
            yield Span(tuple(waiting), text)
            waiting, text = [], ""
    if waiting:
        yield Span(tuple(waiting), text + decoder.decode(b"", final=True))


def _blocks(tokens: int, most: int) -> list[tuple[int, int]]:
    """Starts and lengths of what is read of so many tokens: all, or blocks spread evenly."""
    if tokens <= most:
        return [(0, tokens)]
    length = max(1, most // _BLOCKS)
    return [(int(start), length) for start in np.linspace(0, tokens - length, min(_BLOCKS, most)).astype(np.int64)]


def _lengths_in(stream: TokenStream, start: int, tokens: NDArray[Any], eot: int) -> NDArray[np.int64]:
    """The lengths of the documents that begin in a block: each begins behind an end-of-text token, and may end beyond the block."""
    ends = np.flatnonzero(tokens == eot)
    if not len(ends):
        return np.zeros(0, np.int64)
    last = start + len(tokens)
    position, most = last, min(len(stream), last + _FAR)
    end = most
    while position < most:
        piece = stream.read(position, min(65_536, most - position))
        found = np.flatnonzero(piece == eot)
        if len(found):
            end = position + int(found[0])
            break
        position += len(piece)
    within: NDArray[np.int64] = np.diff(np.append(ends, end - start)).astype(np.int64) - 1
    return within


def _summed_up(lengths: NDArray[np.int64]) -> Lengths:
    edges = [0, *(1 << power for power in range(4, 63) if 1 << power <= 2 * int(lengths.max()) or power == 4)]
    counts, _ = np.histogram(lengths, bins=[*edges, edges[-1] * 2])
    rows = [(low, high - 1, int(count)) for low, high, count in zip(edges, [*edges[1:], edges[-1] * 2], counts, strict=True)]
    while len(rows) > 1 and not rows[-1][2]:
        rows.pop()
    while len(rows) > 1 and not rows[0][2]:
        rows.pop(0)
    return Lengths(
        documents=len(lengths),
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        mean=float(lengths.mean()),
        longest=int(lengths.max()),
        histogram=tuple(rows),
    )


def _text_of(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
