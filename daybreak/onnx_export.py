"""A model as one ONNX file, which ONNX Runtime and the programs around it compute on any system; needs the extra `onnx`.

The graph is the model's own forward pass, so it holds modern models too, and reshaped ones that a graph can say: `tokens` (B, T) int64 to
`logits` (B, T, V) fp32, for any B and any T up to the context. It has no cache: who generates reads the whole text anew for each token. The
tokenizer lies beside it, as `tokenizers` and `transformers.AutoTokenizer` open it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daybreak import files
from daybreak.loading import Model
from daybreak.model import hf
from daybreak.model.attention import Attention, plain
from daybreak.model.gpt import GPT

PACKAGES = ("onnx", "onnxscript")
_MOST_BYTES = 1 << 30
"""Of weights within the file; a file of Protocol Buffers ends at 2 GB. More lie beside it, in NAME.onnx.data."""


def write(folder: Path, model: Model, name: str) -> Path:
    """Writes `folder`/NAME.onnx and the tokenizer, whole or not at all, and returns the file.

    Raises FileProblem if a package is absent, hf.Unrepresentable for a model that PyTorch cannot export, OSError for a full disk.
    """
    for package in PACKAGES:
        try:
            version(package)
        except PackageNotFoundError:
            raise files.FileProblem(f"--format onnx: wanted the package {package}, found none; pip install 'daybreak[onnx]'") from None
    try:
        program = _program(model.gpt)
    except (RuntimeError, ValueError) as error:  # a reshaped model may do what no graph can say
        raise hf.Unrepresentable(f"PyTorch cannot export this model ({_first_line(error)}); write it with --format daybreak") from error
    size = sum(parameter.nbytes for parameter in model.gpt.parameters())
    with files.new_folder(folder) as temporary:
        program.save(temporary / f"{name}.onnx", external_data=size > _MOST_BYTES)
        model.tokenizer.save(temporary)
    return folder / f"{name}.onnx"


def _program(gpt: GPT) -> Any:
    context = gpt.config.context_length
    tokens = torch.zeros(2, min(4, context), dtype=torch.long)  # a size of one would be taken for a constant
    open_sizes = {0: torch.export.Dim("batch")}
    if context > 1:
        open_sizes[1] = torch.export.Dim("time", max=context)
    with _as_written(gpt), _quietly():
        return torch.onnx.export(
            _Logits(gpt.eval()),
            (tokens,),
            dynamo=True,
            dynamic_shapes=(open_sizes,),
            input_names=["tokens"],
            output_names=["logits"],
            verbose=False,
        )


def _first_line(error: BaseException) -> str:
    """What the innermost cause says first; the exporter puts pages around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class _Logits(nn.Module):
    """The model with tokens for its only argument."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        logits: Tensor = self.gpt(tokens).float()
        return logits


@contextlib.contextmanager
def _as_written(gpt: GPT) -> Iterator[None]:
    """Has attention computed by the plain kernel, the only one that asks nothing of the length, for which the graph has to stay open."""
    kernels = {module: module.kernel for module in gpt.modules() if isinstance(module, Attention)}
    try:
        for module in kernels:
            module.kernel = plain
        yield
    finally:
        for module, kernel in kernels.items():
            module.kernel = kernel


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's words on packages and types that are no concern of a GPT's."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
