"""The page of a text coloured by its tokens: where each begins, and on pointing at it its id and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daybreak.report.leaflet import cards, leaflet
from daybreak.report.markup import escape, paragraph, section

_COLOURS = 6
_CSS = """
.tokens { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 20px 24px; margin: 0;
  font: 1rem/1.9 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens span { border-radius: 4px; padding: 2px 0; }
.tokens span:hover { outline: 2px solid var(--accent); }
""" + "\n".join(
    f".tokens .t{number} {{ background: color-mix(in srgb, var(--run-{colour}) 24%, transparent); }}"
    for number, colour in enumerate((0, 4, 2, 3, 1, 5))
)


def page(name: str, spans: Iterable[tuple[Sequence[int], str]], figures: Sequence[tuple[str, str, str]], note: str = "") -> str:
    """The page of a text. `spans`: ids and the text that they stand for; `figures`: name, value and note of what stands on top."""
    marked = "".join(_span(number, ids, text) for number, (ids, text) in enumerate(spans))
    body = section("figures", "Figures", cards(list(figures)))
    body += section("text", "The text", f'<pre class="tokens">{marked}</pre>' + (paragraph(note, "note") if note else ""))
    return leaflet(name, "daybreak tokenizer", "A text as the model meets it: each change of colour is where a token ends.", body, _CSS)


def _span(number: int, ids: Sequence[int], text: str) -> str:
    told = f"{'id' if len(ids) == 1 else 'ids'} {', '.join(map(str, ids))}, {len(text.encode('utf-8', 'replace'))} bytes"
    return f'<span class="t{number % _COLOURS}" title="{escape(told)}">{escape(text)}</span>'
