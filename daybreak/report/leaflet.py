"""A page without scripts that opens from disk: what the smaller views are written on. Its policy forbids every request."""

from __future__ import annotations

import functools
from pathlib import Path

from daybreak.report.markup import escape

STATIC = Path(__file__).parent / "static"


def leaflet(heading: str, kind: str, lead: str, body_html: str, css: str = "") -> str:
    """A whole HTML document with a heading, a sentence under it, and a body; `kind` stands small above, `css` is added to the report's."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">',
            f'<title>{escape(heading)} · {escape(kind)}</title>\n<link rel="icon" href="data:,">',
            f"<style>{_style()}\n{css}</style>\n</head>\n<body>",
            f'<header><div class="horizon"></div><div class="brow"><span>{escape(kind)}</span></div>',
            f'<h1>{escape(heading)}</h1><p class="lead">{escape(lead)}</p></header>\n<main>',
            body_html,
            "</main>\n<footer><p>Written by daybreak.</p></footer>\n</body>\n</html>\n",
        ]
    )


def cards(figures: list[tuple[str, str, str]]) -> str:
    """Figures in large, each with its name and a note."""
    each = (
        f'<div class="figure"><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class="note">{escape(note)}</dd></div>'
        for name, value, note in figures
    )
    return f'<dl class="figures">{"".join(each)}</dl>'


@functools.cache
def _style() -> str:
    return (STATIC / "report.css").read_text(encoding="utf-8")
