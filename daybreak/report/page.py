"""One HTML file that tells a run, or compares several; it opens from disk and asks the network for nothing.

    from daybreak.report.page import RunRecord, page
    html = page([RunRecord(name="dawn", settings={...}, events=[...], data={...}, facts={...})])

Its content security policy forbids every request and every script but the one written here, so that even text that
slipped through the escaping could not act.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from daybreak.report import card, references, sections
from daybreak.report.curves import MAX_POINTS
from daybreak.report.drawable import drawable, marks
from daybreak.report.markup import escape, json_block
from daybreak.report.record import RunRecord, Summary, summary
from daybreak.report.tasks import tasks

__all__ = ["RunRecord", "page"]

STATIC = Path(__file__).parent / "static"


def page(runs: Sequence[RunRecord], title: str = "daybreak report", lead_html: str = "") -> str:
    """The report of one run, or of several with their curves overlaid, as a whole HTML document; `lead_html` comes before the figures."""
    told = [summary(run) for run in runs]
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    name = f"{runs[0].name} · {title}" if len(runs) == 1 else title
    body = [sections.header(told, title), "<main>", lead_html]
    if told:
        parts = (sections.figures, sections.compression, tasks, sections.charts, sections.samples, sections.events)
        body += [part(told) for part in (*parts, sections.data, sections.settings, sections.environment, card.section)]
    body += ["</main>", "<footer><p>Written by daybreak. Charts: uPlot, MIT licence.</p></footer>"]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">',
            f'<title>{escape(name)}</title>\n<link rel="icon" href="data:,">',
            f"<style>{_static('uPlot.min.css')}\n{_static('report.css')}</style>",
            f"<script>{script}</script>\n</head>\n<body>",
            *body,
            json_block("run-data", {"runs": [_drawn(run, i, len(told)) for i, run in enumerate(told)], "references": _behind(told)}),
            "</body>\n</html>\n",
        ]
    )


def _drawn(run: Summary, place: int, several: int) -> dict[str, Any]:
    return {
        "id": str(place),
        "name": run.name,
        "flops_per_token": run.flops_per_token,
        "curves": drawable(run.curves, max(400, MAX_POINTS // several)),
        "marks": marks(run.events, run.seconds_at),
    }


def _behind(runs: Sequence[Summary]) -> list[dict[str, Any]]:
    """The references that all runs may be set beside."""
    each = [references.drawn(run.references) for run in runs]
    return [one for one in each[0] if all(one in others for others in each)] if each else []


def _script() -> str:
    licence = _static("uPlot-LICENSE.txt").replace("*/", "* /")
    return f"/*! uPlot\n{licence}\n*/\n{_static('uPlot.iife.min.js')}\n{_static('charts.js')}\n{_static('report.js')}"


@functools.cache
def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
