"""The first stage of `prepare`: every unit's documents as sorted parts on disk, merged where they are many.

    DIR/.prepare/read/part-000000     one for each group of units (see `pieces`)
    DIR/.prepare/merged-1/...         64 runs as one, while there are more than MOST_RUNS
    DIR/.prepare/parts.json           which parts hold all documents in the end

Disk: the text once, compressed, and while parts are merged those that are being merged twice. What is merged is removed at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from daybreak.data.documents import Unit
from daybreak.data.pieces import grouped
from daybreak.data.readers import read
from daybreak.data.sorting import SortedDocuments, forget, is_whole, merge_parts, writing_sorted
from daybreak.data.workers import Engine
from daybreak.files import read_json, write_json

TOLD_BYTES = 4_000_000
"""Progress is told about this often."""
MOST_RUNS = 1024
"""From how many places a bucket may be gathered: about 100 GB of text; a corpus with more runs has them merged first."""
MERGED_RUNS = 64
"""How many runs become one."""


def read_units(units: Sequence[Unit], work: Path, seed: int, pool: Engine) -> Iterator[tuple[int, int | None]]:
    """Reads what has not been read yet. Yields how many bytes of the sources are read, and of how many (None if unknown)."""
    groups = grouped(units)
    size = sum(unit.size for unit in units)
    total = size if all(unit.size or unit.kind != "hf" for unit in units) else None
    folder = work / "read"
    folder.mkdir(exist_ok=True)
    targets = [folder / f"part-{number:06d}" for number in range(len(groups))]
    waiting = [(group, target, seed) for group, target in zip(groups, targets, strict=True) if not is_whole(target)]
    done = size - sum(unit.size for group, _, _ in waiting for unit in group)
    yield done, total
    for amount in pool.map(read_group, waiting):
        done += amount
        yield done, total


def read_group(units: Sequence[Unit], target: Path, seed: int) -> Iterator[int]:
    """A task: writes the documents of some units as one sorted part, and yields how many of their bytes it has read."""
    if is_whole(target):
        yield sum(unit.size for unit in units)
        return
    skips: Counter[str] = Counter()
    told = finished = 0
    with writing_sorted(target, seed, skips) as writer:
        for unit in units:
            since = 0
            for document in read(unit, skips):
                since += writer.add(document.text)
                beyond = finished + unit.size  # a compressed unit holds more text than it has bytes
                if since > TOLD_BYTES and (told + since < beyond or not unit.size):
                    yield since
                    told += since
                    since = 0
            finished = max(told, finished + unit.size)
            if finished - told > TOLD_BYTES and unit is not units[-1]:
                yield finished - told
                told = finished
    yield finished - told  # told when the part is whole


def merge(work: Path, pool: Engine) -> Iterator[tuple[int, int]]:
    """Merges parts until they have few enough runs. Yields how many bytes of text are merged, and of how many, if any need to be."""
    path = work / "parts.json"
    if path.exists():
        return
    parts = [row.with_suffix("") for row in sorted((work / "read").glob("part-*.json"))]
    level = 0
    while groups := _merged_together(parts):
        level += 1
        folder = work / f"merged-{level}"
        folder.mkdir(exist_ok=True)
        targets = [folder / f"part-{number:06d}" for number in range(len(groups))]
        yield from _merge_level(groups, targets, pool)
        parts = targets
    write_json(path, [part.relative_to(work).as_posix() for part in parts])


def _merged_together(parts: Sequence[Path]) -> list[list[Path]]:
    """Neighbours with MERGED_RUNS runs together; none if there are few runs."""
    runs = [len(read_json(part.with_suffix(".json"))["runs"]) for part in parts]
    if sum(runs) <= MOST_RUNS:
        return []
    groups: list[list[Path]] = [[]]
    held = 0
    for part, count in zip(parts, runs, strict=True):
        if held >= MERGED_RUNS:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += count
    return groups


def _merge_level(groups: Sequence[Sequence[Path]], targets: Sequence[Path], pool: Engine) -> Iterator[tuple[int, int]]:
    sizes = [sum(read_json(part.with_suffix(".json"))["text_bytes"] for part in group) for group in groups]
    left = [(group, target) for group, target in zip(groups, targets, strict=True) if not is_whole(target)]
    total = sum(sizes)
    done = total - sum(size for size, target in zip(sizes, targets, strict=True) if not is_whole(target))
    safe = 0
    yield done, total
    for amount in pool.map(merge_parts, left):
        done += amount
        safe = _forget_merged(groups, targets, safe)
        yield done, total
    _forget_merged(groups, targets, safe)


def _forget_merged(groups: Sequence[Sequence[Path]], targets: Sequence[Path], start: int) -> int:
    """Removes what has been merged, from group `start` to the first that is not whole; returns that one."""
    while start < len(targets) and is_whole(targets[start]):
        for part in groups[start]:
            forget(part)
        start += 1
    return start


def open_documents(work: Path) -> SortedDocuments:
    """All documents, once they are merged."""
    return SortedDocuments(work / name for name in read_json(work / "parts.json"))
