"""The figures of tasks as a person reads them: aligned, with their errors, and beside them what others measured in the same way."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daybreak.evaluation.suite import Result
    from daybreak.loading import Model

_WIDTH = 120


def published_rows(result: Result) -> list[dict[str, Any]]:
    """What others measured by the same protocol."""
    from daybreak.evaluation import published

    rows = published.rows(result.protocol.published, result.protocol.name) if result.protocol.published else ()
    return [{"model": row.model, "metric": row.metric, "value": row.value, "stderr": row.stderr, "source": row.source} for row in rows]


def table(foreign: Mapping[str, Any], results: Sequence[Result], model: Model) -> str:
    """All figures in aligned columns, and under them how each task was read."""
    rows = [("task", "protocol", "metric", "value", "items", "published")]
    for name, metrics in foreign.items():
        rows += [
            (name, "harness", metric, _with_error(row["value"], row["stderr"]), f"{row['n']:,}" if row["n"] else "", "")
            for metric, row in metrics.items()
        ]
    for result in results:
        rows += [
            (result.name, result.protocol.name, metric, _with_error(row.value, row.stderr), f"{row.n:,}", _beside(result, metric, model))
            for metric, row in result.figures().items()
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = []
    for result in results:
        facts = result.facts()
        cut = f"; {facts['cut']:,} items were longer than the context, and were read from their end" if facts["cut"] else ""
        form = f"; {result.form}" if result.form else ""
        note = f"{result.name}: {result.protocol.reads}; {facts['n']:,} of {facts['items']:,} items{cut}{form}"
        notes.append(textwrap.fill(note, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _beside(result: Result, metric: str, model: Model) -> str:
    """The two published models nearest in size, one figure each."""
    from daybreak.evaluation import published
    from daybreak.model.flops import parameter_count

    size = parameter_count(model.config)
    rows = {row.model: row for row in reversed(published.rows(result.protocol.published, result.protocol.name, metric))}
    nearest = sorted(rows.values(), key=lambda row: abs(math.log(row.parameters / size)))[:2]
    return ", ".join(f"{row.model} {number(row.value)}" for row in sorted(nearest, key=lambda row: row.parameters))


def _with_error(value: float, stderr: float | None) -> str:
    return number(value) if stderr is None else f"{number(value)} ± {number(stderr)}"


def number(value: float) -> str:
    """Four places for what is small, two for what is large, an exponent for what is absurd."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}" if abs(value) < 1e6 else f"{value:.3g}"
