"""Where others stood after as many tokens: published curves beside a run, and the sentence that says how it stands to them.

A figure is only set beside another where both were measured on a text of the same name with the same tokenizer, and where the models are of
like size. Even then the held-out parts may differ, which is a few hundredths of a nat; the sentence says of what text it speaks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.report import words
from daybreak.report.curves import Curve, number

MEASURED = Path(__file__).parent / "static" / "references.json"
"""Our own curves, as `benchmarks/reference_curves.py` writes them from finished runs."""

TEXTS = {
    "fineweb-edu": r"fineweb[-_]?edu|edu[-_]?fineweb",
    "fineweb": r"fineweb",
    "openwebtext": r"openwebtext|\bowt\b",
    "python:docs": r"^python:docs$",
    "tinyshakespeare": r"tiny[-_]?shakespeare",
    "wikitext-2": r"wikitext[-_]?2\b",
}
"""Known texts, and what their sources are called; the first that fits is it."""
LIKE_SIZE = 1.25
"""Parameters that differ by at most this factor."""


@dataclass(frozen=True)
class Reference:
    """A published or measured curve; one point without tokens is a level, such as that of released weights."""

    name: str
    text: str
    """One of TEXTS, or for a task "hellaswag"."""
    tokenizer: str
    parameters: float
    tokens: tuple[float, ...]
    """After how many; empty for a level."""
    values: tuple[float, ...]
    """Validation loss in nats per token, or a task's accuracy."""
    source: str
    quantity: str = "val_loss"
    differs: str = ""
    """How the run departs from what it is set beside; empty if it does not."""

    @property
    def is_level(self) -> bool:
        """Whether nothing is known of how it came about."""
        return not self.tokens

    def at(self, tokens: float) -> float | None:
        """The value after so many tokens, between published points by the logarithm of tokens; None outside of them."""
        if self.is_level:
            return self.values[0]
        if not self.tokens[0] <= tokens <= self.tokens[-1] * 1.02:
            return None
        return float(np.interp(math.log(tokens), np.log(self.tokens), self.values))


def measured(path: Path = MEASURED) -> list[Reference]:
    """Our own curves. Raises ValueError for a file that holds none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["curves"]
        return [Reference(**{**row, "tokens": tuple(row["tokens"]), "values": tuple(row["values"])}) for row in rows]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: wanted reference curves, came something else ({error}); write it with reference_curves.py") from None


def text_of(sources: Iterable[str]) -> str | None:
    """Which known text the sources are, if they are one alone."""
    found = {next((name for name, pattern in TEXTS.items() if re.search(pattern, source, re.IGNORECASE)), None) for source in sources}
    return found.pop() if len(found) == 1 else None


def comparable(
    references: Iterable[Reference], data: Mapping[str, Any] | None, sources: Sequence[str], parameters: float | None
) -> list[Reference]:
    """Those that a run may be set beside, as its data's manifest and its size say; curves first, then levels."""
    text, tokenizer = text_of(sources), (data or {}).get("tokenizer")
    name = tokenizer_name(tokenizer)
    if not parameters or text is None:
        return []
    near = [
        reference
        for reference in references
        if 1 / LIKE_SIZE <= reference.parameters / parameters <= LIKE_SIZE
        and (reference.quantity != "val_loss" or (reference.text == text and reference.tokenizer == name))
    ]
    return sorted(near, key=lambda reference: (reference.is_level, bool(reference.differs), -len(reference.tokens)))


def sentence(curve: Curve, references: Sequence[Reference]) -> str:
    """How a validation curve stands to the references at its last point; "" where there is nothing to say."""
    if not len(curve) or not math.isfinite(curve.tokens[-1]):
        return ""
    tokens, value = float(curve.tokens[-1]), float(curve.values[-1])
    said: list[str] = []
    for reference in references:
        if reference.quantity != "val_loss" or len(said) == 2:
            continue
        there = reference.at(tokens)
        called = f"{reference.name} on {reference.text}"
        if there is None:
            if tokens > reference.tokens[-1]:
                said.append(
                    f"{_apart(value - reference.values[-1])} where {called} ended, after {words.count(reference.tokens[-1])} tokens"
                )
            continue
        where = "" if reference.is_level else " at this token count"
        said.append(f"{_apart(value - there)} the reference{where} ({called}: {there:.3f})")
    # The figure is told, as what a run ends with is often measured on more text, and is another.
    return f"{value:.3f} where the curve ends, {'; '.join(said)}." if said else ""


def drawn(references: Iterable[Reference]) -> list[dict[str, Any]]:
    """As the charts' script takes them."""
    return [
        {
            "name": reference.name + (f" ({reference.differs})" if reference.differs else ""),
            "text": reference.text,
            "quantity": reference.quantity,
            "tokens": list(reference.tokens),
            "values": list(reference.values),
            "source": reference.source,
        }
        for reference in references
    ]


def _apart(difference: float) -> str:
    if abs(difference) < 0.005:
        return "level with"
    return f"{abs(difference):.2f} {'below' if difference < 0 else 'above'}"


def tokenizer_name(tokenizer: Any) -> str | None:
    """What a manifest's tokenizer is called; one that is not published by a name is told by its size too."""
    if isinstance(tokenizer, Mapping):
        name, size = tokenizer.get("name"), number(tokenizer.get("vocab_size"))
        return f"{name}-{size:.0f}" if name != "gpt2" and size else str(name)
    return tokenizer if isinstance(tokenizer, str) else None
