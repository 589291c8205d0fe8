"""The named tasks: where each keeps its text, how it is put before a model, and what its scores may be compared with.

The same task read in two ways gives two scores: GPT-2 124M gets 0.2955 or 0.3114 on HellaSwag. So each way is a protocol with a name,
and the name stands beside every figure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daybreak.evaluation.items import Item, Kind, TaskProblem, document, endings_of, json_lines, label_of, text_of

Read = Callable[[Path], tuple[list[Item], str]]
"""A file to its items and, where it is not the official form, what is different about its text."""


@dataclass(frozen=True)
class Protocol:
    """One way to ask a task's questions."""

    name: str
    """completion, harness or own; beside the task it says which published figures are comparable."""
    reads: str
    """In a sentence, what is put before the model and how its likelihoods become scores."""
    kind: Kind
    apart: bool = False
    """Whether context and continuation are encoded each for itself; else together, and cut where the context's ids end."""
    per: Literal["token", "character"] = "character"
    """What acc_norm divides the log-likelihood of an ending by."""
    published: str = ""
    """The task's name among the published rows."""
    file_names: tuple[str, ...] = ()
    """The task's file, or names that it goes by, in the order of preference."""
    read: Read | None = None


def own(kind: Kind) -> Protocol:
    """The protocol of a file of one's own."""
    scores = {
        "choice": "each ending behind the context and a space; acc by log-likelihood, acc_norm by log-likelihood per character",
        "completion": "the target behind the context and a space; perplexity of the target, acc if each of its tokens is the likeliest",
        "document": "whole documents in windows of the context length",
    }
    return Protocol("own", scores[kind], kind)


def _hellaswag(path: Path) -> tuple[list[Item], str]:
    """The raw context, each ending behind a space."""
    items: list[Item] = []
    form = ""
    for place, row in json_lines(path):
        context, endings = text_of(row, "ctx", place), endings_of(row, place)
        form = _CLEANED if row.get("preprocessed") else form
        items.append(_choice(row, len(items), context, endings, label_of(row, place)))
    return items, form


def _hellaswag_harness(path: Path) -> tuple[list[Item], str]:
    """The activity and the cleaned context, whose second part begins with a capital; each cleaned ending behind a space."""
    items: list[Item] = []
    form = ""
    for place, row in json_lines(path):
        activity = text_of(row, "activity_label", place)
        if "ctx_a" in row or not row.get("preprocessed"):
            context = f"{text_of(row, 'ctx_a', place)} {text_of(row, 'ctx_b', place).capitalize()}"
        else:
            context, form = text_of(row, "ctx", place), f"{_CLEANED}, and ctx_b, its last words, begins with a small letter"
        query = _without_brackets(f"{activity}: {context}")
        endings = [_without_brackets(ending) for ending in endings_of(row, place)]
        items.append(_choice(row, len(items), query, endings, label_of(row, place)))
    return items, form


_CLEANED = "not the official file: its text was cleaned before"


def _choice(row: dict[str, Any], number: int, context: str, endings: list[str], label: int) -> Item:
    name = str(row.get("ind", number))
    return Item(name, context, tuple(f" {ending}" for ending in endings), label, tuple(len(ending) for ending in endings))


def _without_brackets(text: str) -> str:
    """Removes what WikiHow's pages left in the text, in the harness's order, on which it depends what spaces remain."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _lambada(path: Path) -> tuple[list[Item], str]:
    """The last word, what stands behind the last space, is the target."""
    items: list[Item] = []
    for place, row in json_lines(path):
        if "text" in row:
            context, _, word = text_of(row, "text", place).rpartition(" ")
        else:  # the same texts, already parted
            context, word = text_of(row, "context", place), text_of(row, "continuation", place)
        items.append(Item(str(len(items)), context, (f" {word}",)))
    return items, ""


def _wikitext(path: Path) -> tuple[list[Item], str]:
    """One document for each article, de-tokenised; its words and bytes are those of the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise TaskProblem(f"{path}: cannot be read ({reason}); name a text file of WikiText") from None
    items = [document(str(number), page, detokenised(page)) for number, page in enumerate(articles(text))]
    unknown = "<unk>" in text
    return items, "tokenised form: rare words are <unk>, so that no figure of the raw form compares" if unknown else ""


def articles(text: str) -> list[str]:
    """WikiText parted before each heading of the first level, `= Title =`, those of the lower levels having more signs."""
    parts: list[list[str]] = [[]]
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            parts.append([])
        parts[-1].append(line)
    return [page for page in ("\n".join(part) for part in parts) if page.strip()]


# (pattern, replacement) in the harness's order; some undo what an earlier one made.
_JOINS: tuple[tuple[str, str], ...] = (
    ("s '", "s'"),
    (r"/' [0-9]/", r"/'[0-9]/"),
    *((f" @{re.escape(sign)}@ ", sign) for sign in "-,."),
    *((f" {re.escape(sign)} ", f"{sign} ") for sign in ":;.!?,"),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r'"\s*([^"]*?)\s*"', r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
_PATTERNS = tuple((re.compile(pattern), joined) for pattern, joined in _JOINS)


def detokenised(page: str) -> str:
    """A page of WikiText with the spaces taken away that its tokenization put around signs, by the harness's rules."""
    for pattern, joined in _PATTERNS:
        page = pattern.sub(joined, page)
    return page


_HELLASWAG_FILES = ("hellaswag_val.jsonl", "hellaswag_val_preprocessed.jsonl")

PROTOCOLS: dict[str, Protocol] = {
    "hellaswag": Protocol(
        "completion",
        "the raw context, each ending behind a space; acc by log-likelihood, acc_norm by log-likelihood per token, "
        "as build-nanogpt and llm.c score it",
        "choice",
        apart=True,
        per="token",
        published="hellaswag",
        file_names=_HELLASWAG_FILES,
        read=_hellaswag,
    ),
    "hellaswag:harness": Protocol(
        "harness",
        "the activity and the cleaned context, each ending behind a space; acc by log-likelihood, acc_norm by log-likelihood per "
        "character, as lm-evaluation-harness scores it",
        "choice",
        published="hellaswag",
        file_names=_HELLASWAG_FILES,
        read=_hellaswag_harness,
    ),
    "lambada": Protocol(
        "harness",
        "the last word, with the space before it; perplexity of the whole word, acc if each of its tokens is the likeliest, "
        "as lm-evaluation-harness scores lambada_openai",
        "completion",
        published="lambada",
        file_names=("lambada_test.jsonl", "lambada_test_en.jsonl", "lambada_openai.jsonl", "lambada_openai_llmfoundry.jsonl"),
        read=_lambada,
    ),
    "wikitext": Protocol(
        "harness",
        "whole articles of WikiText-2, de-tokenised, in windows of the context length; words and bytes counted before, "
        "as lm-evaluation-harness scores it",
        "document",
        published="wikitext2",
        file_names=("wiki.test.raw", "wikitext-2-raw/wiki.test.raw", "wikitext-2/wiki.test.tokens", "wikitext-2/test.txt"),
        read=_wikitext,
    ),
}
"""Every task that has a name."""
