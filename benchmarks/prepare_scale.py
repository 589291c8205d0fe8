"""Whether `daybreak data prepare` keeps its promises at scale: memory, disk, speed, and the same result however often it is killed.

    DAYBREAK_GPT2_VOCAB=gpt2.tiktoken python benchmarks/prepare_scale.py --gigabytes 2

Makes that much text as parquet files (half of them compressed with zstd, half with snappy): documents as long as FineWeb-Edu's (log-normal,
4.9 kB in the mean), each a number and a piece of python:docs from anywhere, one in a hundred a copy of another. Then it runs
`data prepare` with two workers, kills it twice with SIGKILL, once as it reads and once as it tokenizes, and lets it finish. A quarter of
the files is prepared in the same way and once more in one go by one process.

Memory is the resident size of every process of the tree, ten times a second; disk is what the folder takes, five times a second.
What the documents should be comes from tiktoken and pyarrow alone. All files are in a temporary folder and gone afterwards.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import tiktoken
from tiktoken_ext import openai_public

from daybreak.data.inspection import verify
from daybreak.data.manifest import Manifest, load_manifest
from daybreak.data.pieces import PIECE_BYTES
from daybreak.data.ranks import END_OF_TEXT, gpt2_ranks
from daybreak.data.shards import TokenStream
from daybreak.data.sources import documents

MEAN_LENGTH, SPREAD = 4900, 1.0
FILE_BYTES = 250_000_000
WORKERS = 2


# --- the text ---


def make_text(folder: Path, size: int) -> tuple[int, int]:
    """Parquet files with `size` bytes of text. Returns how many documents and bytes they hold."""
    pool = "\n".join(document.text for document in documents(["python:docs"]))
    random = np.random.default_rng(0)
    made = count = number = 0
    while made < size:
        texts: list[str] = []
        file_bytes = 0
        while file_bytes < min(FILE_BYTES, size - made):
            if texts and random.random() < 0.01:
                texts.append(texts[int(random.integers(len(texts)))])
            else:
                length = max(10, int(random.lognormal(np.log(MEAN_LENGTH) - SPREAD**2 / 2, SPREAD)))
                start = int(random.integers(len(pool) - length))
                texts.append(f"{count + len(texts)}: {pool[start : start + length]}")
            file_bytes += len(texts[-1].encode())
        packing = "zstd" if number % 2 else "snappy"
        table = pyarrow.table({"id": [f"<urn:uuid:{place}>" for place in range(len(texts))], "text": texts})
        pyarrow.parquet.write_table(table, folder / f"{number:05d}.parquet", row_group_size=1000, compression=packing)
        made, count, number = made + file_bytes, count + len(texts), number + 1
    return count, made


def expected(path: Path) -> tuple[list[tuple[bytes, int]], float]:
    """For each document of a file a digest of its tokens, and their number, by tiktoken alone; and how long that took it."""
    ranks = gpt2_ranks()
    bare = tiktoken.Encoding("gpt2", pat_str=openai_public.r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)})
    texts = pyarrow.parquet.read_table(path, columns=["text"]).column(0).to_pylist()
    rows = []
    seconds = 0.0
    for text in texts:
        start = time.process_time()
        tokens = bare.encode_to_numpy(text, disallowed_special=()).astype("<u2")
        seconds += time.process_time() - start
        rows.append((digest(tokens), len(tokens)))
    return rows, seconds


def digest(tokens: np.ndarray) -> bytes:
    """16 bytes that stand for a document."""
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()


def prepared(manifest: Manifest) -> Iterator[bytes]:
    """The digest of each document in both splits."""
    for split in ("train", "val"):
        stream = TokenStream(manifest.shard_paths(split))
        left = np.zeros(0, np.uint16)
        for start in range(0, len(stream), 1 << 24):
            tokens = np.concatenate([left, stream.read(start, min(1 << 24, len(stream) - start))])
            begins = np.flatnonzero(tokens == 50256)
            for begin, end in itertools.pairwise(begins):
                yield digest(tokens[begin + 1 : end])
            left = tokens[begins[-1] :]
        yield digest(left[1:])


# --- what it takes ---


class Watch:
    """What a process, its children and its folder take, until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.one = self.all = self.disk = 0
        threading.Thread(target=self._repeat, args=(0.1, self._memory), daemon=True).start()
        threading.Thread(target=self._repeat, args=(0.2, self._space), daemon=True).start()

    def _repeat(self, pause: float, look: Callable[[], None]) -> None:
        while self.process.poll() is None:
            look()
            time.sleep(pause)

    def _memory(self) -> None:
        parents = {}
        sizes = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue  # it has ended
                parents[int(entry.name)], sizes[int(entry.name)] = int(fields[1]), int(fields[21]) * resource.getpagesize()
        tree = {self.process.pid}
        while more := {process for process, parent in parents.items() if parent in tree} - tree:
            tree |= more
        held = [sizes.get(process, 0) for process in tree]
        self.one, self.all = max(self.one, *held), max(self.all, sum(held))

    def _space(self) -> None:
        used = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                try:
                    used += Path(root, name).stat().st_blocks * 512
                except OSError:
                    continue
        self.disk = max(self.disk, used)


