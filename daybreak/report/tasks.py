"""The section of the page on tasks such as HellaSwag: the last figures of each run, and how they came about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from daybreak.report import words
from daybreak.report.curves import number
from daybreak.report.markup import escape, paragraph, section, table
from daybreak.report.record import Summary


def tasks(runs: Sequence[Summary]) -> str:
    """A table of what each run got last; nothing at all if no run was given a task."""
    rows = []
    for i, run in enumerate(runs):
        seen = [event for event in run.events if event["event"] == "tasks" and isinstance(event.get("tasks"), Mapping)]
        if not seen:
            continue
        name = f'<span class="run-name run-{i % 8}">{escape(run.name)}</span> ' if len(runs) > 1 else ""
        rows += [row for task, told in seen[-1]["tasks"].items() for row in _rows(name, str(task), told, seen, run)]
    if not rows:
        return ""
    head = ["task", "protocol", "metric", "value", "standard error", "items", "at tokens", "before", "published"]
    note = "The same task read by another protocol gives other figures. Two values a standard error apart are not different."
    return section("tasks", "Tasks", table(head, rows, "numbers") + paragraph(note, "note"))


def _rows(name_html: str, task: str, told: Any, seen: Sequence[Mapping[str, Any]], run: Summary) -> list[list[str]]:
    if not isinstance(told, Mapping) or not isinstance(told.get("metrics"), Mapping):
        return []
    rows = []
    for metric, row in told["metrics"].items():
        before = [_value(event, task, metric) for event in seen[:-1]]
        cells = [
            str(told.get("protocol", "")),
            str(metric),
            words.decimal(number(row.get("value")), 4),
            words.decimal(number(row.get("stderr")), 4),
            words.decimal(number(row.get("n")), 0),
            words.count(number(seen[-1].get("tokens"))),
            ", ".join(words.decimal(value, 4) for value in before[-4:]),
            published(run, task, str(told.get("protocol", "")), str(metric)),
        ]
        rows.append([f"{name_html}{escape(task)}", *map(escape, cells)])
    return rows


def _value(event: Mapping[str, Any], task: str, metric: str) -> float | None:
    told = event["tasks"].get(task)
    return number(told["metrics"].get(metric, {}).get("value")) if isinstance(told, Mapping) and "metrics" in told else None


def published(run: Summary, task: str, protocol: str, metric: str) -> str:
    """What the two published models nearest in size got, with their standard errors."""
    same = [row for row in run.record.published if (row["task"], row["protocol"], row["metric"]) == (task, protocol, metric)]
    size = run.parameters or 1.0
    nearest = sorted(same, key=lambda row: abs(math.log(row["parameters"] / size)))[:2]
    told = []
    for row in sorted(nearest, key=lambda row: float(row["parameters"])):
        error = f" ± {row['stderr']:.4f}" if row["stderr"] is not None else ""
        told.append(f"{row['model']} {row['value']:.4g}{error}")
    return ", ".join(told)
