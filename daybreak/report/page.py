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

import numpy as np

from daybreak.report import sections
from daybreak.report.curves import Curve, FloatArray, half_life, number, smooth, spread, thin
from daybreak.report.markup import escape, json_block
from daybreak.report.record import RunRecord, Summary, summary
from daybreak.report.tasks import tasks

__all__ = ["RunRecord", "page"]

STATIC = Path(__file__).parent / "static"
MAX_MARKS = 200


def page(runs: Sequence[RunRecord], title: str = "daybreak report") -> str:
    """The report of one run, or of several with their curves overlaid, as a whole HTML document."""
    told = [summary(run) for run in runs]
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    name = f"{runs[0].name} · {title}" if len(runs) == 1 else title
    body = [sections.header(told, title), "<main>"]
    if told:
        parts = (sections.figures, sections.compression, tasks, sections.charts, sections.samples, sections.events)
        body += [part(told) for part in (*parts, sections.data, sections.settings, sections.environment)]
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
            json_block("run-data", {"runs": [_drawable(run) for run in told]}),
            "</body>\n</html>\n",
        ]
    )


def _drawable(run: Summary) -> dict[str, Any]:
    """A run as the script draws it: thinned curves and the moments to mark."""
    curves = {}
    for name, curve in run.curves.items():
        if len(curve):
            kept = thin(curve.values)
            curves[name] = _columns(curve.at(kept))
            if name == "loss":
                curves[name]["smooth"] = _rounded(smooth(curve.values, half_life(len(curve)))[kept])
    marks = [pair for pair in zip(run.events, run.seconds_at, strict=True) if pair[0]["event"] in ("skip", "resume", "stop")]
    return {
        "name": run.name,
        "flops_per_token": run.flops_per_token,
        "curves": curves,
        "marks": [
            {"kind": event["event"], "steps": event.get("step"), "tokens": number(event.get("tokens")), "seconds": round(seconds, 1)}
            for event, seconds in spread(marks, MAX_MARKS)
        ],
    }


def _columns(curve: Curve) -> dict[str, list[float | int | None]]:
    whole = {"steps": curve.steps, "tokens": curve.tokens, "seconds": curve.seconds, "values": curve.values}
    return {name: _rounded(column) for name, column in whole.items()}


def _rounded(column: FloatArray) -> list[float | int | None]:
    """Numbers as short as a screen needs: whole ones whole, others to six digits, what is no number as null."""
    rounded = [None if np.isnan(x) else int(x) if x.is_integer() else float(f"{x:.6g}") for x in column.tolist()]
    return list(rounded)


def _script() -> str:
    licence = _static("uPlot-LICENSE.txt").replace("*/", "* /")
    return f"/*! uPlot\n{licence}\n*/\n{_static('uPlot.iife.min.js')}\n{_static('report.js')}"


@functools.cache
def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
