"""A text of headings, paragraphs, lists, tables and code, told once and written as Markdown or as HTML.

In paragraphs, items and cells `such marks` set code; all else is text and is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daybreak.report.markup import escape


@dataclass(frozen=True)
class Heading:
    """The beginning of a part."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """A table; its head may be of empty names."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Code:
    """Lines as they are, of a language or none."""

    text: str
    language: str = ""


Block = Heading | Paragraph | Items | Rows | Code


def markdown(blocks: Sequence[Block]) -> str:
    """As Markdown."""
    return "\n\n".join("\n".join(_markdown(block)) for block in blocks) + "\n"


def html(blocks: Sequence[Block]) -> str:
    """As markup, headings as the third level."""
    return "\n".join(_html(block) for block in blocks)


def _markdown(block: Block) -> Iterator[str]:
    if isinstance(block, Heading):
        yield f"## {block.text}"
    elif isinstance(block, Paragraph):
        yield _plain(block.text)
    elif isinstance(block, Items):
        yield from (f"- {_plain(text)}" for text in block.texts)
    elif isinstance(block, Code):
        fence = max(re.findall("`{3,}", block.text), key=len, default="``") + "`"
        yield from (f"{fence}{block.language}", block.text, fence)
    else:
        yield f"| {' | '.join(map(_cell, block.head))} |"
        yield f"|{'---|' * len(block.head)}"
        yield from (f"| {' | '.join(map(_cell, row))} |" for row in block.rows)


def _plain(text: str) -> str:
    """Text of which Markdown makes nothing else: outside of code its signs are escaped."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]#])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h3>{escape(block.text)}</h3>"
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{_inline(text)}</li>' for text in block.texts)}</ul>"
    if isinstance(block, Code):
        return f'<pre class="code">{escape(block.text)}</pre>'
    head = "".join(f'<th scope="col">{_inline(name)}</th>' for name in block.head)
    head = f"<thead><tr>{head}</tr></thead>" if any(block.head) else ""
    rows = (
        f'<tr><th scope="row">{_inline(row[0])}</th>{"".join(f"<td>{_inline(cell)}</td>" for cell in row[1:])}</tr>' for row in block.rows
    )
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _inline(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
