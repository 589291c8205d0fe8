"""HTML made from values that nobody has to trust: everything that is not written in this room is escaped here.

Names end in `_html` where a string is markup already; every other string is text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_ROWS = 400
MAX_ENTRIES = 40
MAX_TEXT = 2000

_NOT_IN_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


def escape(value: Any) -> str:
    """`value` as text that is safe between tags and in quoted attributes, and can be written as UTF-8."""
    return html.escape(_NOT_IN_HTML.sub("\ufffd", str(value)), quote=True)


def json_block(identifier: str, value: Any) -> str:
    """`value` as a script element of JSON, in which no text can end the element or begin a comment."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    safe = written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{identifier}">{safe}</script>'


def section(identifier: str, heading: str, body_html: str) -> str:
    """A section of the page under its heading."""
    heading_html = f'<h2 id="{identifier}-h">{escape(heading)}</h2>'
    return f'<section id="{identifier}" aria-labelledby="{identifier}-h">\n{heading_html}\n{body_html}\n</section>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text, of a CSS class."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows_html: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table in a box that scrolls sideways. Cells are markup; the first of each row is its heading."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = (f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows_html)
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and short texts; long lists, and long mappings of mappings, are only counted."""
    flat: dict[str, str] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            if len(inner) > MAX_ENTRIES and any(isinstance(each, Mapping) for each in inner.values()):
                flat[name] = f"{len(inner):,} entries"
            else:
                flat.update(leaves(inner, f"{name}."))
        else:
            flat[name] = _short(inner)
    return flat


def side_by_side(names: Sequence[str], values: Sequence[Mapping[str, Any]], caption: str) -> str:
    """One table of nested mappings, a column for each; rows in which they differ are marked, and a box filters the rows."""
    flat = [leaves(value) for value in values]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    several = len(flat) > 1
    rows = []
    for key in keys[:MAX_ROWS]:
        cells = [one.get(key, "–") for one in flat]
        differs = several and len(set(cells)) > 1
        rows.append([f'<span class="{"differs" if differs else "key"}">{escape(key)}</span>', *(escape(cell) for cell in cells)])
    if not rows:
        return ""
    only = '<label><input type="checkbox" class="only-differing"> only what differs</label>' if several else ""
    search = f'<input type="search" class="filter" placeholder="filter" aria-label="Filter {escape(caption)}">'
    tools = f'<div class="tools needs-script">{search}{only}</div>' if len(rows) > 8 or several else ""
    rest = paragraph(f"{len(keys) - MAX_ROWS:,} more rows are not shown.", "note") if len(keys) > MAX_ROWS else ""
    head = ["", *names] if several else ["name", "value"]
    return f'<div class="filtered">{tools}{table(head, rows, "settings")}{rest}</div>'


def _short(value: Any) -> str:
    if isinstance(value, str):
        written = value
    elif isinstance(value, bool) or value is None:
        written = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, int):
        written = (
            f"{value:,}" if abs(value) >= 10_000 and value.bit_length() < 2000 else str(value) if value.bit_length() < 2000 else "huge"
        )
    elif isinstance(value, float):
        written = f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.6g}"
    elif isinstance(value, Mapping):
        written = "{}"
    elif isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        plain = all(not isinstance(item, Mapping | list | tuple) for item in items)
        written = ", ".join(_short(item) for item in items) if plain and len(items) <= 12 else f"{len(items):,} entries"
    else:
        written = str(value)
    return written if len(written) <= MAX_TEXT else written[:MAX_TEXT] + " …"
