"""The text of a run, opened: its tokens, the tokenizer that made them, and where they are from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daybreak.data.foreign import open_manifest, open_tokenizer
from daybreak.data.manifest import Manifest
from daybreak.data.shards import TokenStream
from daybreak.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Data:
    """A data folder, opened: ours, or token shards of others."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    train: TokenStream
    val: TokenStream

    @staticmethod
    def open(folder: Path) -> Data:
        """Raises a named error if the folder holds neither prepared data nor token shards of others."""
        manifest = open_manifest(folder)
        return Data(
            folder,
            manifest,
            open_tokenizer(manifest),
            TokenStream(manifest.shard_paths("train")),
            TokenStream(manifest.shard_paths("val")),
        )
