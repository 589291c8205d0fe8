"""Which text is for validation: whole documents chosen by their hash, or the end of every document."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daybreak.data.plan import Request, UselessText
from daybreak.data.sorting import SortedDocuments
from daybreak.files import read_json, write_json

FEWEST_VAL_DOCUMENTS = 5
"""split="auto" chooses whole documents for validation if it can expect at least so many."""


@dataclass(frozen=True)
class Choice:
    """How validation is chosen, decided once and kept in .prepare/split.json."""

    split: str
    fraction: float

    def parts(self, text: str, draw: int) -> tuple[str, str]:
        """What of a document goes to train and what to val; `draw` is its random number of 64 bits."""
        if self.split == "tail":
            cut = int(len(text) * (1 - self.fraction))
            return text[:cut], text[cut:]
        return ("", text) if draw < self.below else (text, "")

    @property
    def below(self) -> int:
        """A document with a smaller draw is for validation."""
        return int(self.fraction * 2**64)


def choose_split(documents: SortedDocuments, request: Request, work: Path, skips: Counter[str]) -> Choice:
    """Decides from the hashes alone, and keeps the decision in .prepare/split.json. Raises UselessText if a split would be empty.

    It reads no further than to where nothing that follows can change the decision: the first bucket of a large corpus.
    """
    path = work / "split.json"
    if path.exists():
        return Choice(**read_json(path))
    if not documents.documents:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skips.items())) or "nothing"
        raise UselessText(f"{' '.join(request.sources)}: wanted text, found none; left out: {left_out}")
    choice = Choice("document", request.val_fraction)
    distinct = val = 0
    count = documents.bucket_count()
    for number in range(count if request.split != "tail" else 0):
        bucket = documents.bucket(number, count)
        distinct += len(bucket)
        val += int((bucket.draws < np.uint64(choice.below)).sum())
        if 0 < val < distinct and distinct * request.val_fraction >= FEWEST_VAL_DOCUMENTS:
            break
    split = request.split
    empty = "val" if val == 0 else "train" if val == distinct else ""
    if split == "auto":
        split = "tail" if empty or distinct * request.val_fraction < FEWEST_VAL_DOCUMENTS else "document"
    elif split == "document" and empty:
        raise UselessText(
            f"split document: of {distinct:,} documents none falls into {empty}; choose --split tail, or another --val-fraction or --seed"
        )
    choice = Choice(split, request.val_fraction)
    write_json(path, dataclasses.asdict(choice))
    return choice
