"""From sources to a data folder: read, shuffle, drop duplicates, split, tokenize, write shards. Parallel and restartable.

    for progress in prepare(["books/", "python:docs"], Path("data/mine"), tokenizer="bpe", vocab_size=8192): print(progress)

When the generator ends, the folder is complete: `train-*.bin`, `val-*.bin`, `tokenizer/` and, written last, `manifest.json`. The same
request gives the same bytes with any number of processes, and however often it was killed and started again.

1. read       every unit's documents go to DIR/.prepare/read, sorted by a keyed hash: that order is the shuffle
2. tokenizer  bpe or chars is learned from the first documents in that order
3. tokenize   bucket by bucket of hashes: duplicates dropped, validation chosen, each document written as [end of text] + tokens
4. write      the buckets one after the other, cut into shards; then the manifest
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daybreak.data.assembly import assemble
from daybreak.data.manifest import Manifest, ManifestProblem, load_manifest
from daybreak.data.plan import LEARNED, NAMED, PLAN, WORK, PrepareProblem, Request, UselessText, clear, is_complete, locked, resume_or_start
from daybreak.data.readers import PACKED, SourceProblem, Unit, read
from daybreak.data.shards import ShardProblem, check_vocabulary
from daybreak.data.sorting import SortedDocuments, writing_sorted
from daybreak.data.sources import units as units_of
from daybreak.data.splitting import Choice, choose_split
from daybreak.data.tokenizer import Tokenizer, load_tokenizer, train_bpe, train_chars
from daybreak.data.workers import WorkerProblem, Workers, usable_cores
from daybreak.files import need_space, read_json, replacing, sha256, write_json

__all__ = ["Manifest", "ManifestProblem", "PrepareProblem", "Progress", "SourceProblem", "load_manifest", "prepare"]

SAMPLE_BYTES = 50_000_000
"""From how much text bpe is learned; more hardly changes it."""
SMALL_BYTES = 3_000_000
"""Below this, starting processes costs more than they save."""
TOLD_BYTES = 4_000_000
"""Progress is told about this often."""


@dataclass(frozen=True)
class Progress:
    """How far a preparation is. `stage`: list, read, tokenizer, tokenize, write, done."""

    stage: str
    done: int
    total: int | None
    """None if unknown."""
    unit: str
    """What is counted: "bytes", "tokens", "documents", ..."""
    note: str = ""
    """A sentence for the reader, or empty."""


def prepare(
    sources: Sequence[str],
    out: Path,
    *,
    tokenizer: str = "bpe",
    vocab_size: int = 8192,
    val_fraction: float = 0.01,
    split: str = "auto",
    seed: int = 1337,
    workers: int | None = None,
    shard_tokens: int = 100_000_000,
    text_field: str = "text",
) -> Iterator[Progress]:
    """Prepares `sources` (see `sources`) in the folder `out` as it is iterated over; at the end the folder is complete.

    `tokenizer`: gpt2, bytes, bpe (learned, `vocab_size` tokens), chars (learned), or a tokenizer's folder. `split`: "document" takes each
    document into validation with the chance `val_fraction`; "tail" takes the end of every document, that share of its characters;
    "auto" chooses "tail" for few documents. `workers`: processes, default one per core. Run again with the same request it continues
    where it was, or finds that nothing is left to do.

    Raises PrepareProblem, SourceProblem, ShardProblem, FileProblem or the tokenizer's problem, all ValueErrors of one line; wrong options
    at once, a line for each. What was done stays for the next run.
    """
    learned_size = vocab_size if tokenizer == "bpe" else None
    wrong = [] if workers is None or workers >= 1 else [f"workers: wanted at least 1, came {workers}"]
    try:
        request = Request(tuple(sources), tokenizer, learned_size, val_fraction, split, seed, shard_tokens, text_field)
    except PrepareProblem as problem:
        raise PrepareProblem("\n".join([str(problem), *wrong])) from None
    if wrong:
        raise PrepareProblem(wrong[0])
    return _told_problems(request, Path(out), workers)


def _told_problems(request: Request, out: Path, workers: int | None) -> Iterator[Progress]:
    """`_prepare`, with what the disk and the system have to say made problems of one line."""
    try:
        yield from _prepare(request, out, workers)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PrepareProblem(f"{out}: the disk is full; free some space and run again: what is done is kept") from None
        raise PrepareProblem(f"{error.filename or out}: {error.strerror or error}; what is done is kept") from None
    except WorkerProblem as error:
        raise PrepareProblem(str(error)) from None


def _prepare(request: Request, out: Path, workers: int | None) -> Iterator[Progress]:
    known = None if request.tokenizer in LEARNED else load_tokenizer(request.tokenizer)
    if known is not None:
        check_vocabulary(known.vocab_size, request.tokenizer)
    fingerprint = known.fingerprint if known and request.tokenizer not in NAMED else None  # a name means one tokenizer for ever
    if is_complete(out, request, fingerprint):
        clear(out)  # of a process that was killed after its last file
        yield Progress("done", 1, 1, "folders", f"{out} is complete already: nothing to do")
        return
    yield Progress("list", 0, None, "units")
    skips: Counter[str] = Counter()
    listed = {source: units_of(source, text_field=request.text_field, skips=skips, outside=out) for source in request.sources}
    units = [unit for part in listed.values() for unit in part]
    yield Progress("list", len(units), len(units), "units")
    with locked(out), _removed_if_useless(out):
        if is_complete(out, request, fingerprint):  # by another process since
            yield Progress("done", 1, 1, "folders", f"{out} is complete already: nothing to do")
            return
        work = out / WORK
        listed = {source: [_kept_input(unit, work) for unit in part] for source, part in listed.items()}
        units = [unit for part in listed.values() for unit in part]
        note = resume_or_start(out, request, units, fingerprint)
        _open_documents.cache_clear()
        _tokenizers.clear()
        _need_space(out, units, request)
        small = sum(unit.size for unit in units) < SMALL_BYTES and not any(unit.kind == "hf" for unit in units)
        with Workers(1 if workers is None and small else workers or usable_cores()) as pool:
            yield from _read(units, work, request.seed, pool, note)
            documents = _open_documents(work)
            skips += documents.skips
            choice = choose_split(documents, request, work, skips)
            yield from _find_tokenizer(documents, choice, known, request, work)
            yield from _tokenize(documents, choice, work, pool)
        for done, total in assemble(out, request, listed, choice, skips):
            yield Progress("write", done, total, "tokens")
    clear(out)
    yield Progress("done", 1, 1, "folders")


@contextlib.contextmanager
def _removed_if_useless(out: Path) -> Iterator[None]:
    """If the work did not even begin, or cannot succeed, no trace of it stays in the way of another request."""
    try:
        yield
    except (UselessText, ShardProblem):
        clear(out)
        raise
    finally:
        if not (out / WORK / PLAN).exists():
            clear(out)


def _kept_input(unit: Unit, work: Path) -> Unit:
    """Standard input goes to a file first: a run that is interrupted can then say whether it gets the same again."""
    if unit.kind != "stdin":
        return unit
    path = work / "stdin"
    with replacing(path) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return dataclasses.replace(unit, kind="text", path=str(path), size=path.stat().st_size, stamp=sha256(path))


def _need_space(out: Path, units: Sequence[Unit], request: Request) -> None:
    """Text once, and its tokens twice, at least; what the working files hold already is not needed again."""
    grown = {"docs": 0.3, "parquet": 2.0}
    text = sum(unit.size * (2.0 if unit.path.endswith(PACKED) else grown.get(unit.kind, 1.0)) for unit in units)
    bytes_per_token = 1 if request.tokenizer in ("bytes", "chars") else 4
    present = sum(file.stat().st_size for file in (*(out / WORK).rglob("*"), *out.glob("*.bin")) if file.is_file())
    need_space(out, int(text * (1 + 2 * 2 / bytes_per_token)) - present)


# --- read ---


def _read(units: Sequence[Unit], work: Path, seed: int, pool: Workers, note: str) -> Iterator[Progress]:
    groups = _grouped(units)
    size = sum(unit.size for unit in units)
    total = size if all(unit.size or unit.kind != "hf" for unit in units) else None
    folder = work / "read"
    folder.mkdir(exist_ok=True)
    targets = [folder / f"part-{number:06d}" for number in range(len(groups))]
    waiting = [(group, target, seed) for group, target in zip(groups, targets, strict=True) if not target.with_suffix(".json").exists()]
    done = size - sum(unit.size for group, _, _ in waiting for unit in group)
    yield Progress("read", done, total, "bytes", note)
    for amount in pool.map(read_group, waiting):
        done += amount
        yield Progress("read", done, total, "bytes")


def _grouped(units: Sequence[Unit]) -> list[list[Unit]]:
    """Small units together, so that a million files make not a million parts; the result does not depend on it."""
    limit = min(64_000_000, max(1_000_000, sum(unit.size for unit in units) // 64))
    groups: list[list[Unit]] = [[]]
    held = 0
    for unit in units:
        if groups[-1] and (held + unit.size > limit or len(groups[-1]) >= 10_000 or unit.kind == "hf"):  # those are large, or unknown
            groups.append([])
            held = 0
        groups[-1].append(unit)
        held += unit.size
    return groups


def read_group(units: Sequence[Unit], target: Path, seed: int) -> Iterator[int]:
    """A task: writes the documents of some units as one sorted part, and yields how many of their bytes it has read."""
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


@lru_cache(maxsize=1)
def _open_documents(work: Path) -> SortedDocuments:
    return SortedDocuments(work / "read")


# --- tokenizer ---


_tokenizers: dict[Path, Tokenizer] = {}
"""Opened once in each process, by the working folder; a large vocabulary takes a while."""


def _open_tokenizer(work: Path) -> Tokenizer:
    if work not in _tokenizers:
        _tokenizers[work] = load_tokenizer(str(work / "tokenizer"))
    return _tokenizers[work]


def _find_tokenizer(
    documents: SortedDocuments, choice: Choice, known: Tokenizer | None, request: Request, work: Path
) -> Iterator[Progress]:
    if (work / "tokenizer.done").exists():
        return
    yield Progress("tokenizer", 0, 1, "tokenizers", "" if known else f"learning {request.tokenizer} from the text")
    if known is not None:
        tokenizer = known
    elif request.tokenizer == "chars":
        tokenizer = train_chars(raw.decode() for _, raw in _in_order(documents))
    else:
        assert request.vocab_size is not None
        tokenizer = train_bpe(_sample(documents, choice), request.vocab_size)
    check_vocabulary(tokenizer.vocab_size, request.tokenizer)
    tokenizer.save(work / "tokenizer")
    _tokenizers[work] = tokenizer
    fingerprint = sha256(work / "tokenizer" / "tokenizer.json")  # what `tokenizer.fingerprint` would say, without making the file again
    row = {"name": tokenizer.name, "fingerprint": fingerprint, "vocab_size": tokenizer.vocab_size, "eot": tokenizer.eot}
    write_json(work / "tokenizer.done", row)
    yield Progress("tokenizer", 1, 1, "tokenizers", f"{tokenizer.vocab_size:,} tokens")


def _in_order(documents: SortedDocuments) -> Iterator[tuple[int, bytes]]:
    """Pairs of a document's draw and its text."""
    count = documents.bucket_count()
    for number in range(count):
        bucket = documents.bucket(number, count)
        yield from zip(bucket.draws.tolist(), bucket.texts(), strict=True)


