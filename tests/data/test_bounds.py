"""What a preparation takes: memory does not grow with the text, and the disk holds it once, compressed, beside its tokens."""

import json
import os
import random
import subprocess
import sys

import pytest

from daybreak.data import pieces, reading, sorting, tokenizing
from daybreak.data.frames import FRAME_BYTES, FrameReader, FrameWriter
from daybreak.data.manifest import load_manifest
from daybreak.data.prepare import prepare
from daybreak.data.sorting import SortedDocuments, forget, is_whole, merge_parts, writing_sorted

SMALL = 500_000
"""What a run and a bucket hold in these tests."""

SCRIPT = f"""
import resource, sys
from daybreak.data import pieces, prepare, reading, sorting
sorting.SortedDocuments.bucket_count.__defaults__ = sorting.writing_sorted.__wrapped__.__defaults__ = ({SMALL},)
pieces.PIECE_BYTES, reading.MOST_RUNS, reading.MERGED_RUNS = 1_000_000, 8, 4
for progress in prepare.prepare([sys.argv[1]], sys.argv[2], tokenizer="bytes", workers=1, shard_tokens=500_000): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def write_text(path, size, seed=0):
    random_state = random.Random(seed)
    words = [random_state.randbytes(random_state.randint(1, 6)).hex() for _ in range(3000)]
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < size:
            file.write(json.dumps({"text": " ".join(random_state.choices(words, k=400))}) + "\n")
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak of a process's memory in this way")
def test_memory_does_not_grow_with_the_text(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    peaks = []
    for megabytes in (3, 9):
        source = write_text(tmp_path / f"{megabytes}.jsonl", megabytes * 1_000_000)
        command = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / f"{megabytes}")]
        peaks.append(int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 3_000_000, peaks
    assert load_manifest(tmp_path / "9").documents > 2 * load_manifest(tmp_path / "3").documents


@pytest.fixture
def small(monkeypatch):
    """Limits so low that a megabyte is a large corpus."""
    for function in (SortedDocuments.bucket_count, writing_sorted.__wrapped__):
        monkeypatch.setattr(function, "__defaults__", (SMALL,))
    monkeypatch.setattr(pieces, "PIECE_BYTES", 500_000)
    monkeypatch.setattr(reading, "MOST_RUNS", 4)
    monkeypatch.setattr(reading, "MERGED_RUNS", 2)
    monkeypatch.setattr(tokenizing, "MOST_STRETCHES", 4)


def test_the_disk_holds_the_text_once_and_its_tokens_once(small, tmp_path):
    source = write_text(tmp_path / "a.jsonl", 4_000_000)
    out = tmp_path / "data"
    peaks = {}
    for progress in prepare([str(source)], out, tokenizer="bytes", workers=1, shard_tokens=250_000):
        held = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        peaks[progress.stage] = max(peaks.get(progress.stage, 0), held)
    text = load_manifest(out).train.text_bytes + load_manifest(out).val.text_bytes
    assert set(peaks) == {"list", "read", "merge", "tokenizer", "tokenize", "write", "done"}
    assert peaks["read"] < 0.6 * text  # these words are less compressible than a language's
    assert peaks["merge"] < 0.6 * text + 4 * SMALL
    assert peaks["tokenize"] < (0.6 + 2) * text  # "bytes" has a token of two bytes for each byte
    assert peaks["write"] < (2 + 2 / 4) * text + 4 * 500_000  # a stretch, of which there are four, goes when all of it is in shards
    assert 2 * text < peaks["done"] < 2.02 * text


def test_merged_parts_hold_what_their_sources_did(small, tmp_path):
    texts = [f"document {number} " * 20 for number in range(2_000)]
    parts = []
    for number in range(5):
        skips = {"empty": number} if number else {}
        with writing_sorted(tmp_path / f"part-{number}", 7, sorting.Counter(skips), 20_000) as writer:
            for text in texts[300 * number : 300 * number + 600]:  # each but the first and the last twice
                writer.add(text)
        parts.append(tmp_path / f"part-{number}")
    plain = SortedDocuments(parts).bucket(0, 1)
    in_order = list(plain.texts())
    sizes = sum(SortedDocuments([part]).text_bytes for part in parts)
    assert sum(merge_parts(parts, tmp_path / "merged")) == sizes
    merged = SortedDocuments([tmp_path / "merged"])
    assert list(merged.bucket(0, 1).texts()) == in_order
    assert merged.bucket(0, 1).records[["high", "low", "draw"]].tolist() == plain.records[["high", "low", "draw"]].tolist()
    assert (merged.documents, merged.duplicates) == (len(plain), plain.duplicates) == (1_800, 1_200)
    assert merged.skips == {"empty": 10}
    for part in parts:
        forget(part)
        assert is_whole(part)
    assert sum(merge_parts(parts, tmp_path / "merged")) == sizes  # done already: the sources are not needed
    assert [text for number in range(8) for text in merged.bucket(number, 8).texts()] == in_order


def test_a_text_that_is_everywhere_fills_no_memory(small, tmp_path):
    """Copies are dropped in each run, and of the others' only one is read."""
    with writing_sorted(tmp_path / "part", 0, sorting.Counter(), 10_000) as writer:
        for _ in range(1_000):
            writer.add("boilerplate " * 100)
    documents = SortedDocuments([tmp_path / "part"])
    assert documents.documents < 130
    assert documents.documents + documents.duplicates == 1_000
    bucket = documents.bucket(0, 1)
    assert list(bucket.texts()) == [b"boilerplate " * 100]
    assert bucket.duplicates + documents.duplicates == 999


def test_any_range_of_framed_bytes_can_be_read(tmp_path):
    random_state = random.Random(0)
    content = b"".join(random_state.choice([b"word ", b"other "]) for _ in range(FRAME_BYTES // 2))
    cuts = sorted(random_state.randrange(len(content)) for _ in range(20))
    with open(tmp_path / "frames", "wb") as file:
        writer = FrameWriter(file)
        for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            writer.write([content[start:end]])
        writer.finish()
    assert writer.size == len(content)
    places = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, len(content) - 1, len(content)]
    with FrameReader(tmp_path / "frames") as reader:
        for start in places:
            for end in places:
                if end >= start:
                    assert reader.read(start, end) == content[start:end]
    with open(tmp_path / "empty", "wb") as file:
        FrameWriter(file).finish()
    with FrameReader(tmp_path / "empty") as reader:
        assert reader.read(0, 0) == b""
