"""A comparison as text for a terminal, as JSON, and as the first section of a page."""

from __future__ import annotations

from typing import Any

from daybreak.report.comparison import AXES, Comparison, Row
from daybreak.report.drawing import comparison_picture, intervals_picture
from daybreak.report.intervals import Interval
from daybreak.report.markup import escape, paragraph, section, table

_AMOUNT = {"tokens": "tokens", "time": "time", "flops": "FLOPs"}


def as_text(told: Comparison) -> str:
    """Aligned columns, the verdict, and what differs."""
    rows = [_head(told), *(_cells(row, told) for row in told.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", told.verdict, *told.warnings]
    if told.settings:
        names = [row.group.name for row in told.rows]
        differ = [("differs", *names), *((name, *values) for name, values in told.settings.items())]
        widths = [max(map(len, column)) for column in zip(*differ, strict=True)]
        lines += ["", *("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in differ)]
    return "\n".join(lines)


def as_values(told: Comparison) -> dict[str, Any]:
    """The same as values of JSON."""
    return {
        "verdict": told.verdict,
        "by": told.by,
        "at": told.at,
        "to_loss": told.to_loss,
        "groups": [
            {
                "name": row.group.name,
                "runs": [run.name for run in row.group.runs],
                "seeds": list(row.group.seeds),
                "losses": list(row.losses),
                "loss": _values(row.loss),
                "difference": _values(row.apart),
                "to_reach": {axis: list(amounts) for axis, amounts in row.reached.items()},
                "ratio": {axis: _values(ratio) for axis, ratio in row.ratios.items()},
            }
            for row in told.rows
        ],
        "settings": {name: list(values) for name, values in told.settings.items()},
        "warnings": list(told.warnings),
    }


def as_section(told: Comparison) -> str:
    """The section that stands first on the page: the verdict, the pictures, the table, what differs."""
    head, *rows = [_head(told), *(_cells(row, told) for row in told.rows)]
    cells = [
        [f'<span class="run-name run-{i % 8}">{escape(row[0])}</span>', *(escape(cell).replace(", ×", "<br>×") for cell in row[1:])]
        for i, row in enumerate(rows)
    ]
    differ = [[f'<span class="differs">{escape(name)}</span>', *map(escape, values)] for name, values in told.settings.items()]
    body = [paragraph(told.verdict, "standing"), table(head, cells, "numbers"), *(paragraph(warning, "note") for warning in told.warnings)]
    body.append(paragraph(_how(told), "note"))
    body.append(f'<figure class="chart wide">{comparison_picture(told)}</figure>')
    if len(told.rows) > 1:
        body.append(f"<h3>Loss less that of {escape(told.rows[0].group.name)}</h3>{intervals_picture(told)}")
    if differ:
        body.append(f"<h3>What differs</h3>{table(['', *(row.group.name for row in told.rows)], differ, 'settings')}")
    return section("comparison", "Which is better", "".join(body))


def _head(told: Comparison) -> list[str]:
    amounts = [f"{_AMOUNT[axis]} to {told.to_loss:.4g}" for axis in _axes(told)]
    return ["", "runs", "validation loss", "difference, 95 %", *amounts]


def _cells(row: Row, told: Comparison) -> list[str]:
    baseline = row is told.rows[0]
    cells = [f"{row.group.name}{' (baseline)' if baseline else ''}", str(len(row.losses)), _spread(row.loss)]
    cells.append("" if row.apart is None else _between(row.apart))
    for axis in _axes(told):
        amounts = [amount for amount in row.reached[axis] if amount is not None]
        missing = len(row.losses) - len(amounts)
        said = AXES[axis](sum(amounts) / len(amounts)) if amounts else "not reached"
        said += f", {missing} did not" if amounts and missing else ""
        ratio = row.ratios[axis]
        bounds = f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio and ratio.low is not None and ratio.high is not None else ""
        cells.append(f"{said}, × {ratio.mean:.2f}{bounds}" if ratio else said)
    return cells


def _axes(told: Comparison) -> list[str]:
    return [axis for axis in AXES if axis != "flops" or all(run.flops_per_token for row in told.rows for run in row.group.runs)]


def _how(told: Comparison) -> str:
    amount = AXES[told.by](told.at)
    return (
        f"Losses where all runs have had {amount}{' tokens' if told.by == 'tokens' else ''}. A loss is reached where the line through "
        "a run's evaluations first crosses it; × is the share of what the baseline took. Intervals hold 95 % "
        "(Student's distribution); of ratios by way of their logarithms."
    )


def _spread(value: Interval) -> str:
    return f"{value.mean:.4f} ± {value.reach:.4f}" if value.reach is not None else f"{value.mean:.4f}"


def _between(value: Interval) -> str:
    bounds = f" ({value.low:+.4f} to {value.high:+.4f})" if value.low is not None and value.high is not None else ""
    return f"{value.mean:+.4f}{bounds}"


def _values(value: Interval | None) -> dict[str, Any] | None:
    return None if value is None else {"mean": value.mean, "low": value.low, "high": value.high, "how": value.how}
