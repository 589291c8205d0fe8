"""Log-likelihoods of many continuations, fast: a shared context is read once, and what is read together is of like length.

Two ways to the same numbers. Where the model has a cache, the contexts of a group are read together as far as the shortest goes; then the
continuations, each behind the rest of its context. Elsewhere every sequence is read whole, padded on its right to one of a few shapes.
Padding changes nothing, as no position sees what is to its right.

B sequences, T tokens, C d_model, N positions that are predicted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.evaluation.grouping import Group, chunks
from daybreak.evaluation.readers import NewCache, Reader
from daybreak.evaluation.reading import Ids, Reading, rows

_POSITIONS = 512
"""How many positions' logits are held at a time."""
_PARTS = 16
"""Into how many batches of like length the continuations of a group are parted: more waste less on padding, but each has its own cost."""


class Likelihood(NamedTuple):
    """How likely a model finds a continuation."""

    log_likelihood: float
    """The sum of log p over its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest where it stands; true if nobody asked."""


class _Piece(NamedTuple):
    """A part of a continuation that one sequence predicts."""

    owner: int
    """Which of the group's continuations."""
    ids: Ids
    """What is read."""
    first: int
    """At which of the read positions the first of `targets` is predicted."""
    targets: Ids


@torch.no_grad()
def score(
    reader: Reader,
    group: Group,
    readings: Sequence[Reading],
    context_length: int,
    *,
    device: torch.device | str = "cpu",
    budget: int = 4096,
    greedy: bool = True,
) -> list[tuple[Likelihood, ...]]:
    """For each reading of the group its continuations' likelihoods. `budget` tokens are read at once, and bound the memory."""
    chosen = [readings[i] for i in group.numbers]
    count = sum(len(reading.continuations) for reading in chosen)
    nats, right = np.zeros(count), np.ones(count, dtype=bool)
    if group.shared and reader.new_cache is not None:
        scored = _shared(reader, reader.new_cache, chosen, device, budget, greedy)
    else:
        scored = _whole(reader, chosen, context_length, group.shape, device, budget, greedy)
    for owners, losses, hits in scored:
        np.add.at(nats, owners, losses)
        np.logical_and.at(right, owners, hits)
    likelihoods = iter([Likelihood(-loss, hit) for loss, hit in zip(nats.tolist(), right.tolist(), strict=True)])
    return [tuple(next(likelihoods) for _ in reading.continuations) for reading in chosen]


_Scored = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]]
"""(N,) to which continuation a position belongs, its loss in nats, whether the likeliest token was right."""


def _shared(
    reader: Reader, new_cache: NewCache, readings: Sequence[Reading], device: torch.device | str, budget: int, greedy: bool
) -> _Scored:
    """Reads each context once."""
    cut = min(len(reading.context) for reading in readings)
    contexts = new_cache(len(readings), cut)
    tokens = torch.from_numpy(np.stack([reading.context[:cut] for reading in readings])).to(device)  # (B, cut)
    last = reader.read(tokens, contexts)[:, -1:].clone()  # (B, 1, C); a view would keep all of them
    sources: list[int] = []
    pieces: list[_Piece] = []
    for source, reading in enumerate(readings):
        rest = reading.context[cut:]
        for tail in reading.continuations:
            sources.append(source)
            pieces.append(_Piece(len(pieces), np.concatenate([rest, tail[:-1]]), len(rest), tail))  # `first` counts `last` as position 0
    lengths = [len(piece.ids) for piece in pieces]
    for part in chunks(sorted(range(len(pieces)), key=lambda i: -lengths[i]), lengths, max(1, budget // _PARTS)):
        rows_of = torch.tensor([sources[i] for i in part], device=device)
        batch = [pieces[i] for i in part]
        states = last[rows_of]
        if longest := max(lengths[i] for i in part):
            behind = contexts.spread(rows_of, cut + longest)
            states = torch.cat([states, reader.read(_padded(batch, len(batch), longest, device), behind)], dim=1)
        yield from _losses(reader, states, batch, greedy)


def _whole(
    reader: Reader,
    readings: Sequence[Reading],
    context_length: int,
    shape: tuple[int, int] | None,
    device: torch.device | str,
    budget: int,
    greedy: bool,
) -> _Scored:
    """Reads every sequence from its beginning."""
    pieces: list[_Piece] = []
    owner = 0
    for reading in readings:
        for tail in reading.continuations:
            for row in rows(reading.context, tail, context_length):
                inputs = row.ids[:-1]
                pieces.append(_Piece(owner, inputs, len(inputs) - row.scored, row.ids[len(row.ids) - row.scored :]))
            owner += 1
    pieces.sort(key=lambda piece: -len(piece.ids))
    while pieces:
        B, T = shape or (max(1, budget // len(pieces[0].ids)), len(pieces[0].ids))
        batch, pieces = pieces[:B], pieces[B:]
        states = reader.read(_padded(batch, B if shape else len(batch), T, device), None)
        yield from _losses(reader, states, batch, greedy)


def _padded(pieces: Sequence[_Piece], B: int, T: int, device: torch.device | str) -> Tensor:
    """(B, T) ids, with zeros to the right of each sequence and below the last."""
    ids = np.zeros((B, T), dtype=np.int64)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece.ids)] = piece.ids
    return torch.from_numpy(ids).to(device)


def _losses(reader: Reader, states: Tensor, pieces: Sequence[_Piece], greedy: bool) -> _Scored:
    """The losses of what the pieces, one for each row of `states` (B, T, ...), predict; in fp64, in which they are summed."""
    counts = [len(piece.targets) for piece in pieces]
    where = np.repeat(np.arange(len(pieces)), counts)  # (N,) the row of each position
    columns = np.concatenate([np.arange(piece.first, piece.first + len(piece.targets)) for piece in pieces])
    targets = torch.from_numpy(np.concatenate([piece.targets for piece in pieces])).to(states.device)
    owners = np.repeat(np.array([piece.owner for piece in pieces]), counts)
    at = torch.from_numpy(where).to(states.device), torch.from_numpy(columns).to(states.device)
    for begin in range(0, len(owners), _POSITIONS):
        part = slice(begin, begin + _POSITIONS)
        logits = reader.logits(states[at[0][part], at[1][part]]).float()  # (N, V)
        losses = F.cross_entropy(logits, targets[part], reduction="none")
        hits = logits.argmax(-1) == targets[part] if greedy else torch.ones_like(targets[part], dtype=torch.bool)
        yield owners[part], losses.cpu().double().numpy(), hits.cpu().numpy()
