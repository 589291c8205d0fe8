"""Documents on disk in the order of their hashes: a shuffle that depends on nothing but the texts and the seed.

Every document is hashed with the seed as key. Order by hash is a random order, the same however the sources were cut into units,
who read them and when; and equal documents become neighbours, so that exact duplicates fall out. `writing_sorted` writes runs, sorted
each in memory; `SortedDocuments` reads one range of hashes, a bucket, out of all runs, with as many buckets as make each fit into memory;
`merge_parts` makes one long run of many, where there are so many that a bucket would be gathered from crumbs.

    part-00001.text    the documents as UTF-8, one run after the other, in compressed frames
    part-00001.index   one RECORD for each
    part-00001.json    where the runs end, and what was skipped; written last, so its presence says that the part is whole

A part is the same bytes whoever writes it, and is left alone once it is whole: a task that is done twice does no harm.
Memory: a writer holds RUN_BYTES, a bucket BUCKET_BYTES of text, besides the largest document; no file stays open.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from daybreak.data.frames import FrameReader, FrameWriter
from daybreak.files import read_json, replacing, write_json

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("draw", "<u8"), ("end", "<u8")])
"""A document: the two halves of its hash, a further random number, and where in the part's text its own ends."""

DIGEST_BYTES = 24
OVERHEAD = 200
"""Bytes of memory that a document costs besides its text: what bounds memory with a million tiny ones."""
RUN_BYTES = 96_000_000
BUCKET_BYTES = 64_000_000

Records = NDArray[Any]


class SortedWriter:
    """Takes documents in any order and writes them as sorted runs; see `writing_sorted`."""

    def __init__(self, text_file: IO[bytes], index_file: IO[bytes], seed: int, run_bytes: int) -> None:
        self.text, self.index_file, self.run_bytes = FrameWriter(text_file), index_file, run_bytes
        self.key = seed.to_bytes(16, "little", signed=True)
        self.runs: list[int] = []
        """After how many documents each run ends."""
        self.written = self.duplicates = 0
        """Documents, and those that were left out because the same run has them."""
        self._texts: list[bytes] = []
        self._digests: list[bytes] = []
        self._held = 0

    def add(self, text: str) -> int:
        """Takes a document and returns its number of bytes."""
        raw = text.encode()
        self._texts.append(raw)
        self._digests.append(hashlib.blake2b(raw, digest_size=DIGEST_BYTES, key=self.key).digest())
        self._held += len(raw) + OVERHEAD
        if self._held > self.run_bytes:
            self.flush()
        return len(raw)

    def flush(self) -> None:
        """Writes what is held as one run."""
        if not self._texts:
            return
        digests = np.frombuffer(b"".join(self._digests), ">u8").reshape(-1, 3)
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        order = order[~_repeated(digests[order, 0], digests[order, 1])]
        records = np.empty(len(order), RECORD)
        for column, name in enumerate(("high", "low", "draw")):
            records[name] = digests[order, column]
        sizes = np.fromiter(map(len, self._texts), np.int64, len(self._texts))[order]
        self.duplicates += len(self._texts) - len(order)
        self.write(records, sizes, (self._texts[i] for i in order.tolist()))
        self.end_run()
        self._texts, self._digests, self._held = [], [], 0

    def write(self, records: Records, sizes: NDArray[np.int64], texts: Iterable[bytes]) -> None:
        """Takes documents of the present run that are in order and come after those before. `records`: their ends are set here."""
        records["end"] = self.text.size + np.cumsum(sizes)
        self.text.write(texts)
        self.index_file.write(records.tobytes())
        self.written += len(records)

    def end_run(self) -> None:
        """What comes now is in an order of its own."""
        self.runs.append(self.written)


