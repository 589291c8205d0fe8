"""The text of a run, opened: its tokens, the tokenizer that made them, and where they are from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daybreak.data.manifest import Manifest, load_manifest
from daybreak.data.shards import TokenStream
from daybreak.data.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Data:
    """A prepared data folder, opened."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenStream
    val: TokenStream

    @staticmethod
    def open(folder: Path) -> Data:
        """Raises a named error if the folder is no prepared data."""
        manifest = load_manifest(folder)
        return Data(
            folder,
            manifest,
            load_tokenizer(folder / "tokenizer"),
            TokenStream(manifest.shard_paths("train")),
            TokenStream(manifest.shard_paths("val")),
        )
