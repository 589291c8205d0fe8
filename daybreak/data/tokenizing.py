"""The middle stages of `prepare`: a tokenizer, learned from the text or opened; then every document's tokens, stretch by stretch.

    DIR/.prepare/tokenizer/                     as it will be in the folder
    DIR/.prepare/tokens/stretch-000000.train    [end of text] + tokens of each document, uint16; .val likewise, .json the figures

A stretch is a range of hashes, one task, and consists of as many buckets as it takes for each to fit into memory. Memory: a bucket's text
(sorting.BUCKET_BYTES) and what is written in between, whatever the size of the corpus and the number of workers. Disk: the tokens,
beside the text, which is removed when all of it is tokenized.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daybreak.data.plan import PLAN, Request
from daybreak.data.reading import TOLD_BYTES, open_documents
from daybreak.data.shards import check_vocabulary
from daybreak.data.sorting import SortedDocuments
from daybreak.data.splitting import Choice
from daybreak.data.tokenizer import Tokenizer, load_tokenizer, train_bpe, train_chars
from daybreak.data.workers import Engine
from daybreak.files import read_json, replacing, sha256, write_json

SAMPLE_BYTES = 50_000_000
"""From how much text bpe is learned; more hardly changes it."""
MOST_STRETCHES = 4096
"""Of a corpus of any size."""


def find_tokenizer(documents: SortedDocuments, choice: Choice, known: Tokenizer | None, request: Request, work: Path) -> Tokenizer:
    """Puts the tokenizer `known`, or one learned from the text, into the working folder."""
    if known is not None:
        tokenizer = known
    elif request.tokenizer == "chars":
        tokenizer = train_chars(raw.decode() for _, raw in _in_order(documents))
    else:
        assert request.vocab_size is not None
        tokenizer = train_bpe(_sample(documents, choice), request.vocab_size)
    check_vocabulary(tokenizer.vocab_size, request.tokenizer)
    tokenizer.save(work / "tokenizer")
    fingerprint = sha256(work / "tokenizer" / "tokenizer.json")  # what `tokenizer.fingerprint` would say, without making the file again
    row = {"name": tokenizer.name, "fingerprint": fingerprint, "vocab_size": tokenizer.vocab_size, "eot": tokenizer.eot}
    write_json(work / "tokenizer.done", row)
    _keep(work, documents, tokenizer)
    return tokenizer


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


_opened: dict[tuple[Any, ...], tuple[SortedDocuments, Tokenizer]] = {}
"""Opened once in each process for one preparation: thousands of parts, or a large vocabulary, take a while."""


def _key(work: Path) -> tuple[Any, ...]:
    plan = (work / PLAN).stat()  # a cluster's worker may see another preparation in the same folder later
    return work, plan.st_mtime_ns, plan.st_ino


def _open(work: Path) -> tuple[SortedDocuments, Tokenizer]:
    if _key(work) not in _opened:
        _keep(work, open_documents(work), load_tokenizer(str(work / "tokenizer")))
    return _opened[_key(work)]


def _keep(work: Path, documents: SortedDocuments, tokenizer: Tokenizer) -> None:
    _opened.clear()
    _opened[_key(work)] = documents, tokenizer


def tokenize(documents: SortedDocuments, choice: Choice, work: Path, pool: Engine) -> Iterator[tuple[int, int]]:
    """Tokenizes the stretches that are not yet. Yields how many bytes of text are tokenized, and of how many."""
    folder = work / "tokens"
    folder.mkdir(exist_ok=True)
    path = work / "stretches.json"
    if not path.exists():
        buckets = documents.bucket_count()
        write_json(path, {"stretches": min(buckets, MOST_STRETCHES), "buckets": buckets})
    cut = read_json(path)
    total = documents.text_bytes
    done = 0
    waiting = []
    for number in range(cut["stretches"]):
        row = _row(work, number)
        if row.exists():
            done += read_json(row)["read_bytes"]
        else:
            waiting.append((work, number, cut["stretches"], cut["buckets"], choice))
    yield done, total
    for amount in pool.map(tokenize_stretch, waiting):
        done += amount
        yield min(done, total), total


def _row(work: Path, number: int) -> Path:
    return work / "tokens" / f"stretch-{number:06d}.json"


def tokenize_stretch(work: Path, number: int, stretches: int, buckets: int, choice: Choice) -> Iterator[int]:
    """A task: writes the tokens of one stretch's documents, train and val apart, and yields how many bytes of text it has encoded."""
    row = _row(work, number)
    if row.exists():
        yield int(read_json(row)["read_bytes"])
        return
    documents, tokenizer = _open(work)
    output = {name: {"documents": 0, "tokens": 0, "text_bytes": 0} for name in ("train", "val")}
    distinct = duplicates = read_bytes = 0
    with replacing(row.with_suffix(".train")) as train_file, replacing(row.with_suffix(".val")) as val_file:
        files = {"train": train_file, "val": val_file}
        for place in range(number * buckets // stretches, (number + 1) * buckets // stretches):
            bucket = documents.bucket(place, buckets)
            distinct += len(bucket)
            duplicates += bucket.duplicates
            texts = zip(bucket.draws.tolist(), bucket.texts(), strict=True)
            for amount in _encode(texts, tokenizer, choice, files, output):
                read_bytes += amount
                yield amount
    write_json(row, {**output, "distinct": distinct, "duplicates": duplicates, "read_bytes": read_bytes})
    yield 0


def _encode(
    texts: Iterator[tuple[int, bytes]], tokenizer: Tokenizer, choice: Choice, files: dict[str, Any], figures: dict[str, dict[str, int]]
) -> Iterator[int]:
    """Writes the documents' tokens to `files`, counts them in `figures`, and yields how many bytes of text that were."""
    eot = np.array([tokenizer.eot], np.uint16)
    held: dict[str, list[NDArray[Any]]] = {"train": [], "val": []}
    read = since = 0
    for draw, raw in texts:
        for name, part in zip(("train", "val"), choice.parts(raw.decode(), draw), strict=True):
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
            _write_held(files, held)
            yield read
            read = since = 0
    _write_held(files, held)
    yield read


def _write_held(files: dict[str, Any], held: dict[str, list[NDArray[Any]]]) -> None:
    for name, file in files.items():
        if held[name]:
            file.write(np.concatenate(held[name]).astype("<u2", copy=False).data)
            held[name] = []