def run(source: Path, out: Path, workers: int, kills: list[Callable[[], bool]]) -> dict[str, float]:
    """Prepares a folder, killed as soon as each of `kills` says so, and what that took."""
    command = [sys.executable, "-m", "daybreak", "data", "prepare", str(source), "--tokenizer", "gpt2"]
    command += ["--out", str(out), "--workers", str(workers), "--shard-tokens", "50000000", "--json"]
    one = all_ = disk = killed = 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    for kill in [*kills, None]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watch = Watch(process, out)
        while kill is not None and process.poll() is None:
            if kill():
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.02)
        process.wait()
        one, all_, disk = max(one, watch.one), max(all_, watch.all), max(disk, watch.disk)
    assert process.returncode == 0, f"exit status {process.returncode}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"kills": killed, "seconds": time.monotonic() - start, "cpu_seconds": cpu, "rss_one": one, "rss_all": all_, "disk": disk}


def kills_of(source: Path, out: Path) -> list[Callable[[], bool]]:
    """When half is read, and when a third is tokenized."""
    work = out / ".prepare"
    parts = sum(-(-path.stat().st_size // PIECE_BYTES) for path in source.iterdir())

    def tokenized() -> bool:
        cut = work / "stretches.json"
        return cut.exists() and len(list(work.glob("tokens/*.json"))) >= max(1, json.loads(cut.read_text())["stretches"] // 3)

    return [lambda: len(list(work.glob("read/*.json"))) >= max(1, parts // 2), tokenized]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of text")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        measure(folder, int(asked.gigabytes * 1e9), asked.note)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, size: int, note: str) -> None:
    whole, part = folder / "whole", folder / "part"
    whole.mkdir()
    part.mkdir()
    count, size = make_text(whole, size)
    paths = sorted(whole.iterdir())
    for path in paths[: max(1, len(paths) // 4)]:
        (part / path.name).hardlink_to(path)
    print(f"{count:,} documents, {size / 1e6:,.0f} MB of text in {sum(path.stat().st_size for path in paths) / 1e6:,.0f} MB", flush=True)

    rows = {}
    for name, source, workers in (("part_at_once", part, 1), ("part_killed", part, WORKERS), ("whole_killed", whole, WORKERS)):
        out = folder / f"out-{name}"
        rows[name] = run(source, out, workers, [] if name == "part_at_once" else kills_of(source, out))
        print(name, {key: round(value, 1) for key, value in rows[name].items()}, flush=True)
    at_once, killed = (load_manifest(folder / f"out-part_{how}") for how in ("at_once", "killed"))
    manifest = load_manifest(folder / "out-whole_killed")
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        answers = list(pool.imap(expected, paths))
    want = dict(row for rows, _ in answers for row in rows)
    bare_speed = size / 1e6 / sum(seconds for _, seconds in answers)
    have = collections.Counter(prepared(manifest))
    tokens = manifest.train.tokens + manifest.val.tokens
    part_text, text = (m.train.text_bytes + m.val.text_bytes for m in (at_once, manifest))
    from record import bar, record  # it imports torch, which the processes of the pool do not need

    packed = sum(path.stat().st_size for path in paths)
    row = rows["whole_killed"]
    wrong = len(want.keys() ^ have.keys()) + have.total() - len(have)
    unlike = at_once.to_dict() != killed.to_dict()
    growth = row["rss_one"] / rows["part_killed"]["rss_one"]
    speed = part_text / 1e6 / rows["part_at_once"]["cpu_seconds"]
    record(
        "prepare_scale",
        [
            bar("times that it was killed", row["kills"], ">= 2"),
            bar("documents missing, or more than once, or not as tiktoken has them", wrong, "<= 0"),
            bar("tokens too many or too few", abs(tokens - sum(want.values()) - len(want)), "<= 0"),
            bar("a quarter, killed twice and not: manifests with checksums that differ", int(unlike), "<= 0"),
            bar("files that are not as they were written", len(verify(manifest.folder)), "<= 0"),
            bar("peak memory of one process, MB", row["rss_one"] / 1e6, "<= 600"),
            bar("peak memory of one process, by that with a quarter of the text", growth, "<= 1.15"),
            bar("peak disk, by the text", row["disk"] / text, "<= 1"),
            bar("MB of text per second of processor time, from source to manifest, by tiktoken's alone", speed / bare_speed, ">= 0.7"),
        ],
        [
            *({"run": name, **{key: round(value, 2) for key, value in taken.items()}} for name, taken in rows.items()),
            {"documents": count, "different": manifest.documents, "tokens": tokens, "text_mb": text / 1e6, "parquet_mb": packed / 1e6},
            {"prepare_mb_per_s": speed, "tiktoken_mb_per_s": bare_speed},
            {"load": os.getloadavg()[1], "cores": os.cpu_count(), "note": note},
        ],
        packages=("tiktoken", "numpy", "pyarrow"),
    )


if __name__ == "__main__":
    main()
