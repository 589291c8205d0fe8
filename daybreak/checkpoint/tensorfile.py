"""Tensors to a safetensors file from memory that is used again and again, and rows of tensors back from many such files.

The library's own writer copies every tensor once more, and holds the interpreter meanwhile; training would wait for it.
The form is 8 bytes of header length, a header in JSON, and the tensors' bytes: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from daybreak import files
from daybreak.checkpoint.folder import INDEX, CheckpointProblem

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 64 << 20


def dtype_name(name: str, tensor: Tensor) -> str:
    """The dtype as safetensors calls it. Raises CheckpointProblem for one that cannot be kept."""
    if tensor.dtype not in _NAMES:
        raise CheckpointProblem(f"{name}: wanted one of {', '.join(_NAMES.values())}, came {tensor.dtype}")
    return _NAMES[tensor.dtype]


class HostCopy:
    """The content of one file in host memory. `take` overwrites it; the memory grows to the largest content and is then used again."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._header = b""
        self._size = 0

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors here. From a GPU the copying is only begun: it is done when the current stream has come so far."""
        described: dict[str, Any] = {}
        self._size = 0
        for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):  # the widest first: all are aligned
            tensor = tensors[name]
            end = self._size + tensor.numel() * tensor.element_size()
            described[name] = {"dtype": dtype_name(name, tensor), "shape": list(tensor.shape), "data_offsets": [self._size, end]}
            self._size = end
        self._reserve(pinned=any(tensor.is_cuda for tensor in tensors.values()))
        for name, row in described.items():
            if tensors[name].numel():
                start, end = row["data_offsets"]
                there = self._memory[start:end].view(tensors[name].dtype).view(tensors[name].shape)
                there.copy_(tensors[name], non_blocking=tensors[name].is_cuda)
        header = json.dumps(described, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._header = len(header).to_bytes(8, "little") + header

    def __len__(self) -> int:
        return len(self._header) + self._size

    def write(self, path: Path) -> None:
        """Writes the file and flushes it to the disk."""
        with open(path, "wb") as file:
            for piece in self._pieces():
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def sha256(self) -> str:
        """Of the file as it should be."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    def _reserve(self, pinned: bool) -> None:
        if len(self._memory) < self._size or pinned != self._pinned:
            self._memory = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
            self._memory = torch.empty(self._size, dtype=torch.uint8, pin_memory=pinned)
            self._pinned = pinned

    def _pieces(self) -> Iterator[bytes | memoryview]:
        yield self._header
        content = self._memory.numpy().data[: self._size]
        for start in range(0, self._size, _PIECE):
            yield content[start : start + _PIECE]


class Pieces:
    """The tensors of a checkpoint, put together from the files that hold their rows. A context manager; the files stay open in it.

    Raises CheckpointProblem, also where rows are missing. Verify the folder first: nothing is checked again here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.index: dict[str, Any] = files.read_json(folder / INDEX)
        self._open: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        if isinstance(error, SafetensorError | OSError | KeyError | TypeError):
            raise CheckpointProblem(f"{self._folder}: cannot be read ({type(error).__name__}: {error})") from None

    def empty(self, kind: str, name: str) -> Tensor:
        """A tensor of the kept shape and dtype, whose values are yet to be read."""
        entry = self.index[kind][name]
        return torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])

    def fill(self, rows: Tensor, kind: str, name: str, first: int = 0) -> None:
        """Fills `rows` with the rows of a tensor from `first` on, as many as there is room for."""
        if rows.numel() == 0:
            return
        entry = self.index[kind][name]
        if not entry["shape"]:
            rows.copy_(self._file(entry["pieces"][0][0]).get_tensor(name))
            return
        end, filled = first + rows.shape[0], 0
        for file, start, count in entry["pieces"]:
            low, high = max(first, start), min(end, start + count)
            if low < high:
                rows[low - first : high - first].copy_(self._file(file).get_slice(name)[low - start : high - start])
                filled += high - low
        if filled != rows.shape[0]:
            raise CheckpointProblem(f"{self._folder}: {name}: wanted rows {first} to {end}, found {filled} of them")

    def whole_file(self, file: str, prefix: str) -> dict[str, Tensor]:
        """The tensors of one file whose names begin so."""
        opened = self._file(file)
        return {name: opened.get_tensor(name).clone() for name in opened.keys() if name.startswith(prefix)}  # noqa: SIM118 - not a dict

    def _file(self, file: str) -> Any:
        if file not in self._open:
            if Path(file).name != file:
                raise CheckpointProblem(f"{self._folder / INDEX}: names {file}, which is no file of this folder")
            self._open[file] = self._stack.enter_context(safe_open(self._folder / file, framework="pt"))
        return self._open[file]
