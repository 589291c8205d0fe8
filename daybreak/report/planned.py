"""The page of a plan: what a run would be, and its memory, time and cost over devices and micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daybreak.report.leaflet import cards, leaflet
from daybreak.report.markup import escape, paragraph, section, side_by_side

_CSS = """
.planned { font-variant-numeric: tabular-nums; }
.planned th, .planned td { white-space: nowrap; padding-right: 10px; vertical-align: middle; }
.planned td, .planned thead th:nth-child(n+3) { text-align: right; }
.planned td:nth-child(2), .planned thead th:nth-child(2) { text-align: left; }
.planned .kind { border-top: 1px solid var(--rule); }
.room { display: inline-block; min-width: 4.6em; padding: 2px 8px; border-radius: 6px; border: 1px solid transparent;
  background: linear-gradient(90deg, color-mix(in srgb, var(--good) 24%, transparent) var(--share), var(--grid) var(--share)); }
.room.over { background: none; color: var(--faint); text-decoration: line-through; }
.room.largest { border-color: var(--good); font-weight: 600; }
.room.taken { border-color: var(--accent); background: var(--accent-soft); color: var(--accent); }
"""


@dataclass(frozen=True)
class Way:
    """A row of the table: a way to place the run on devices."""

    devices: str
    layout: str
    """In words, with what is computed again."""
    room: int
    """Bytes that each device has for tensors."""
    memory: Mapping[int, int]
    """Bytes on each device, by sequences at a time."""
    largest: int | None
    taken: bool
    """Whether the plan takes this way."""
    time: str
    cost: str


def page(name: str, facts: Sequence[tuple[str, str, str]], ways: Sequence[Way], notes: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The page. `facts`: name, value and note of the figures on top."""
    lead = "What this run would take, by arithmetic on its settings: nothing has been run."
    body = section("size", "The run", cards(list(facts)))
    body += section("choices", "Devices and micro-batches", _table(ways) + "".join(paragraph(note, "note") for note in notes))
    body += section("settings", "Settings", side_by_side([name], [settings], "settings"))
    return leaflet(name, "daybreak plan", lead, body, _CSS)


def _table(ways: Sequence[Way]) -> str:
    sizes = sorted({size for way in ways for size in way.memory})
    heads = ["devices", "layout", *(f"{size}" for size in sizes), "time", "cost"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    rows = []
    before = ""
    for way in ways:
        first = escape(way.devices) if way.devices != before else ""
        cells = [_cell(way, size) for size in sizes]
        cells += [escape(way.time), escape(way.cost)] if first else ["", ""]
        kind = ' class="kind"' if first else ""
        columns = "".join(f"<td>{cell}</td>" for cell in [escape(way.layout), *cells])
        rows.append(f'<tr{kind}><th scope="row">{first}</th>{columns}</tr>')
        before = way.devices
    told = (
        '<p class="note">Columns of numbers: gigabytes on each device with so many sequences at a time. '
        '<span class="room largest" style="--share:50%">outlined</span> is the largest that fits, '
        '<span class="room taken">coloured</span> what the plan takes, '
        '<span class="room over">struck out</span> does not fit.</p>'
    )
    table = f'<table class="planned"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>{told}'


def _cell(way: Way, size: int) -> str:
    if size not in way.memory:
        return ""
    taken = way.memory[size]
    if taken > way.room:
        kind = " over"
    elif size == way.largest:
        kind = " taken" if way.taken else " largest"
    else:
        kind = ""
    share = min(100.0, 100 * taken / way.room)
    title = f"{taken / 1e9:,.1f} of {way.room / 1e9:,.1f} GB"
    return f'<span class="room{kind}" style="--share:{share:.0f}%" title="{escape(title)}">{taken / 1e9:,.1f}</span>'
