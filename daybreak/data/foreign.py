"""Token shards that others published, opened as they are: what they say themselves makes a manifest, which stays in memory.

    llm.c           fineweb_train_000001.bin    fineweb_val_000000.bin      uint16, or uint32 with a tokenizer beside them
    build-nanogpt   edufineweb_train_000001.npy edufineweb_val_000000.npy
    nanoGPT         train.bin                   val.bin                     no header

Their tokenizer is that of the folder `tokenizer/` beside them; where there is none, GPT-2's is assumed. Documents and the size of the
text are not counted: that would take a pass over all of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from daybreak.data.manifest import MANIFEST, Manifest, ManifestProblem, Split, load_manifest
from daybreak.data.shards import DTYPES, HEADER_BYTES, ShardProblem, TokenStream, read_shard
from daybreak.data.tokenizer import Tokenizer, load_tokenizer

# Ours, train-000000.bin, are none of theirs: without their manifest something was lost, and is told.
_NAME = re.compile(r"(?:(?P<text>.+)[_.-])?(?P<split>train|val)(?:_\d+)?\.(?:bin|npy)")

_BLOCK = 2048
_BLOCKS = 8
_BLOCK_EVERY = 1 << 23
"""The sample of a shard, in tokens: blocks of how many, at least how many blocks, and over how many tokens there is one."""

_SCAN = 1 << 22
"""How many tokens a check reads at once."""


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds shards of others, and nothing that `daybreak data prepare` has begun."""
    if not folder.is_dir() or (folder / MANIFEST).exists() or (folder / ".prepare").exists():
        return False
    return bool(_found(folder))


def open_manifest(folder: Path) -> Manifest:
    """The manifest of a data folder: what `daybreak data prepare` wrote, or one that is made here for shards of others.

    Its fingerprint is then a sha256 over the names, sizes and first 1,024 bytes of the files, over some 4 KiB of every 16 MiB of tokens
    (of a shard below 32 KiB all), and over the tokenizer. It notices shards that are missing, added, cut, renamed, in another order, or
    made anew from another text or with another tokenizer; it cannot notice a change of a few tokens between the places that it reads,
    nor can anything else, as these files come without checksums. Raises ManifestProblem, ShardProblem or TokenizerProblem in one line.
    """
    folder = Path(folder)
    if not is_foreign(folder):
        return load_manifest(folder)
    text, names = _shards(folder)
    streams = {split: TokenStream([folder / name for name in names[split]]) for split in names}
    kind = _one_kind({path: _kind_of(path, stream.dtype) for stream in streams.values() for path in stream.paths})
    tokenizer = _tokenizer(folder, kind)
    files: dict[str, dict[str, Any]] = {}
    digest = hashlib.sha256()
    for stream in streams.values():
        for path, tokens in zip(stream.paths, stream.shards, strict=True):
            sampled, largest = _sample(path, tokens)
            if largest >= tokenizer.vocab_size:
                raise _unknown_id(path, largest, tokenizer, folder)
            files[path.name] = {"bytes": path.stat().st_size}
            digest.update(f"{path.name} {files[path.name]['bytes']} {sampled}\n".encode())
    digest.update(tokenizer.fingerprint.encode())
    splits = {
        split: Split(documents=None, tokens=len(stream), text_bytes=None, shards=tuple(names[split])) for split, stream in streams.items()
    }
    return Manifest(
        sources=(
            {"source": text or folder.name, "format": kind, "files": len(files), "bytes": sum(row["bytes"] for row in files.values())},
        ),
        options={},
        tokenizer={
            "name": tokenizer.name,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eot": tokenizer.eot,
            "assumed": not _own_tokenizer(folder),
        },
        split="published",
        documents=None,
        duplicates=0,
        skipped={},
        train=splits["train"],
        val=splits["val"],
        files=files,
        fingerprint=digest.hexdigest(),
        versions={},
        folder=folder,
    )


def open_tokenizer(manifest: Manifest) -> Tokenizer:
    """The tokenizer of a data folder."""
    return load_tokenizer("gpt2" if manifest.tokenizer.get("assumed") else manifest.folder / "tokenizer")


def assumption(folder: Path) -> str:
    """What is taken for granted of a data folder, in one line for the person; "" if it says all itself, or cannot be opened."""
    if not is_foreign(folder) or _own_tokenizer(folder):
        return ""
    try:
        _, names = _shards(folder)
        path = folder / names["train"][0]
        _refuse_others_than_gpt2(folder, _kind_of(path, read_shard(path).dtype))
    except (ManifestProblem, ShardProblem):  # told by whoever opens it
        return ""
    return (
        f"{folder}: its shards do not say their tokenizer, GPT-2's is assumed; the tokenizer.json of another goes into {folder}/tokenizer"
    )


