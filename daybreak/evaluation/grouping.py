"""Which readings are scored together: those of like length, as much as a budget of tokens allows.

Groups depend on the readings and the budget alone, never on the devices that share them; so any split over devices gives the same numbers.

B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from daybreak.evaluation.reading import Reading, rows

SHORTEST = 64
"""Tokens. The fixed shapes are this length, its doubles, and the context length."""


@dataclass(frozen=True)
class Group:
    """What is scored together."""

    numbers: tuple[int, ...]
    """Which of the readings."""
    shared: bool = False
    """Whether each context is read once for all its continuations."""
    shape: tuple[int, int] | None = None
    """The (B, T) that each forward pass is to have, where a few shapes must do for all."""


def groups(readings: Sequence[Reading], context_length: int, budget: int, *, cached: bool) -> list[Group]:
    """Parts the readings into groups of some `budget` tokens each.

    With a cache, contexts are shared by two or more continuations that fit behind them; otherwise sequences are read whole, without a
    cache in a few fixed shapes.
    """
    longest = [_longest(reading, context_length) for reading in readings]
    if not cached:
        return _fixed(readings, longest, context_length, budget)
    sharing = [_shares(reading, context_length) for reading in readings]
    together = [i for i, yes in enumerate(sharing) if yes]
    together.sort(key=lambda i: (len(readings[i].context), longest[i]))
    alone = [i for i, yes in enumerate(sharing) if not yes]
    alone.sort(key=lambda i: longest[i])
    return [
        *(Group(tuple(part), shared=True) for part in chunks(together, [_tokens(reading) for reading in readings], budget)),
        *(Group(tuple(part)) for part in chunks(alone, [sum(_lengths(reading, context_length)) for reading in readings], budget)),
    ]


def chunks(numbers: Iterable[int], costs: Sequence[int], most: int) -> Iterator[list[int]]:
    """Parts `numbers` in their order so that no part costs more than `most`, but for one that alone does."""
    part: list[int] = []
    total = 0
    for number in numbers:
        if part and total + costs[number] > most:
            yield part
            part, total = [], 0
        part.append(number)
        total += costs[number]
    if part:
        yield part


def _fixed(readings: Sequence[Reading], longest: Sequence[int], context_length: int, budget: int) -> list[Group]:
    found = []
    sequences = [sum(1 for _ in _lengths(reading, context_length)) for reading in readings]
    length, shorter = min(SHORTEST, context_length), 0
    while shorter < context_length:
        fitting = [i for i, most in enumerate(longest) if shorter < most <= length or most == shorter == 0]
        batch = max(1, budget // length)
        found += [Group(tuple(part), shape=(batch, length)) for part in chunks(sorted(fitting, key=lambda i: longest[i]), sequences, batch)]
        shorter, length = length, min(2 * length, context_length)
    return found


def _shares(reading: Reading, context_length: int) -> bool:
    lengths = [len(tail) for tail in reading.continuations]
    return len(lengths) > 1 and min(lengths) > 0 and len(reading.context) + max(lengths) <= context_length + 1


def _tokens(reading: Reading) -> int:
    return len(reading.context) + sum(len(tail) for tail in reading.continuations)


def _lengths(reading: Reading, context_length: int) -> Iterator[int]:
    """How many ids of each of its sequences are read."""
    for tail in reading.continuations:
        for row in rows(reading.context, tail, context_length):
            yield len(row.ids) - 1


def _longest(reading: Reading, context_length: int) -> int:
    return max(_lengths(reading, context_length), default=0)
