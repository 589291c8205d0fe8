"""The manifest of a data folder: what is in it, from what it was made, and the checksum of every file, its own included."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daybreak.files import FileProblem, json_sha256, read_json, write_bytes

MANIFEST = "manifest.json"
FORMAT = 1


class ManifestProblem(ValueError):
    """A folder that holds no prepared data, or whose manifest is damaged or of another version; the message names it."""


@dataclass(frozen=True)
class Split:
    """One of the two parts of the data."""

    documents: int | None
    """How many documents begin in it; None where others wrote it and nobody counted."""
    tokens: int
    """How many tokens, one end-of-text token before each document included."""
    text_bytes: int | None
    """The text as UTF-8; None likewise."""
    shards: tuple[str, ...]
    """The files that hold the tokens, in order."""


@dataclass(frozen=True)
class Manifest:
    """What a data folder's manifest.json says. Two folders with equal `fingerprint` hold the same tokens."""

    sources: tuple[dict[str, Any], ...]
    """For each source as it was named: files, bytes, and what else identifies it."""
    options: dict[str, Any]
    """What was asked for: everything that changes the result."""
    tokenizer: dict[str, Any]
    """`name`, `fingerprint`, `vocab_size`, `eot`."""
    split: str
    """How validation was chosen: "document" (by the hash of each), "tail" (the end of each), or "published" (by others)."""
    documents: int | None
    """Different documents, in both splits together; None where nobody counted."""
    duplicates: int
    """Exact copies that were left out."""
    skipped: dict[str, int]
    """What else was left out, or repaired, by reason."""
    train: Split
    val: Split
    files: dict[str, dict[str, Any]]
    """`bytes` and `sha256` of every file; of others' shards `bytes` alone."""
    fingerprint: str
    """sha256 over the shards' sha256 and the tokenizer's fingerprint; of others' shards what `foreign.open_manifest` says."""
    versions: dict[str, str]
    format: int = FORMAT
    folder: Path = field(default=Path(), compare=False)
    """Where it was loaded from; not written."""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file, without its checksum."""
        row = dataclasses.asdict(self)
        del row["folder"]
        return row

    def shard_paths(self, split: str) -> list[Path]:
        """The shards of "train" or "val", in order: what `TokenStream` takes."""
        return [self.folder / name for name in {"train": self.train, "val": self.val}[split].shards]


def data_fingerprint(files: dict[str, dict[str, Any]], tokenizer_fingerprint: str) -> str:
    """sha256 over the shards' sha256, in the order of their names, and the tokenizer's fingerprint."""
    lines = [f"{name} {files[name]['sha256']}" for name in sorted(files) if name.endswith(".bin")]
    return hashlib.sha256("\n".join([*lines, tokenizer_fingerprint]).encode()).hexdigest()


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes manifest.json with the checksum of its own content as the last key."""
    write_bytes(folder / MANIFEST, _serialized(manifest))


def _serialized(manifest: Manifest) -> bytes:
    row = manifest.to_dict()
    row["checksum"] = json_sha256(row)
    return (json.dumps(row, indent=2, ensure_ascii=False) + "\n").encode()


def load_manifest(folder: Path) -> Manifest:
    """Reads DATA_DIR/manifest.json. Raises ManifestProblem if there is none, or it is damaged or of a version that is not known."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        half = (folder / ".prepare").is_dir()
        why = (
            "its preparation was interrupted; run `daybreak data prepare` again with the same options"
            if half
            else "make it with `daybreak data prepare`"
        )
        raise ManifestProblem(f"{folder}: wanted a folder of prepared data, found no {MANIFEST} in it; {why}")
    try:
        row = read_json(path)
    except FileProblem as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(row, dict):
        raise _damaged(path, "it is no JSON object")
    if row.get("format", FORMAT) != FORMAT:
        raise ManifestProblem(f"{path}: has format {row['format']}, this version reads {FORMAT}; prepare the data again")
    known = [key.name for key in dataclasses.fields(Manifest) if key.name != "folder"]
    if lacking := [name for name in (*known, "checksum") if name not in row]:
        raise _damaged(path, f"it lacks {', '.join(lacking)}")
    try:
        checksum = row.pop("checksum")
        if checksum != json_sha256(row):
            raise ManifestProblem(f"{path}: its content does not match its checksum: edited or damaged; prepare the data again")
        splits = {name: Split(**{**row.pop(name), "shards": tuple(row_shards)}) for name, row_shards in _shards(row)}
        return Manifest(**{**row, **splits, "sources": tuple(row["sources"])}, folder=folder)
    except (KeyError, TypeError, AttributeError):
        raise _damaged(path, "its values are of another kind") from None


def _damaged(path: Path, how: str) -> ManifestProblem:
    return ManifestProblem(f"{path}: wanted the manifest of prepared data, it is damaged ({how}); prepare the data again")


def _shards(row: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [(name, row[name]["shards"]) for name in ("train", "val")]


def manifest_damage(manifest: Manifest) -> bool:
    """Whether the file differs, by as little as a space, from what `save_manifest` writes."""
    return (manifest.folder / MANIFEST).read_bytes() != _serialized(manifest)
