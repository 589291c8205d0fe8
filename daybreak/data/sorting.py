"""Documents on disk in the order of their hashes: a shuffle that depends on nothing but the texts and the seed.

Every document is hashed with the seed as key. Order by hash is a random order, the same however the sources were cut into units,
who read them and when; and equal documents become neighbours, so that exact duplicates fall out. `writing_sorted` writes runs, sorted
each in memory; `SortedDocuments` reads one range of hashes, a bucket, out of all runs, with as many buckets as make each fit into memory.

    part-00001.text    the documents as UTF-8, one run after the other
    part-00001.index   one RECORD for each
    part-00001.json    where the runs end, and what was skipped; written last, so its presence says that the part is whole
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from daybreak.files import read_json, replacing, write_json

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("draw", "<u8"), ("end", "<u8")])
"""A document: the two halves of its hash, a further random number, and where in the file its text ends."""

DIGEST_BYTES = 24
OVERHEAD = 200
"""Bytes of memory that a document costs besides its text: what bounds memory with a million tiny ones."""
RUN_BYTES = 96_000_000
BUCKET_BYTES = 64_000_000
MOST_BUCKETS = 4096


class SortedWriter:
    """Takes documents in any order and writes them as sorted runs; see `writing_sorted`."""

    def __init__(self, text_file: IO[bytes], index_file: IO[bytes], seed: int, run_bytes: int) -> None:
        self.text_file, self.index_file, self.run_bytes = text_file, index_file, run_bytes
        self.key = seed.to_bytes(16, "little", signed=True)
        self.runs: list[int] = []
        """After how many documents each run ends."""
        self.text_bytes = 0
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
        records = np.empty(len(order), RECORD)
        for column, name in enumerate(("high", "low", "draw")):
            records[name] = digests[order, column]
        sizes = np.fromiter(map(len, self._texts), np.int64, len(self._texts))
        records["end"] = self.text_bytes + np.cumsum(sizes[order])
        self.text_file.writelines([self._texts[i] for i in order.tolist()])
        self.index_file.write(records.tobytes())
        self.text_bytes += int(sizes.sum())
        self.runs.append((self.runs[-1] if self.runs else 0) + len(order))
        self._texts, self._digests, self._held = [], [], 0


@contextlib.contextmanager
def writing_sorted(target: Path, seed: int, skips: Counter[str], run_bytes: int = RUN_BYTES) -> Iterator[SortedWriter]:
    """Writes one part, `target` with three suffixes: whole if the block succeeds, else not at all. `skips` is noted in it."""
    with replacing(target.with_suffix(".text")) as text_file, replacing(target.with_suffix(".index")) as index_file:
        writer = SortedWriter(text_file, index_file, seed, run_bytes)
        yield writer
        writer.flush()
    write_json(target.with_suffix(".json"), {"runs": writer.runs, "text_bytes": writer.text_bytes, "skips": dict(sorted(skips.items()))})


class SortedDocuments:
    """All parts in a folder as one sequence of documents in the order of their hashes, each text once."""

    def __init__(self, folder: Path) -> None:
        self._runs: list[tuple[Path, NDArray[Any], int, int]] = []
        self.skips: Counter[str] = Counter()
        self.documents = 0
        """All that were read, duplicates included."""
        self.text_bytes = 0
        for path in sorted(folder.glob("*.json")):
            row = read_json(path)
            self.skips.update(row["skips"])
            self.text_bytes += row["text_bytes"]
            self.documents += row["runs"][-1] if row["runs"] else 0
            if row["runs"]:
                index = np.asarray(np.memmap(path.with_suffix(".index"), RECORD, "r"))
                starts = [0, *row["runs"][:-1]]
                self._runs += [(path.with_suffix(".text"), index, *run) for run in zip(starts, row["runs"], strict=True)]

    def bucket_count(self, bucket_bytes: int = BUCKET_BYTES) -> int:
        """How many buckets, a power of two, keep each near `bucket_bytes`. No result depends on it."""
        size = self.text_bytes + OVERHEAD * self.documents
        return min(MOST_BUCKETS, 1 << max(0, (size // bucket_bytes).bit_length()))

    def bucket(self, number: int, count: int) -> Bucket:
        """Bucket `number` of `count`: the documents whose hash lies in that part of all hashes."""
        width = (1 << 64) // count
        lowest, beyond = number * width, (number + 1) * width
        slices = []
        for path, index, start, end in self._runs:
            high = index["high"]  # bisect touches few pages of it; searchsorted would copy it whole
            first = bisect.bisect_left(high, lowest, start, end, key=int)
            last = bisect.bisect_left(high, beyond, first, end, key=int)
            if last > first:
                slices.append((path, index[first:last], int(index["end"][first - 1]) if first else 0))
        return Bucket(slices)


class Bucket:
    """Documents of one range of hashes in order, each once. `draws` (n,) uint64: a random number of each, independent of the order."""

    def __init__(self, slices: list[tuple[Path, NDArray[Any], int]]) -> None:
        self._files = [(path, begin, int(records["end"][-1])) for path, records, begin in slices]
        records = np.concatenate([records for _, records, _ in slices]) if slices else np.empty(0, RECORD)
        source = np.repeat(np.arange(len(slices)), [len(part) for _, part, _ in slices])
        ends = records["end"].astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        starts[np.flatnonzero(np.diff(source, prepend=-1))] = [begin for _, _, begin in slices]
        order = np.lexsort((records["low"], records["high"]))
        high, low = records["high"][order], records["low"][order]
        repeated = np.zeros(len(order), bool)
        repeated[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        kept = order[~repeated]
        self.duplicates = int(repeated.sum())
        self.draws: NDArray[np.uint64] = records["draw"][kept]
        self._places = [column[kept].tolist() for column in (source, starts, ends)]

    def __len__(self) -> int:
        return len(self.draws)

    def texts(self) -> Iterator[bytes]:
        """The documents as UTF-8; all of the bucket's texts are held in memory meanwhile."""
        blobs = []
        for path, begin, end in self._files:
            with open(path, "rb") as file:
                file.seek(begin)
                blobs.append(file.read(end - begin))
        for source, start, end in zip(*self._places, strict=True):
            begin = self._files[source][1]
            yield blobs[source][start - begin : end - begin]
