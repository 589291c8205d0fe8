"""How fast `daybreak data prepare` is, beside tiktoken alone on the same documents: MB of text per second of one core.

    DAYBREAK_GPT2_VOCAB=gpt2.tiktoken python benchmarks/prepare_speed.py

Both run in this process, in turns, and the medians are compared. tiktoken alone means: documents that lie in memory, encoded one by one
to numpy arrays, in GPT-2's vocabulary. `prepare` reads them from a file, hashes, sorts, drops duplicates, splits, encodes, writes shards
with checksums and a manifest. The text is python:docs and a part of python:code.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext import openai_public

from daybreak.data.prepare import prepare
from daybreak.data.ranks import END_OF_TEXT, gpt2_ranks
from daybreak.data.sources import documents
from daybreak.files import write_json
from daybreak.machine import facts

ROUNDS = 5
WANTED_SHARE = 0.80
RESULT = Path(__file__).parent / "results" / "prepare_speed.json"


def cpu_seconds(work: Callable[[], object]) -> float:
    """The seconds of processor time that `work` takes in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    import torch

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
    result = {
        "name": "prepare_speed",
        "when": time.strftime("%Y-%m-%d"),
        "machine": facts(torch.device("cpu"), "float32"),
        "versions": {"python": platform.python_version(), "tiktoken": version("tiktoken"), "numpy": np.__version__},
        "bars": [
            {"bar": "share of bare tiktoken", "value": round(share, 3), "want": f">= {WANTED_SHARE:.2f}", "ok": share >= WANTED_SHARE},
        ],
        "rows": [
            *rows,
            {"text_mb": size / 1e6, "documents": len(texts), **{f"share_{k}": v / sum(stages.values()) for k, v in stages.items()}},
        ],
    }
    write_json(RESULT, result)
    print(json.dumps(result["bars"], indent=2))


if __name__ == "__main__":
    main()