def _sample(documents: SortedDocuments, choice: Choice) -> Iterator[str]:
    """The first SAMPLE_BYTES of the training text in the order of the hashes, in pieces that end with a line."""
    left = SAMPLE_BYTES
    for draw, raw in _in_order(documents):
        text, _ = choice.parts(raw.decode(), draw)
        start = 0
        while start < len(text) and left > 0:
            end = text.find("\n", start + 100_000) + 1 or len(text)
            piece = text[start : min(end, start + 1_000_000)]
            yield piece
            start += len(piece)
            left -= len(piece)
        if left <= 0:
            return


# --- tokenize ---


def _tokenize(documents: SortedDocuments, choice: Choice, work: Path, pool: Workers) -> Iterator[Progress]:
    folder = work / "tokens"
    folder.mkdir(exist_ok=True)
    path = work / "buckets.json"
    if not path.exists():
        write_json(path, documents.bucket_count())
    count = read_json(path)
    total = documents.text_bytes
    done = 0
    waiting = []
    for number in range(count):
        row = folder / f"bucket-{number:06d}.json"
        if row.exists():
            done += read_json(row)["read_bytes"]
        else:
            waiting.append((work, number, count, choice))
    yield Progress("tokenize", done, total, "bytes")
    for amount in pool.map(tokenize_bucket, waiting):
        done += amount
        yield Progress("tokenize", min(done, total), total, "bytes")


