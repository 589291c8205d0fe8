"""Token shards: files of token ids in llm.c's layout, and many of them read as one long array.

A shard is 256 int32 (magic 20240520, version 1, number of tokens, zeros), then the tokens as uint16, little-endian.

Three kinds that others publish are read as they are: llm.c's version 7 (magic 20240801, uint32 tokens),
build-nanogpt's `.npy` (uint16), and nanoGPT's `train.bin` and `val.bin` (uint16 without a header).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from daybreak.files import replacing

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
LARGEST_VOCABULARY = 65_536
LARGEST_SHARD = 2**31 - 1  # the header counts tokens in an int32

DTYPES: dict[tuple[int, int], np.dtype[Any]] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
HEADERLESS = {"train.bin", "val.bin"}

Tokens = NDArray[Any]


class ShardProblem(ValueError):
    """A shard that is damaged, of another kind, or cannot hold what it is asked to; the message names it."""


def header(tokens: int) -> bytes:
    """The 1,024 bytes that begin a shard of `tokens` tokens."""
    fields = np.zeros(256, dtype="<i4")
    fields[:3] = MAGIC, VERSION, tokens
    return fields.tobytes()


def check_vocabulary(vocab_size: int, name: str) -> None:
    """Raises ShardProblem if ids of a vocabulary do not fit into uint16."""
    if vocab_size > LARGEST_VOCABULARY:
        raise ShardProblem(
            f"tokenizer {name}: has {vocab_size:,} tokens; shards hold 16-bit ids, so at most {LARGEST_VOCABULARY:,}; choose a smaller one"
        )


class ShardWriter:
    """Writes a stream of tokens to `folder/{prefix}-000000.bin`, `-000001.bin`, ...: each of exactly `shard_tokens`, the last shorter.

    Use as a context manager. Every shard appears whole, under its name, or not at all. `paths` lists those that are finished.
    """

    def __init__(self, folder: Path, prefix: str, shard_tokens: int) -> None:
        if not 1 <= shard_tokens <= LARGEST_SHARD:
            raise ShardProblem(f"shard_tokens: wanted 1 to {LARGEST_SHARD:,}, came {shard_tokens:,}")
        self.folder, self.prefix, self.shard_tokens = folder, prefix, shard_tokens
        self.paths: list[Path] = []
        self._replacing: Any = None
        self._file: IO[bytes] | None = None
        self._written = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None:
            return
        if kind is None:
            self._finish()
        else:
            self._replacing.__exit__(kind, error, trace)

    def write(self, tokens: Tokens) -> None:
        """Adds tokens (n,) of any integer dtype; ids must lie in 0..65535, or ShardProblem is raised."""
        if tokens.dtype != np.uint16 and len(tokens) and (tokens.min() < 0 or tokens.max() >= LARGEST_VOCABULARY):
            raise ShardProblem(f"{self.prefix}: token ids must lie in 0..65,535, came {tokens.min():,}..{tokens.max():,}")
        tokens = tokens.astype("<u2", copy=False)
        while len(tokens):
            if self._file is None:
                path = self.folder / f"{self.prefix}-{len(self.paths):06d}.bin"
                self._replacing = replacing(path)
                self._file = self._replacing.__enter__()
                self._file.write(header(0))  # rewritten when the number is known
                self.paths.append(path)
            piece, tokens = np.split(tokens, [self.shard_tokens - self._written])
            self._file.write(piece.data)
            self._written += len(piece)
            if self._written == self.shard_tokens:
                self._finish()

    def _finish(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._file.write(header(self._written))
        self._file, self._written = None, 0
        self._replacing.__exit__(None, None, None)


def read_shard(path: Path) -> Tokens:
    """The tokens of a shard, (n,) uint16 or uint32, mapped from the disk and read-only.

    Raises ShardProblem if the file is missing, of an unknown kind, or not exactly as long as its header says.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise ShardProblem(f"{path}: wanted a token shard, found nothing there; copy or prepare it again") from None
    except OSError as error:
        raise ShardProblem(f"{path}: wanted a token shard, cannot be read ({error.strerror}); check the file and its permissions") from None
    if start.startswith(b"\x93NUMPY"):
        return _read_npy(path)
    magic, version, count = (int(field) for field in np.frombuffer(start[:12], "<i4")) if len(start) >= 12 else (0, 0, 0)
    dtype = DTYPES.get((magic, version))
    if dtype is None and path.name in HEADERLESS and magic not in {known for known, _ in DTYPES}:
        return _read_headerless(path, size)
    if dtype is None or len(start) < HEADER_BYTES:
        raise ShardProblem(f"{path}: wanted a token shard (magic {MAGIC}, version {VERSION}), {_what_came(start, magic, version, size)}")
    expected = HEADER_BYTES + count * dtype.itemsize
    if count < 0 or size != expected:
        raise ShardProblem(
            f"{path}: its header says {count:,} tokens ({expected:,} bytes), the file has {size:,} bytes: cut short or damaged; "
            "copy or prepare it again"
        )
    return _mapped(path, dtype, HEADER_BYTES, count)


def _what_came(start: bytes, magic: int, version: int, size: int) -> str:
    if len(start) < HEADER_BYTES:
        return f"the file has {size:,} bytes, fewer than the header's {HEADER_BYTES:,}; copy or prepare it again"
    if magic == 20240522:
        return "came llm.c's evaluation file (magic 20240522), which holds questions and not a text; name a shard of text"
    return f"came magic {magic}, version {version}: it is no shard, or its first bytes are damaged; copy or prepare it again"


