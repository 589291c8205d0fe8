"""The same tokens in the layouts that others publish, as tests need them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

Tokens = np.ndarray


def llm_c(folder: Path, split: str, tokens: Tokens) -> None:
    """llm.c's version 1, in two shards."""
    for number, part in enumerate(np.array_split(tokens, 2)):
        head = struct.pack("<iii", 20240520, 1, len(part)) + bytes(1012)
        (folder / f"fineweb_{split}_{number:06d}.bin").write_bytes(head + part.astype("<u2").tobytes())


def llm_c_wide(folder: Path, split: str, tokens: Tokens) -> None:
    """llm.c's version 7, of 32 bits."""
    head = struct.pack("<iii", 20240801, 7, len(tokens)) + bytes(1012)
    (folder / f"TinyStories_{split}.bin").write_bytes(head + tokens.astype("<u4").tobytes())


def build_nanogpt(folder: Path, split: str, tokens: Tokens) -> None:
    """build-nanogpt's, in three shards."""
    for number, part in enumerate(np.array_split(tokens, 3)):
        np.save(folder / f"edufineweb_{split}_{number:06d}.npy", part.astype(np.uint16))


def nanogpt(folder: Path, split: str, tokens: Tokens) -> None:
    """nanoGPT's, without a header."""
    (folder / f"{split}.bin").write_bytes(tokens.astype("<u2").tobytes())


LAYOUTS: dict[str, Callable[[Path, str, Tokens], None]] = {
    "llm.c": llm_c,
    "llm.c wide": llm_c_wide,
    "build-nanogpt": build_nanogpt,
    "nanoGPT": nanogpt,
}
