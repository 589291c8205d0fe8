"""Whether a data folder is still what was written, and what stands in it: figures and decoded documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daybreak.data import foreign
from daybreak.data.manifest import MANIFEST, Manifest, ManifestProblem, data_fingerprint, load_manifest, manifest_damage
from daybreak.data.shards import ShardProblem, TokenStream, read_shard
from daybreak.files import mismatches

_FAR = 1 << 22
"""How many tokens a document is looked for backwards."""


def verify(folder: Path) -> list[str]:
    """What is wrong with a data folder, one sentence per finding; an empty list means that every byte is as it was written.

    Token shards of others come without checksums: of them it means that every size is its header's and every id a token. Raises
    ManifestProblem if there are neither a manifest to compare with nor shards of others.
    """
    return [problem for _, problem in checks(folder) if problem]


def checks(folder: Path) -> Iterator[tuple[str, str]]:
    """For each file as it is checked its name and what is wrong with it, or "". Raises as `verify` does."""
    folder = Path(folder)
    if foreign.is_foreign(folder):
        yield from foreign.checks(folder)
        return
    if not (folder / MANIFEST).is_file():
        load_manifest(folder)  # raises, and says why
    try:
        manifest = load_manifest(folder)
    except ManifestProblem as damage:
        yield MANIFEST, str(damage)
        return
    yield MANIFEST, f"{MANIFEST}: its bytes changed" if manifest_damage(manifest) else ""
    for name, row in manifest.files.items():
        problem = " ".join(mismatches(folder, {name: row}))
        if not problem and name.endswith(".bin"):
            problem = _shard_problem(folder / name)
        yield name, problem
    for kind, split in (("train", manifest.train), ("val", manifest.val)):
        unlisted = sorted({path.name for path in folder.glob(f"{kind}-*.bin")} - set(split.shards))
        yield from ((name, f"{name}: is not in the manifest; delete it") for name in unlisted)
    if data_fingerprint(manifest.files, str(manifest.tokenizer["fingerprint"])) != manifest.fingerprint:
        yield MANIFEST, f"{MANIFEST}: its fingerprint does not follow from its files"


def _shard_problem(path: Path) -> str:
    try:
        read_shard(path)
    except ShardProblem as problem:
        return str(problem)
    return ""


@dataclass(frozen=True)
class Overview:
    """The figures of a data folder, and some documents of it."""

    manifest: Manifest
    tokens: int
    text_bytes: int | None
    """None for shards of others, which nobody counted."""
    bytes_per_token: float | None
    """Of text; end-of-text tokens are not counted."""
    samples: dict[str, list[str]]
    """The beginnings of some documents of "train" and of "val"."""


def show(folder: Path, documents: int = 2, characters: int = 600) -> Overview:
    """The figures of a folder, and the beginnings of some documents of each split.

    Raises ManifestProblem, ShardProblem or the tokenizer's problem if the folder is not whole.
    """
    manifest = foreign.open_manifest(folder)
    splits = (manifest.train, manifest.val)
    tokens = sum(split.tokens for split in splits)
    counted = [(split.documents, split.text_bytes) for split in splits if split.documents is not None and split.text_bytes is not None]
    text_bytes = sum(size for _, size in counted) if len(counted) == len(splits) else None
    text_tokens = tokens - sum(documents for documents, _ in counted)
    samples = {name: sample_documents(folder, name, documents, characters) for name in ("train", "val")}
    return Overview(manifest, tokens, text_bytes, None if text_bytes is None else text_bytes / max(1, text_tokens), samples)


def sample_documents(folder: Path, split: str, documents: int, characters: int, seed: int = 0) -> list[str]:
    """The first `characters` of some documents of "train" or "val", decoded from its tokens; different ones as far as there are.

    A document is chosen by a random token of it, so that long ones come more often, as they do in training.
    """
    manifest = foreign.open_manifest(folder)
    tokenizer = foreign.open_tokenizer(manifest)
    stream = TokenStream(manifest.shard_paths(split))
    random = np.random.default_rng(seed)
    starts: dict[int, None] = {}
    for _ in range(20 * documents):
        if len(starts) < documents and (start := _document_start(stream, int(random.integers(len(stream))), tokenizer.eot)) < len(stream):
            starts[start] = None
    texts = []
    for start in starts:
        tokens = stream.read(start, min(4 * characters, len(stream) - start))  # a character has at most four tokens: one per byte
        ends = np.flatnonzero(tokens == tokenizer.eot)
        texts.append(tokenizer.decode(tokens[: ends[0]] if len(ends) else tokens)[:characters])
    return texts


def _document_start(stream: TokenStream, position: int, eot: int) -> int:
    """Where the text of the document that holds `position` begins: after the nearest end-of-text token up to there.

    In a text without such tokens, as others have them, at the beginning, or not far before `position` if that is far away.
    """
    end = position + 1
    first = max(0, end - _FAR)
    while end > first:
        begin = max(first, end - 65_536)
        found = np.flatnonzero(stream.read(begin, end - begin) == eot)
        if len(found):
            return begin + int(found[-1]) + 1
        end = begin
    return first
