"""How the reading is cut into tasks: large files into pieces, small ones into groups. The result does not depend on it.

JSON lines are cut at byte ranges, parquet at its row groups, so that many processes read one large file and a stopped one loses little.
A text file is one document, and what is packed can only be read from its beginning: those stay whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from daybreak.data.documents import Unit
from daybreak.data.readers import PACKED

PIECE_BYTES = 64_000_000
MOST_PARTS = 4096
"""Of a corpus of any size: beyond, the groups grow."""
MOST_UNITS = 10_000
"""In one group, which travels to a worker in one message."""


def pieces(unit: Unit) -> list[Unit]:
    """A unit in pieces of at most PIECE_BYTES, or alone if it is small or cannot be cut. They follow from its size alone."""
    can_be_cut = unit.kind in ("parquet", "hub") or (unit.kind == "jsonl" and not unit.path.endswith(PACKED))
    count = -(-unit.size // PIECE_BYTES) if can_be_cut else 1
    if count <= 1:
        return [unit]
    bounds = [unit.size * number // count for number in range(count + 1)]
    return [dataclasses.replace(unit, shard=n, shards=count, size=bounds[n + 1] - bounds[n]) for n in range(count)]


def grouped(units: Sequence[Unit]) -> list[list[Unit]]:
    """The pieces of all units, small ones together: neither a million files nor a corpus of petabytes make a million parts."""
    size = sum(unit.size for unit in units)
    limit = max(min(PIECE_BYTES, max(1_000_000, size // 64)), size // MOST_PARTS)
    groups: list[list[Unit]] = []
    held = 0
    for unit in units:
        for piece in pieces(_placed(unit)):
            if not groups or held + piece.size > limit or len(groups[-1]) >= MOST_UNITS or piece.kind == "hf":  # of unknown size
                groups.append([])
                held = 0
            groups[-1].append(piece)
            held += piece.size
    return groups


def _placed(unit: Unit) -> Unit:
    """With its whole path: a worker elsewhere may stand in another folder."""
    return unit if unit.kind in ("hf", "hub") else dataclasses.replace(unit, path=str(Path(unit.path).absolute()))
