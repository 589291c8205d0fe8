"""The last stage of `prepare`: stretches of tokens become shards, and the manifest is written when all else is whole.

Each shard is a task of its own, written with its checksum; a stretch's tokens go as soon as all shards that hold them are whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daybreak.data.documents import Unit
from daybreak.data.manifest import Manifest, Split, data_fingerprint, save_manifest
from daybreak.data.plan import WORK, Request, UselessText
from daybreak.data.shards import HEADER_BYTES, header
from daybreak.data.sources import PYTHON_SOURCES
from daybreak.data.splitting import Choice
from daybreak.data.workers import Engine
from daybreak.files import fingerprints, need_space, read_json, replacing, write_bytes, write_json

FEWEST_TOKENS = 64
"""Below this in train, a folder is refused as a mistake."""


@dataclass(frozen=True)
class Shard:
    """A shard that is to be written: where, and from which stretches of tokens, each with its first token and their number."""

    target: Path
    tokens: int
    pieces: tuple[tuple[Path, int, int], ...]

    @property
    def row(self) -> Path:
        """Its checksum; written last, so its presence says that the shard is whole."""
        return self.target.parent / WORK / "shards" / f"{self.target.name}.json"


def assemble(
    out: Path, request: Request, listed: dict[str, list[Unit]], choice: Choice, skips: Counter[str], duplicates: int, pool: Engine
) -> Iterator[tuple[int, int]]:
    """Completes the folder. Yields how many tokens are written, of how many. Raises UselessText if there are too few.

    `duplicates`: those that reading left out already.
    """
    work = out / WORK
    stretches = sorted((work / "tokens").glob("*.json"))
    rows = [read_json(path) for path in stretches]
    figures = {
        name: {key: sum(row[name][key] for row in rows) for key in ("documents", "tokens", "text_bytes")} for name in ("train", "val")
    }
    tokenizer = read_json(work / "tokenizer.done")
    _refuse_too_little(figures, request)
    shards = {
        name: _cut(
            out.absolute(),
            name,
            [(path.with_suffix(f".{name}"), row[name]["tokens"]) for path, row in zip(stretches, rows, strict=True)],
            request.shard_tokens,
        )
        for name in ("train", "val")
    }
    yield from _write(shards, out, pool)
    splits = {name: Split(**figures[name], shards=tuple(shard.target.name for shard in shards[name])) for name in ("train", "val")}
    for path in (work / "tokenizer").iterdir():
        write_bytes(out / "tokenizer" / path.name, path.read_bytes())
    files = {shard.target.name: read_json(shard.row) for part in shards.values() for shard in part}
    files |= fingerprints(out, sorted(f"tokenizer/{path.name}" for path in (out / "tokenizer").iterdir() if not path.name.startswith(".")))
    save_manifest(
        Manifest(
            sources=tuple(_about(source, units) for source, units in listed.items()),
            options=request.options(),
            tokenizer=tokenizer,
            split=choice.split,
            documents=sum(row["distinct"] for row in rows),
            duplicates=duplicates + sum(row["duplicates"] for row in rows),
            skipped=dict(sorted(skips.items())),
            train=splits["train"],
            val=splits["val"],
            files=files,
            fingerprint=data_fingerprint(files, tokenizer["fingerprint"]),
            versions={"python": platform.python_version(), **_versions("daybreak", "numpy", "tiktoken", "tokenizers")},
        ),
        out,
    )


def _cut(folder: Path, name: str, stretches: Sequence[tuple[Path, int]], shard_tokens: int) -> list[Shard]:
    """The shards of one split: each of `shard_tokens`, the last shorter. `stretches`: files of tokens, and how many each holds."""
    shards: list[Shard] = []
    pieces: list[tuple[Path, int, int]] = []
    held = 0

    def close() -> None:
        nonlocal pieces, held
        shards.append(Shard(folder / f"{name}-{len(shards):06d}.bin", held, tuple(pieces)))
        pieces, held = [], 0

    for path, tokens in stretches:
        start = 0
        while start < tokens:
            count = min(tokens - start, shard_tokens - held)
            pieces.append((path, start, count))
            start += count
            held += count
            if held == shard_tokens:
                close()
    if held:
        close()
    return shards


def _write(shards: dict[str, list[Shard]], out: Path, pool: Engine) -> Iterator[tuple[int, int]]:
    """Writes the shards that are not whole. Yields how many tokens are written, of how many."""
    total = sum(shard.tokens for part in shards.values() for shard in part)
    waiting = [shard for part in shards.values() for shard in part if not shard.row.exists()]
    done = total - sum(shard.tokens for shard in waiting)
    largest = max((shard.tokens for shard in waiting), default=0)
    need_space(out, min(2 * (total - done), 2 * largest * (pool.count + 1)) + HEADER_BYTES * len(waiting))
    yield done, total
    safe = dict.fromkeys(shards, 0)
    for amount in pool.map(write_shard, [(shard,) for shard in waiting]):
        done += amount
        for name, part in shards.items():
            safe[name] = _forget_written(part, safe[name])
        yield done, total


def _forget_written(shards: Sequence[Shard], start: int) -> int:
    """Removes the stretches that end in whole shards, from shard `start` to the first that is not whole; returns that one."""
    while start < len(shards) and shards[start].row.exists():
        following = shards[start + 1].pieces[0][0] if start + 1 < len(shards) else None
        for path, _, _ in shards[start].pieces:
            if path != following:
                path.unlink(missing_ok=True)
        start += 1
    return start


def write_shard(shard: Shard) -> Iterator[int]:
    """A task: writes a shard and its checksum, and yields how many tokens it holds."""
    if not shard.row.exists():
        digest = hashlib.sha256()
        with replacing(shard.target) as file:
            for content in _content(shard):
                digest.update(content)
                file.write(content)
        write_json(shard.row, {"bytes": HEADER_BYTES + 2 * shard.tokens, "sha256": digest.hexdigest()})
    yield shard.tokens


def _content(shard: Shard) -> Iterator[bytes]:
    yield header(shard.tokens)
    for path, start, count in shard.pieces:
        with open(path, "rb") as tokens:
            tokens.seek(2 * start)
            left = 2 * count
            while left:
                content = tokens.read(min(left, 1 << 22))
                assert content, f"{path} is shorter than its row says"
                left -= len(content)
                yield content


def _refuse_too_little(figures: dict[str, dict[str, int]], request: Request) -> None:
    train, val = figures["train"]["tokens"], figures["val"]["tokens"]
    if train < FEWEST_TOKENS or val < 2:
        raise UselessText(
            f"{' '.join(request.sources)}: wanted at least {FEWEST_TOKENS} tokens for train and 2 for val, came {train:,} and {val:,}; "
            "add text or choose a larger --val-fraction"
        )


def _about(source: str, units: Sequence[Unit]) -> dict[str, Any]:
    """A source's row in the manifest: how much, and a digest over names and sizes, the same on every machine."""
    base = Path(source) if Path(source).is_dir() else None
    names = [Path(unit.path).relative_to(base).as_posix() if base and Path(unit.path).is_relative_to(base) else unit.name for unit in units]
    listing = json.dumps([[name, unit.size] for name, unit in zip(names, units, strict=True)])
    row: dict[str, Any] = {"source": source, "files": len(units), "bytes": sum(unit.size for unit in units)}
    row["listing_sha256"] = hashlib.sha256(listing.encode()).hexdigest()
    if source in PYTHON_SOURCES:
        row["packages"] = sorted({unit.name.partition(": ")[0] for unit in units})
    if source.startswith("hf:"):
        row["revision"] = units[0].stamp
    return row


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
