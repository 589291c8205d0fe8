"""A model with its tokenizer as one GGUF file, which llama.cpp and the programs around it open; needs the extra `gguf`.

GGUF's architecture `gpt2` is the GPT-2 that OpenAI released: what Hugging Face's GPT2LMHeadModel can say, and no more. Matrices are
(out, in), as ours are. As llama.cpp's own converter does it, vectors and the position embedding stay in fp32 in every format.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from daybreak import files
from daybreak.data.ranks import END_OF_TEXT
from daybreak.data.tokenizer import Tokenizer
from daybreak.loading import Model
from daybreak.model import hf

FORMATS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""The number formats of the matrices, by our names and by GGUF's. Q8_0: blocks of 32 bytes with an fp16 scale, 8.5 bits a weight."""

_TOP = {"token_embedding": "token_embd", "position_embedding": "position_embd", "norm": "output_norm"}
_IN_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.out": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
_BLOCK = 32
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # kinds of tokens
_NEVER = f"{END_OF_TEXT} {END_OF_TEXT}"
"""A merge that no text can reach. llama.cpp refuses a vocabulary without merges, as that of `bytes` is."""


def unrepresentable(model: Model, dtype: str) -> str:
    """What a GGUF file of this model cannot say, in a sentence with the way out; "" if it can say all of it."""
    if model.reshapings:
        been = ", ".join(model.reshapings)
        return f"the model was reshaped by {been}, which GGUF's architecture gpt2 cannot say; write it with --format daybreak"
    if problem := hf.unrepresentable(model.config):
        return f"GGUF's architecture gpt2 holds what Hugging Face's does: {problem}"
    if model.tokenizer.name == "chars":
        return "tokenizer chars: GGUF knows byte-level tokenizers, this one has whole characters; train with --tokenizer bpe, bytes or gpt2"
    if dtype == "q8_0" and model.config.d_model % _BLOCK:
        return f"--dtype q8_0: wanted a d_model in blocks of {_BLOCK}, came {model.config.d_model}; write it with --dtype fp16"
    return ""


def write(folder: Path, model: Model, dtype: str, name: str) -> Path:
    """Writes `folder`/NAME-FORMAT.gguf, whole or not at all, and returns it.

    Raises hf.Unrepresentable before anything is written, FileProblem if the package is absent, OSError for a full disk.
    """
    if problem := unrepresentable(model, dtype):
        raise hf.Unrepresentable(problem)
    gguf = _package()
    tensors = list(_tensors(model))
    if missing := {ours for ours, _, _ in tensors} ^ set(model.gpt.state_dict()):
        raise hf.Unrepresentable(f"{min(missing)}: GGUF's architecture gpt2 has no such tensor; write it with --format daybreak")
    kind = gguf.GGMLQuantizationType[FORMATS[dtype]]
    path = f"{name}-{FORMATS[dtype]}.gguf"
    with files.new_folder(folder) as temporary:
        writer = gguf.GGUFWriter(temporary / path, "gpt2")
        _describe(writer, model, name, gguf.LlamaFileType["ALL_F32" if dtype == "fp32" else f"MOSTLY_{FORMATS[dtype]}"])
        _add_tokenizer(writer, model.tokenizer, model.config.tokens)
        for ours, theirs, tensor in tensors:
            numbers = tensor.detach().cpu().float().numpy()
            plain = numbers.ndim == 1 or ours == "position_embedding.weight" or dtype == "fp32"
            writer.add_tensor(theirs, numbers if plain else gguf.quantize(numbers, kind), raw_dtype=None if plain else kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder / path


def _package() -> Any:
    try:
        version("gguf")
    except PackageNotFoundError:
        raise files.FileProblem("--format gguf: wanted the package gguf, found none; pip install 'daybreak[gguf]'") from None
    import gguf

    return gguf


def _tensors(model: Model) -> Iterator[tuple[str, str, Tensor]]:
    """(our name, theirs, numbers) of each tensor; rows that only round the vocabulary up are cut off."""
    state = model.gpt.state_dict()
    for ours, _ in hf.names(model.config):
        parts = ours.split(".")
        if parts[0] == "blocks":
            theirs = f"blk.{parts[1]}.{_IN_BLOCK['.'.join(parts[2:-1])]}.{parts[-1]}"
        else:
            theirs = f"{_TOP[parts[0]]}.{parts[-1]}"
        yield ours, theirs, state[ours][: model.config.tokens] if ours == "token_embedding.weight" else state[ours]


def _describe(writer: Any, model: Model, name: str, file_type: int) -> None:
    writer.add_name(name)
    writer.add_context_length(model.config.context_length)
    writer.add_embedding_length(model.config.d_model)
    writer.add_block_count(model.config.n_layer)
    writer.add_feed_forward_length(4 * model.config.d_model)
    writer.add_head_count(model.config.n_head)
    writer.add_layer_norm_eps(model.config.layer_norm_epsilon)
    writer.add_file_type(file_type)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, tokens: int) -> None:
    """The vocabulary and its merges; ids of the model that the tokenizer never makes get a name of their own."""
    described = tokenizer.document()["model"]
    spelled = sorted(described["vocab"], key=described["vocab"].__getitem__)
    unused = tokens - len(spelled)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*spelled, *(f"[UNUSED{number}]" for number in range(unused))])
    writer.add_token_types([_NORMAL] * tokenizer.eot + [_CONTROL] + [_UNUSED] * unused)
    writer.add_token_merges(described["merges"] or [_NEVER])
    writer.add_bos_token_id(tokenizer.eot)
    writer.add_eos_token_id(tokenizer.eot)
    writer.add_add_bos_token(False)
