"""From an item's text to the ids that a model reads: a context, behind it each continuation, cut into windows where they are too long.

The rules are those of lm-evaluation-harness, whose figures are the ones that most papers give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daybreak.data.tokenizer import Tokenizer
from daybreak.evaluation.items import Item, TaskProblem

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """What is read for one item."""

    context: Ids
    """At least one id: an empty context is the end-of-text token, behind which every text of the training began."""
    continuations: tuple[Ids, ...]


class Row(NamedTuple):
    """One sequence to read: from all its ids but the last, the last `scored` are predicted."""

    ids: Ids
    scored: int


def encode(tokenizer: Tokenizer, item: Item, *, apart: bool) -> Reading:
    """The ids of an item.

    Together, each continuation is encoded with the context and is what lies beyond the context's own number of ids; spaces at the
    context's end go to the continuation, as tokens begin with spaces and do not end with them. Raises TaskProblem if a continuation
    has no id of its own.
    """
    start: Ids = np.array([tokenizer.eot], dtype=np.int64)
    context = item.context if apart else item.context.rstrip()
    if not context:
        return Reading(start, tuple(_ids(tokenizer, item.context + text) for text in item.continuations))
    head = _ids(tokenizer, context)
    if apart:
        return Reading(head, tuple(_ids(tokenizer, text) for text in item.continuations))
    spaces = item.context[len(context) :]
    tails = tuple(_ids(tokenizer, context + spaces + text)[len(head) :] for text in item.continuations)
    for text, tail in zip(item.continuations, tails, strict=True):
        if not len(tail):
            raise TaskProblem(f"item {item.id}: wanted a continuation with tokens of its own, {text!r} melts into its context's last one")
    return Reading(head, tails)


def rows(context: Ids, continuation: Ids, context_length: int) -> Iterator[Row]:
    """The sequences, of at most `context_length` + 1 ids, that score a continuation.

    A context that is too long loses its beginning. A continuation that is itself longer than `context_length` is scored in windows, each
    id once: the first begins with the context's last id, each later one with the id before it, and the last is as full as the others,
    so that its ids, however few, have a whole context before them.
    """
    count, longest = len(continuation), context_length + 1
    if count <= context_length:
        if count:
            yield Row(np.concatenate([context[max(0, len(context) + count - longest) :], continuation]), count)
        return
    whole = np.concatenate([context[-1:], continuation])
    for begin in range(0, count, context_length):
        end = min(begin + context_length, count)
        yield Row(whole[end - context_length : end + 1], end - begin)


def is_cut(reading: Reading, context_length: int) -> bool:
    """Whether a model of this context length does not see the item whole."""
    return any(len(reading.context) + len(tail) > context_length + 1 for tail in reading.continuations)


def _ids(tokenizer: Tokenizer, text: str) -> Ids:
    ids: npt.NDArray[Any] = tokenizer.encode(text)
    return ids.astype(np.int64)