def tokenize_bucket(work: Path, number: int, count: int, choice: Choice) -> Iterator[int]:
    """A task: writes the tokens of one bucket's documents, train and val apart, and yields how many bytes of text it has encoded."""
    bucket = _open_documents(work).bucket(number, count)
    tokenizer = _open_tokenizer(work)
    eot = np.array([tokenizer.eot], np.uint16)
    target = work / "tokens" / f"bucket-{number:06d}"
    figures = {name: {"documents": 0, "tokens": 0, "text_bytes": 0} for name in ("train", "val")}
    read = since = 0
    with replacing(target.with_suffix(".train")) as train_file, replacing(target.with_suffix(".val")) as val_file:
        outputs = (("train", train_file), ("val", val_file))
        held: dict[str, list[NDArray[Any]]] = {"train": [], "val": []}
        for draw, raw in zip(bucket.draws.tolist(), bucket.texts(), strict=True):
            for (name, _), part in zip(outputs, choice.parts(raw.decode(), draw), strict=True):
                if not part:
                    continue
                tokens = tokenizer.encode(part)
                held[name] += (eot, tokens)
                figures[name]["documents"] += 1
                figures[name]["tokens"] += 1 + len(tokens)
                figures[name]["text_bytes"] += len(raw) if choice.split == "document" else len(part.encode())
            since += len(raw) + 100  # arrays in memory count too: a million tiny documents are written in between
            read += len(raw)
            if since > TOLD_BYTES:
                _write_held(outputs, held)
                yield read
                read = since = 0
        _write_held(outputs, held)
    write_json(target.with_suffix(".json"), {**figures, "read_bytes": sum(figures[name]["text_bytes"] for name in figures)})
    yield read


def _write_held(outputs: Any, held: dict[str, list[NDArray[Any]]]) -> None:
    for name, file in outputs:
        if held[name]:
            file.write(np.concatenate(held[name]).astype("<u2", copy=False).data)
            held[name] = []
