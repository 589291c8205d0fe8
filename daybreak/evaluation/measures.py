"""From the outcome of each item to a task's figures, each with its standard error and the number of items.

A standard error says how far the figure would scatter if the items were drawn anew. Of a mean it is the sample's standard deviation over
sqrt(n), as the harness has it; of exp(mean) and of a ratio of sums, such as nats per word, it is that of the linear part (the delta
method), where the harness draws samples from the sample, or tells none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daybreak.evaluation.items import Item, Kind
from daybreak.evaluation.protocols import Protocol
from daybreak.evaluation.reading import Reading
from daybreak.evaluation.scoring import Likelihood

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One number about a model."""

    value: float
    stderr: float | None
    """None where one item alone says nothing about scatter."""
    n: int
    """How many items it is about."""

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"value": self.value, "stderr": self.stderr, "n": self.n}


@dataclass(frozen=True)
class Outcome:
    """What came of one item."""

    number: int
    """Its place in the task's file, from 0."""
    id: str
    digest: str
    """Of its text: two models were asked the same if it is the same."""
    values: Mapping[str, float]
    """acc and acc_norm are 0 or 1; log_likelihood is of the right continuation; words, bytes and tokens are counts."""
    log_likelihoods: tuple[float, ...]
    """Of each continuation."""
    cut: bool = False
    """Whether the item was too long for the model, which saw only its end."""

    def as_dict(self) -> dict[str, Any]:
        """As a line of a JSONL file has it."""
        return {"id": self.id, "digest": self.digest, **self.values, "log_likelihoods": list(self.log_likelihoods), "cut": self.cut}


def outcome(number: int, item: Item, reading: Reading, likelihoods: Sequence[Likelihood], protocol: Protocol, *, cut: bool) -> Outcome:
    """What an item's likelihoods mean."""
    nats = tuple(likelihood.log_likelihood for likelihood in likelihoods)
    counts = [len(tail) for tail in reading.continuations]
    values: dict[str, float] = {"log_likelihood": nats[item.label], "tokens": counts[item.label]}
    if protocol.kind == "choice":
        sizes = counts if protocol.per == "token" else item.sizes
        values["acc"] = _is_best(nats, item.label)
        values["acc_norm"] = _is_best([value / size if size else -math.inf for value, size in zip(nats, sizes, strict=True)], item.label)
    elif protocol.kind == "completion":
        values["acc"] = float(likelihoods[0].greedy)
    else:
        values["words"], values["bytes"] = item.sizes
    return Outcome(number, item.id, item.digest, values, nats, cut)


def _is_best(values: Sequence[float], label: int) -> float:
    """1 if the label's value is the greatest, and the first where several are; 0 if any is no number."""
    return 0.0 if any(map(math.isnan, values)) else float(max(range(len(values)), key=values.__getitem__) == label)


def mean(values: Values) -> Figure:
    """The mean, and s / sqrt(n)."""
    n = len(values)
    return Figure(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None, n)


def ratio(above: Values, below: Values) -> Figure:
    """R = sum(above) / sum(below), and sqrt(n / (n - 1) * sum((above - R * below)^2)) / sum(below)."""
    n, total = len(above), float(below.sum())
    value = float(above.sum()) / total if total else math.nan
    stderr = math.sqrt(n / (n - 1) * float(((above - value * below) ** 2).sum())) / total if n > 1 and total else None
    return Figure(value, stderr, n)


def exponential(figure: Figure) -> Figure:
    """exp(x), and exp(x) times the error of x."""
    value = math.exp(figure.value) if figure.value < 700 else math.inf
    return Figure(value, None if figure.stderr is None else value * figure.stderr, figure.n)


def scaled(figure: Figure, factor: float) -> Figure:
    """factor * x, and factor times the error of x."""
    return Figure(figure.value * factor, None if figure.stderr is None else figure.stderr * factor, figure.n)


def _choice(column: Callable[[str], Values]) -> dict[str, Figure]:
    return {"acc": mean(column("acc")), "acc_norm": mean(column("acc_norm"))}


def _completion(column: Callable[[str], Values]) -> dict[str, Figure]:
    return {"acc": mean(column("acc")), "perplexity": exponential(mean(-column("log_likelihood")))}


def _document(column: Callable[[str], Values]) -> dict[str, Figure]:
    nats = -column("log_likelihood")
    by_words, by_bytes = ratio(nats, column("words")), ratio(nats, column("bytes"))
    return {
        "word_perplexity": exponential(by_words),
        "byte_perplexity": exponential(by_bytes),
        "bits_per_byte": scaled(by_bytes, 1 / math.log(2)),
    }


_FIGURES: dict[Kind, Callable[[Callable[[str], Values]], dict[str, Figure]]] = {
    "choice": _choice,
    "completion": _completion,
    "document": _document,
}


def figures(kind: Kind, outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """A task's figures by name."""
    return _FIGURES[kind](lambda name: np.array([row.values[name] for row in outcomes], dtype=np.float64))


def digest(outcomes: Sequence[Outcome]) -> str:
    """Sixteen digits for all the items: results with the same ones are about the same questions."""
    return hashlib.sha256("".join(row.digest for row in outcomes).encode()).hexdigest()[:16]