def _repeated(high: NDArray[Any], low: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of sorted hashes are like the one before."""
    repeated = np.zeros(len(high), bool)
    repeated[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    return repeated


@contextlib.contextmanager
def writing_sorted(target: Path, seed: int, skips: Counter[str], run_bytes: int = RUN_BYTES) -> Iterator[SortedWriter]:
    """Writes one part, `target` with three suffixes: whole if the block succeeds, else not at all. `skips` is noted in it."""
    with replacing(target.with_suffix(".text")) as text_file, replacing(target.with_suffix(".index")) as index_file:
        writer = SortedWriter(text_file, index_file, seed, run_bytes)
        yield writer
        writer.flush()
        writer.text.finish()
    row = {"runs": writer.runs, "text_bytes": writer.text.size, "duplicates": writer.duplicates, "skips": dict(sorted(skips.items()))}
    write_json(target.with_suffix(".json"), row)


def is_whole(part: Path) -> bool:
    """Whether a part was written to its end."""
    return part.with_suffix(".json").exists()


def forget(part: Path) -> None:
    """Removes the documents of a part that are safe elsewhere; that it was whole, and its figures, stay."""
    for suffix in (".text", ".index"):
        part.with_suffix(suffix).unlink(missing_ok=True)


class SortedDocuments:
    """All of some parts as one sequence of documents in the order of their hashes, each text once."""

    def __init__(self, parts: Iterable[Path]) -> None:
        self._parts: list[tuple[Path, list[int]]] = []
        self.skips: Counter[str] = Counter()
        self.documents = self.duplicates = self.text_bytes = 0
        """What the parts hold; duplicates are those that they have left out already."""
        for part in parts:
            row = read_json(part.with_suffix(".json"))
            self.skips.update(row["skips"])
            self.duplicates += row["duplicates"]
            self.text_bytes += row["text_bytes"]
            if row["runs"]:
                self.documents += row["runs"][-1]
                self._parts.append((part, row["runs"]))

    def forget(self) -> None:
        """Removes the documents, which are safe elsewhere."""
        for part, _ in self._parts:
            forget(part)

    def bucket_count(self, bucket_bytes: int = BUCKET_BYTES) -> int:
        """How many buckets, a power of two, keep each below `bucket_bytes`, nearly. No result depends on it."""
        size = self.text_bytes + OVERHEAD * self.documents
        return 1 << max(0, (size // bucket_bytes).bit_length())

    def bucket(self, number: int, count: int) -> Bucket:
        """Bucket `number` of `count`: the documents whose hash lies in that part of all hashes."""
        width = (1 << 64) // count
        lowest, beyond = number * width, (number + 1) * width
        slices = []
        for part, runs in self._parts:
            index = np.asarray(np.memmap(part.with_suffix(".index"), RECORD, "r"))  # closed when the last view of it is gone
            high = index["high"]  # bisect touches few pages of it; searchsorted would copy it whole
            for start, end in zip([0, *runs[:-1]], runs, strict=True):
                first = bisect.bisect_left(high, lowest, start, end, key=int)
                last = bisect.bisect_left(high, beyond, first, end, key=int)
                if last > first:
                    slices.append((part, index[first:last].copy(), int(index["end"][first - 1]) if first else 0))
        return Bucket(slices)


class Bucket:
    """Documents of one range of hashes in order, each once. `draws` (n,) uint64: a random number of each, independent of the order."""

    def __init__(self, slices: Sequence[tuple[Path, Records, int]]) -> None:
        records = np.concatenate([records for _, records, _ in slices]) if slices else np.empty(0, RECORD)
        source = np.repeat(np.arange(len(slices)), [len(part) for _, part, _ in slices])
        ends = records["end"].astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        starts[np.flatnonzero(np.diff(source, prepend=-1))] = [begin for _, _, begin in slices]
        order = np.lexsort((records["low"], records["high"]))
        repeated = _repeated(records["high"][order], records["low"][order])
        kept = order[~repeated]
        self.duplicates = int(repeated.sum())
        self.records: Records = records[kept]
        self.sizes: NDArray[np.int64] = (ends - starts)[kept]
        self._parts = [part for part, _, _ in slices]
        self._kept, self._source, self._starts, self._ends = kept, source, starts, ends

    @property
    def draws(self) -> NDArray[np.uint64]:
        """A random number of each document."""
        return self.records["draw"]

    def __len__(self) -> int:
        return len(self.records)

    def texts(self) -> Iterator[bytes]:
        """The documents as UTF-8; all of the bucket's texts are held in memory meanwhile, those that are left out are not even read."""
        places = np.sort(self._kept)
        source, starts, ends = (column[places] for column in (self._source, self._starts, self._ends))
        breaks = np.flatnonzero((np.diff(source) != 0) | (starts[1:] != ends[:-1])) + 1  # between ranges that lie apart
        firsts = np.concatenate([[0], breaks]) if len(places) else breaks
        lasts = np.concatenate([breaks, [len(places)]]) - 1 if len(places) else breaks
        blobs = list(self._blobs(source[firsts].tolist(), starts[firsts].tolist(), ends[lasts].tolist()))
        blob_of = np.repeat(np.arange(len(firsts)), lasts - firsts + 1)
        begins = starts - starts[firsts][blob_of]
        rank = np.empty(len(self._source), np.int64)
        rank[places] = np.arange(len(places))
        order = rank[self._kept]
        for blob, begin, size in zip(blob_of[order].tolist(), begins[order].tolist(), self.sizes.tolist(), strict=True):
            yield blobs[blob][begin : begin + size]

    def _blobs(self, source: list[int], starts: list[int], ends: list[int]) -> Iterator[bytes]:
        with contextlib.ExitStack() as stack:
            opened = None
            for place, start, end in zip(source, starts, ends, strict=True):
                if self._parts[place] != opened:
                    stack.close()
                    opened = self._parts[place]
                    reader = stack.enter_context(FrameReader(opened.with_suffix(".text")))
                yield reader.read(start, end)


def merge_parts(sources: Sequence[Path], target: Path) -> Iterator[int]:
    """A task: writes several parts as one of a single run, and yields how many bytes of their text it has read."""
    if is_whole(target):
        yield sum(read_json(part.with_suffix(".json"))["text_bytes"] for part in sources)
        return
    documents = SortedDocuments(sources)
    left = documents.text_bytes
    count = documents.bucket_count()
    with writing_sorted(target, 0, documents.skips) as writer:
        writer.duplicates = documents.duplicates
        for number in range(count):
            bucket = documents.bucket(number, count)
            writer.duplicates += bucket.duplicates
            writer.write(bucket.records, bucket.sizes, bucket.texts())
            done = int(bucket.sizes.sum())
            left -= done
            yield done
        if writer.written:
            writer.end_run()
    yield left