def checks(folder: Path) -> Iterator[tuple[str, str]]:
    """For each shard of others its name and what is wrong with it, or "": a size that is not its header's, an id that is no token."""
    _, names = _shards(folder)
    paths = [folder / name for split in names.values() for name in split]
    kinds, problems = {}, {}
    for path in paths:
        try:
            kinds[path] = _kind_of(path, read_shard(path).dtype)
        except ShardProblem as problem:
            problems[path] = str(problem)
    tokenizer = _tokenizer(folder, _one_kind(kinds) if kinds else "")
    for path in paths:
        yield path.name, problems.get(path) or _worst_id(path, tokenizer, folder)


def _shards(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """What the text is called, and the names of its shards for train and val, in order."""
    found = _found(folder)
    texts = sorted({match["text"] or "" for match in found})
    if len(texts) > 1:
        named = " and ".join(text or "train.bin and val.bin" for text in texts)
        raise ManifestProblem(f"{folder}: wanted the shards of one text, came those of {named}; put each into a folder of its own")
    names = {split: [match.string for match in found if match["split"] == split] for split in ("train", "val")}
    for split in ("train", "val"):
        if not names[split]:
            other = found[0]
            wanted = other.string[: other.start("split")] + split + other.string[other.end("split") :]
            raise ManifestProblem(
                f"{folder}: wanted shards to train on and to validate on, found {other.string} but none such as {wanted}; "
                "get those too, or give one of the others that name"
            )
    return texts[0], names


def _found(folder: Path) -> list[re.Match[str]]:
    """The names in a folder that are those of shards, in order; hidden ones are some program's own."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return [match for name in names if (match := _NAME.fullmatch(name))]


def _one_kind(kinds: dict[Path, str]) -> str:
    """The kind that all shards have. Raises ManifestProblem if there are several."""
    first, kind = next(iter(kinds.items()))
    for path, other in kinds.items():
        if other != kind:
            raise ManifestProblem(
                f"{path.parent}: wanted shards of one kind, {first.name} is {kind} and {path.name} is {other}; "
                "put each kind into a folder of its own"
            )
    return kind


def _kind_of(path: Path, dtype: np.dtype[Any]) -> str:
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(b"\x93NUMPY"):
        return f"build-nanogpt's .npy of {dtype.name}"
    if len(start) == 8 and tuple(np.frombuffer(start, "<i4").tolist()) in DTYPES:
        return f"llm.c's of {dtype.name}"
    return f"nanoGPT's of {dtype.name}"


def _own_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer").is_dir()


def _tokenizer(folder: Path, kind: str) -> Tokenizer:
    if _own_tokenizer(folder):
        return load_tokenizer(folder / "tokenizer")
    _refuse_others_than_gpt2(folder, kind)
    return load_tokenizer("gpt2")


def _refuse_others_than_gpt2(folder: Path, kind: str) -> None:
    """Raises ManifestProblem for tokens that are known not to be GPT-2's."""
    if (folder / "meta.pkl").exists():
        raise ManifestProblem(
            f"{folder}: holds nanoGPT's tokens of characters, whose meaning is in meta.pkl, a pickle, which is not opened here as it can "
            "run code; prepare the text itself: `daybreak data prepare input.txt --tokenizer chars --out DIR`"
        )
    if kind.endswith("uint32"):
        raise ManifestProblem(
            f"{folder}: its tokens have 32 bits, unlike GPT-2's; put the tokenizer.json that they were made with into {folder}/tokenizer"
        )


def _sample(path: Path, tokens: np.ndarray[Any, Any]) -> tuple[str, int]:
    """The sha256 of a shard's beginning and of blocks spread evenly over it, its last tokens among them; and the largest id in those."""
    count = max(_BLOCKS, len(tokens) // _BLOCK_EVERY)
    whole = len(tokens) <= count * _BLOCK
    starts = [0] if whole else np.linspace(0, len(tokens) - _BLOCK, count).astype(np.int64).tolist()
    first = path.stat().st_size - tokens.nbytes
    largest = 0
    with open(path, "rb", buffering=0) as file:  # read, as the system reads megabytes around a mapped page that is touched
        if sys.platform == "linux":
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        digest = hashlib.sha256(file.read(HEADER_BYTES))
        for start in starts:
            file.seek(first + start * tokens.itemsize)
            block = file.read((len(tokens) if whole else _BLOCK) * tokens.itemsize)
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, tokens.dtype).max(initial=0)))
    return digest.hexdigest(), largest


def _worst_id(path: Path, tokenizer: Tokenizer, folder: Path) -> str:
    tokens = read_shard(path)
    largest = max((int(tokens[start : start + _SCAN].max()) for start in range(0, len(tokens), _SCAN)), default=0)
    return str(_unknown_id(path, largest, tokenizer, folder)) if largest >= tokenizer.vocab_size else ""


def _unknown_id(path: Path, largest: int, tokenizer: Tokenizer, folder: Path) -> ManifestProblem:
    where = f"the tokenizer in {folder}/tokenizer" if _own_tokenizer(folder) else "GPT-2's tokenizer, which is assumed,"
    way = f"put the tokenizer.json that the tokens were made with into {folder}/tokenizer, or get the shards again"
    return ManifestProblem(f"{path}: wanted ids below {tokenizer.vocab_size:,} as {where} has them, came {largest:,}; {way}")
