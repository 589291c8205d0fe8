"""The last step of `prepare`: buckets of tokens become shards, and the manifest is written when all else is whole."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.data.manifest import Manifest, Split, data_fingerprint, save_manifest
from daybreak.data.plan import WORK, Request, UselessText
from daybreak.data.readers import Unit
from daybreak.data.shards import HEADER_BYTES, ShardWriter
from daybreak.data.sources import PYTHON_SOURCES
from daybreak.data.splitting import Choice
from daybreak.files import fingerprints, need_space, read_json, write_bytes

FEWEST_TOKENS = 64
"""Below this in train, a folder is refused as a mistake."""


def assemble(out: Path, request: Request, listed: dict[str, list[Unit]], choice: Choice, skips: Counter[str]) -> Iterator[tuple[int, int]]:
    """Completes the folder. Yields how many tokens are written, of how many. Raises UselessText if there are too few."""
    work = out / WORK
    buckets = sorted((work / "tokens").glob("*.json"))
    rows = [read_json(path) for path in buckets]
    figures = {
        name: {key: sum(row[name][key] for row in rows) for key in ("documents", "tokens", "text_bytes")} for name in ("train", "val")
    }
    tokenizer = read_json(work / "tokenizer.done")
    _refuse_too_little(figures, request)
    total = sum(figure["tokens"] for figure in figures.values())
    need_space(out, 2 * total + HEADER_BYTES - sum(path.stat().st_size for path in out.glob("*.bin")))
    yield 0, total
    done = 0
    splits = {}
    for name in ("train", "val"):
        with ShardWriter(out, name, request.shard_tokens) as writer:
            for path in buckets:
                tokens = np.fromfile(path.with_suffix(f".{name}"), "<u2")
                writer.write(tokens)
                done += len(tokens)
                yield done, total
        splits[name] = Split(**figures[name], shards=tuple(path.name for path in writer.paths))
    for path in (work / "tokenizer").iterdir():
        write_bytes(out / "tokenizer" / path.name, path.read_bytes())
    names = [name for split in splits.values() for name in split.shards]
    names += sorted(f"tokenizer/{path.name}" for path in (out / "tokenizer").iterdir() if not path.name.startswith("."))
    files = fingerprints(out, names)
    save_manifest(
        Manifest(
            sources=tuple(_about(source, units) for source, units in listed.items()),
            options=request.options(),
            tokenizer=tokenizer,
            split=choice.split,
            documents=choice.documents,
            duplicates=choice.duplicates,
            skipped=dict(sorted(skips.items())),
            train=splits["train"],
            val=splits["val"],
            files=files,
            fingerprint=data_fingerprint(files, tokenizer["fingerprint"]),
            versions={"python": platform.python_version(), **_versions("daybreak", "numpy", "tiktoken", "tokenizers")},
        ),
        out,
    )


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
