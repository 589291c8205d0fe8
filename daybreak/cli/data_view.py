"""What `daybreak data show` says of a data folder: its figures, how long documents are, which tokens are frequent, windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daybreak.data.ranks import END_OF_TEXT

if TYPE_CHECKING:
    from daybreak.data.looking import View, Window
    from daybreak.data.manifest import Manifest

_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NEAR = "near"
"""How the reasons begin that name near-duplicates, of documents that were left out."""


def values(manifest: Manifest, view: View) -> dict[str, Any]:
    """The look at the training text as JSON."""
    lengths = None if view.lengths is None else dataclasses.asdict(view.lengths)
    return {
        "sources": list(manifest.sources),
        "near_duplicates": _near_duplicates(manifest),
        "tokens_per_byte": round(view.sampled / max(1, view.text_bytes), 4),
        "looked_at": {"split": "train", "tokens": view.sampled, "of": view.tokens},
        "distinct_tokens": view.distinct,
        "lengths": lengths,
        "frequent": [dataclasses.asdict(row) for row in view.frequent],
    }


def figures(known: Mapping[str, Any], manifest: Manifest, view: View) -> list[str]:
    """The figures, one to a line, and the sources."""
    lines = [f"{name:18}{_written(name, value, known)}" for name, value in known.items()]
    near = _near_duplicates(manifest)
    lines.append(f"{'near_duplicates':18}{'not computed' if near is None else _of_all(near, known)}")
    part = "" if view.sampled == view.tokens else f", from an even sample of {view.sampled:,} training tokens"
    lines.append(f"{'tokens_per_byte':18}{view.sampled / max(1, view.text_bytes):.4f}{part}")
    lines.append(f"{'distinct_tokens':18}{view.distinct:,} of {known['vocab_size']:,} came in what was looked at")
    for number, source in enumerate(manifest.sources):
        told = ", ".join(f"{source[key]:,} {key}" for key in ("files", "bytes") if isinstance(source.get(key), int))
        lines.append(f"{'sources' if number == 0 else '':18}{source.get('source', source.get('name', ''))}{f' ({told})' if told else ''}")
    return lines


def lengths(view: View) -> list[str]:
    """How long documents are, as a histogram."""
    found = view.lengths
    if found is None:
        return ["", "lengths of documents: unknown, as none ends in what was looked at"]
    head = (
        f"lengths of {found.documents:,} documents in tokens: shortest {found.shortest:,}, median {found.median:,.0f}, "
        f"mean {found.mean:,.0f}, longest {found.longest:,}"
    )
    most = max(count for *_, count in found.histogram)
    names = [f"{low:,} to {high:,}" for low, high, _ in found.histogram]
    width = max(map(len, names))
    rows = [
        f"  {name:>{width}}  {_bar(count / most):{_WIDTH}}  {count:,} ({count / found.documents:.1%})"
        for name, (*_, count) in zip(names, found.histogram, strict=True)
    ]
    return ["", head, *rows]


def frequent(view: View) -> list[str]:
    """The most frequent tokens, in two columns."""
    if not view.frequent:
        return []
    cells = [f"{_quoted(row.text):18}{row.share:>7.2%}  {row.count:,}" for row in view.frequent]
    half = -(-len(cells) // 2)
    rows = [f"  {left:42}{right}".rstrip() for left, right in zip(cells[:half], [*cells[half:], ""], strict=False)]
    return ["", f"most frequent of {view.sampled:,} tokens", *rows]


def window(read: Window) -> list[str]:
    """A window with its boundaries marked."""
    ends = len(read.pieces) - 1
    told = "no document ends in it" if not ends else f"{ends:,} {'document begins' if ends == 1 else 'documents begin'} in it"
    head = f"--- window of {read.split}: tokens {read.start:,} to {read.start + read.tokens - 1:,}, {told} ---"
    return [head, f"\n⟨{END_OF_TEXT}⟩\n".join(read.pieces)]


def _near_duplicates(manifest: Manifest) -> int | None:
    found = [count for reason, count in manifest.skipped.items() if reason.startswith(_NEAR)]
    return sum(found) if found else None


def _written(name: str, value: Any, known: Mapping[str, Any]) -> str:
    if value is None:
        return "not counted"
    if name == "duplicates" and value:
        return _of_all(value, known)
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {reason}" for reason, count in value.items()) or "nothing"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _of_all(count: int, known: Mapping[str, Any]) -> str:
    every = count + (known["documents"] or 0)
    return f"{count:,} left out, {count / max(1, every):.1%} of all documents"


def _bar(share: float) -> str:
    eighths = max(1, round(share * _WIDTH * 8)) if share > 0 else 0
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _quoted(text: str) -> str:
    return f"'{text.encode('unicode_escape').decode() if not text.isprintable() else text}'"