def _read_npy(path: Path) -> Tokens:
    try:
        tokens: Tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ShardProblem(f"{path}: wanted build-nanogpt's .npy shard, cannot be read ({error}); copy it again") from None
    if tokens.ndim != 1 or tokens.dtype not in (np.dtype("<u2"), np.dtype("<u4")):
        raise ShardProblem(
            f"{path}: wanted one row of uint16 tokens, came an array of {tokens.dtype} with shape {tokens.shape}; prepare it again"
        )
    size, expected = path.stat().st_size, tokens.offset + tokens.nbytes  # type: ignore[attr-defined]
    if size != expected:
        raise ShardProblem(f"{path}: its header says {expected:,} bytes, the file has {size:,}: damaged; copy it again")
    return tokens


def _read_headerless(path: Path, size: int) -> Tokens:
    if size % 2:
        raise ShardProblem(f"{path}: wanted nanoGPT's uint16 tokens, came an odd number of bytes ({size:,}); copy or prepare it again")
    return _mapped(path, np.dtype("<u2"), 0, size // 2)


def _mapped(path: Path, dtype: np.dtype[Any], offset: int, count: int) -> Tokens:
    if count == 0:  # an empty range cannot be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, (count,)))  # a plain array: its slices cost half


def find_shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split ("train" or "val") in a folder, in order: ours and the names that others use.

    Those are `train-000000.bin`, `fineweb_train_000001.bin`, `edufineweb_val_000000.npy`, `train.bin`, ...
    Raises ShardProblem if there are none.
    """
    pattern = re.compile(rf"(.*[-_.])?{re.escape(split)}([-_.]?\d+)?\.(bin|npy)")
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in entries if not path.name.startswith(".") and pattern.fullmatch(path.name)]
    if not paths:
        raise ShardProblem(f"{folder}: wanted shards named like {split}-000000.bin, found none; make them with `daybreak data prepare`")
    return paths


class TokenStream:
    """Shards as one long array of tokens that stays on the disk. Positions count from the first shard's first token.

    Raises ShardProblem if a shard cannot be used, or if they hold tokens of different widths.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise ShardProblem("wanted at least one shard, came an empty list")
        self.paths = tuple(Path(path) for path in paths)
        self.shards = [read_shard(path) for path in self.paths]
        self._sizes = [path.stat().st_size for path in self.paths]
        self.dtype: np.dtype[Any] = self.shards[0].dtype
        for path, shard in zip(self.paths, self.shards, strict=True):
            if shard.dtype != self.dtype:
                raise ShardProblem(f"{path}: holds {shard.dtype} tokens, {self.paths[0].name} holds {self.dtype}; use shards of one kind")
        self.ends: NDArray[np.int64] = np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _look_at(self, shards: set[int]) -> None:
        """Raises ShardProblem for a file that has changed since it was opened: to read on where it was cut would end the process."""
        for shard in shards:
            path, size = self.paths[shard], self._sizes[shard]
            now = path.stat().st_size if path.exists() else None
            if now != size:
                came = "it is gone" if now is None else f"it has {now:,} bytes"
                raise ShardProblem(
                    f"{path}: had {size:,} bytes when it was opened, now {came}; put it back, then give the same command to go on"
                )

    def __reduce__(self) -> tuple[type[TokenStream], tuple[tuple[Path, ...]]]:
        return (TokenStream, (self.paths,))  # a worker process maps the files itself; mapped pages are never pickled

    def read(self, start: int, count: int) -> Tokens:
        """Tokens start .. start + count, as a new array (count,). Raises ShardProblem if they reach outside the stream."""
        if start < 0 or count < 0 or start + count > len(self):
            raise ShardProblem(f"wanted tokens {start:,} to {start + count:,}, the stream has {len(self):,}")
        out = np.empty(count, self.dtype)
        filled = 0
        shard = int(np.searchsorted(self.ends, start, side="right"))
        while filled < count:
            tokens = self.shards[shard]
            offset = start + filled - (int(self.ends[shard]) - len(tokens))
            piece = tokens[offset : offset + count - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            shard += 1
        return out

    def windows(self, starts: NDArray[np.integer[Any]], length: int) -> Tokens:
        """The windows of `length` tokens that begin at `starts` (n,): a new array (n, length).

        Raises ShardProblem if a window reaches outside the stream.
        """
        starts = np.asarray(starts, dtype=np.int64)
        if len(starts) and (length < 0 or starts.min() < 0 or int(starts.max()) + length > len(self)):
            raise ShardProblem(f"windows of {length:,} tokens at {starts.min():,} to {starts.max():,}: the stream has {len(self):,}")
        out = np.empty((len(starts), length), self.dtype)
        shards = np.searchsorted(self.ends, starts, side="right")
        self._look_at(set(shards.tolist()))
        ends = self.ends[shards] if len(starts) else starts
        # Slices of a mapped file are faster than one index array, which gathers token by token.
        for row, (start, shard, end) in enumerate(zip(starts.tolist(), shards.tolist(), ends.tolist(), strict=True)):
            if start + length <= end:
                offset = start - end + len(self.shards[shard])
                out[row] = self.shards[shard][offset : offset + length]
            else:
                out[row] = self.read(start, length)
        return out
