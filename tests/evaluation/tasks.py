"""Items in the official files' forms, and a tiny model to ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from daybreak.data.tokenizer import load_tokenizer
from daybreak.model.config import GPTConfig
from daybreak.model.init import build

BYTES = load_tokenizer("bytes")
CONTEXT = 24


def tiny_model(context_length: int = CONTEXT, vocab_size: int = 257) -> Any:
    """Two layers with weights large enough that the text matters."""
    return build(GPTConfig(vocab_size=vocab_size, context_length=context_length, n_layer=2, n_head=2, d_model=16, init_std=0.4), 0).eval()


HELLASWAG = [
    {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he",
        "ctx": "A man is sitting on a roof. he",
        "split": "val",
        "split_type": "indomain",
        "label": 3,
        "endings": [
            "is using wrap to wrap a pair of skis.",
            "is ripping level tiles off.",
            "is holding a rubik's cube.",
            "starts pulling up roofing on a roof.",
        ],
        "source_id": "activitynet~v_-JhWjGDPHMY",
    },
    {
        "ind": 3510,
        "activity_label": "Finance and Business",
        "ctx_a": "[header] How to make a cafe [title] Choose a place. [step] Look  around",
        "ctx_b": "THEN write",
        "ctx": "[header] How to make a cafe [title] Choose a place. [step] Look  around THEN write",
        "split": "val",
        "split_type": "zeroshot",
        "label": "0",
        "endings": ["[substeps] of rents.", "a plan [title] Ask others.", "nothing", " it down"],
        "source_id": "wikihow~1",
    },
]


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
