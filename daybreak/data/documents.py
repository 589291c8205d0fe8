"""What reading is about: a unit, which is a part of a source that is read alone, a document, and the problem of one that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SourceProblem(ValueError):
    """A source that is missing, damaged or without text; one line that names it and the way out."""


class Document(NamedTuple):
    """A text and where it came from."""

    text: str
    name: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source that is read alone: a file, or a shard of a dataset. Plain values, so that it can travel to a worker."""

    kind: str
    """Which reader it needs: "text", "jsonl", "parquet", "stdin", "docs", "code", "hub" or "hf"."""
    path: str
    """The file; for "hub" its address; for "hf" the dataset's NAME:CONFIG:SPLIT."""
    name: str
    """What it is called in messages and manifests: the path as given, the module, the dataset."""
    size: int = 0
    """Bytes on the disk, or 0 if unknown."""
    stamp: str = ""
    """Changes when the content does: a file's modification time in nanoseconds, a dataset's revision."""
    text_field: str = "text"
    """The field or column that holds the text."""
    named: bool = True
    """Whether a person named this very file; one found in a folder is skipped where a named one is an error."""
    shard: int = 0
    shards: int = 1
    """Which of how many parts of the file or dataset."""


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one line and not too long."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def without_surrogates(text: str) -> str | None:
    r"""JSON may hold half of a pair such as \ud83d, which no encoding can write: the text with U+FFFD in its place, None if it has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return None
