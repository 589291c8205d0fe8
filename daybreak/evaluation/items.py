"""What a task asks, as text: a choice among endings, a target to be continued with, a document to be predicted whole.

Each is also a line of a JSONL file that anyone can write (docs/evaluation.md):

    {"context": "The sun rises in the", "endings": ["east.", "west."], "label": 0}
    {"context": "The sun rises in the", "target": "east"}
    {"text": "The sun rises in the east, and so does the moon."}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daybreak import config, files

Kind = Literal["choice", "completion", "document"]


class TaskProblem(files.FileProblem):
    """A task that is not known, a file of one that is not there or not in its form; one line for each problem."""


@dataclass(frozen=True)
class Item:
    """One question: a context, and the continuations whose likelihood is asked for, as they stand behind it, spaces and all."""

    id: str
    context: str
    continuations: tuple[str, ...]
    label: int = 0
    """Which continuation is right; a document and a completion have only one."""
    sizes: tuple[int, ...] = ()
    """Of a choice the characters of each ending, of a document its words and its bytes."""

    @property
    def digest(self) -> str:
        """Sixteen digits by which two models' items are known to be the same."""
        text = json.dumps([self.context, self.continuations, self.label])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def choice(name: str, context: str, endings: list[str], label: int) -> Item:
    """One among endings, each behind a space."""
    return Item(name, context, tuple(behind(context, ending) for ending in endings), label, tuple(len(ending) for ending in endings))


def completion(name: str, context: str, target: str) -> Item:
    """A target behind a space."""
    return Item(name, context, (behind(context, target),))


def document(name: str, text: str, shown: str | None = None) -> Item:
    """A text whose words and bytes are counted; the model is shown `shown` if that is another form of it.

    Words are what `\\s+` separates, the empty ones at both ends too, as the harness counts them.
    """
    words, size = len(re.split(r"\s+", text)), len(text.encode("utf-8", "replace"))
    return Item(name, "", (text if shown is None else shown,), 0, (words, size))


def behind(context: str, text: str) -> str:
    """`text` with the space that joins it to `context`, unless one of them has it already or there is nothing to join."""
    return text if not context or context[-1].isspace() or text[:1].isspace() else f" {text}"


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file, each with its place for messages, "file:line". Raises TaskProblem."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise TaskProblem(f"{place}: wanted a JSON object, found something else ({error.msg}); mend the line") from None
                if not isinstance(row, dict):
                    raise TaskProblem(f"{place}: wanted a JSON object, came {type(row).__name__}; put the fields into {{}}")
                yield place, row
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise TaskProblem(f"{path}: cannot be read ({reason}); name a JSONL file") from None


_FORMS: dict[Kind, tuple[str, ...]] = {
    "choice": ("context", "endings", "label"),
    "completion": ("context", "target"),
    "document": ("text",),
}
_WANTED = "wanted context, endings and label, or context and target, or text"


def read_items(path: Path) -> tuple[Kind, list[Item]]:
    """The items of a file in our own form, all of the kind that its first line has. Raises TaskProblem."""
    found: Kind | None = None
    items: list[Item] = []
    for place, row in json_lines(path):
        kind = next((kind for kind, names in _FORMS.items() if all(name in row for name in names)), None)
        if kind is None:
            names = {name for form in _FORMS.values() for name in form}
            near = next((hint for name in row if name not in names and (hint := config.closest(name, names))), "; see docs/evaluation.md")
            raise TaskProblem(f"{place}: {_WANTED}, came {', '.join(map(repr, row)) or 'no field'}{near}")
        if found not in (None, kind):
            raise TaskProblem(f"{place}: wanted {' and '.join(_FORMS[found])} as in the lines before, came a {kind}; give it its own file")
        found = kind
        items.append(_item(kind, str(row.get("id", len(items))), row, place))
    if found is None:
        raise TaskProblem(f"{path}: {_WANTED} in each line, found no line")
    return found, items


def _item(kind: Kind, name: str, row: dict[str, Any], place: str) -> Item:
    if kind == "choice":
        return choice(name, text_of(row, "context", place), endings_of(row, place), label_of(row, place))
    if kind == "completion":
        return completion(name, text_of(row, "context", place), _filled(row, "target", place))
    return document(name, text_of(row, "text", place))


def text_of(row: dict[str, Any], name: str, place: str) -> str:
    """A field that must be text. Raises TaskProblem."""
    value = row.get(name)
    if not isinstance(value, str):
        raise TaskProblem(f"{place}: {name}: wanted text, came {'nothing' if name not in row else repr(value)}; mend the line")
    return value


def endings_of(row: dict[str, Any], place: str) -> list[str]:
    """The endings, two or more texts with something in them. Raises TaskProblem."""
    value = row.get("endings")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(ending, str) and ending for ending in value):
        raise TaskProblem(f"{place}: endings: wanted a list of two or more texts, came {_short(value)}; mend the line")
    return value


def label_of(row: dict[str, Any], place: str) -> int:
    """The number of the right ending, from 0. Raises TaskProblem; a test split has none, it cannot be scored."""
    value, count = row.get("label"), len(endings_of(row, place))
    if isinstance(value, str) and value.isdecimal():  # as the Hub's files have it
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        raise TaskProblem(f"{place}: label: wanted the number of the right ending, 0 to {count - 1}, came {_short(value)}; mend the line")
    return value


def _filled(row: dict[str, Any], name: str, place: str) -> str:
    if not (value := text_of(row, name, place)):
        raise TaskProblem(f"{place}: {name}: wanted text with something in it, came an empty one; mend the line")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
