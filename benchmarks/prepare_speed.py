"""How fast `daybreak data prepare` is, beside tiktoken alone on the same documents: MB of text per second of one core.

    DAYBREAK_GPT2_VOCAB=gpt2.tiktoken python benchmarks/prepare_speed.py

Both run in this process, in turns, and the medians are compared. tiktoken alone means: documents that lie in memory, encoded one by one
to numpy arrays, in GPT-2's vocabulary. `prepare` reads them from a file, hashes, sorts, drops duplicates, splits, encodes, writes shards
with checksums and a manifest. The text is python:docs and a part of python:code.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiktoken
from record import bar, record
from tiktoken_ext import openai_public

from daybreak.data.prepare import prepare
from daybreak.data.ranks import END_OF_TEXT, gpt2_ranks
from daybreak.data.sources import documents

ROUNDS = 5


def cpu_seconds(work: Callable[[], object]) -> float:
    """The seconds of processor time that `work` takes in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    texts = [document.text for document in documents(["python:docs"])]
    size = sum(len(text.encode()) for text in texts)
    for document in documents(["python:code"]):
        if size > 150_000_000:
            break
        texts.append(document.text)
        size += len(document.text.encode())
    ranks = gpt2_ranks()
    bare = tiktoken.Encoding("gpt2", pat_str=openai_public.r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)})

    folder = Path(tempfile.mkdtemp())
    try:
        source = folder / "text.jsonl"
        with open(source, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        stages: dict[str, float] = {}

        def prepared(out: Path) -> None:
            stage, since = "list", time.process_time()
            for progress in prepare([str(source)], out, tokenizer="gpt2", workers=1):
                if progress.stage != stage:
                    stages[stage] = stages.get(stage, 0.0) + time.process_time() - since
                    stage, since = progress.stage, time.process_time()
            stages[stage] = stages.get(stage, 0.0) + time.process_time() - since

        rows = []
        for _ in range(ROUNDS):
            alone = cpu_seconds(lambda: [bare.encode_to_numpy(text, disallowed_special=()).astype(np.uint16) for text in texts])
            ours = cpu_seconds(lambda: prepared(folder / "out"))
            rows.append({"tiktoken_mb_per_s": size / 1e6 / alone, "prepare_mb_per_s": size / 1e6 / ours})
            shutil.rmtree(folder / "out")
            print(rows[-1], flush=True)
    finally:
        shutil.rmtree(folder)

    prepare_speed = statistics.median(row["prepare_mb_per_s"] for row in rows)
    share = prepare_speed / statistics.median(row["tiktoken_mb_per_s"] for row in rows)
    by_stage = {f"share_{name}": seconds / sum(stages.values()) for name, seconds in stages.items()}
    record(
        "prepare_speed",
        [bar("prepare's speed as a share of bare tiktoken's, per core", share, ">= 0.8")],
        [*rows, {"text_mb": size / 1e6, "documents": len(texts), **by_stage}],
        packages=("tiktoken", "numpy"),
    )


if __name__ == "__main__":
    main()
