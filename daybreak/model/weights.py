"""The tensors of a model's folder: one safetensors file, or many with an index, as the hub keeps large models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from daybreak.files import FileProblem, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Where the files are many: {"weight_map": {tensor: file}}."""

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHERS = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by name, in the dtype it is kept in. Raises FileProblem that names the file."""
    if (folder / WEIGHTS).is_file():
        return _tensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _tensors_of_many(folder)
    raise FileProblem(f"{folder / WEIGHTS}: wanted the model's weights, found {_what_came(folder)}")


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FileProblem(f"{path}: wanted a part of the model's weights, found nothing there; copy it too") from None
    except (SafetensorError, OSError) as error:
        raise FileProblem(f"{path}: cannot be read ({error})") from None


def _tensors_of_many(folder: Path) -> dict[str, Tensor]:
    index = read_json(folder / INDEX)
    places: Any = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) and Path(file).name == file for file in places.values()):
        raise FileProblem(f"{folder / INDEX}: wanted a weight_map from tensors to files beside it, came other JSON; copy it again")
    parts = {file: _tensors(folder / file) for file in sorted(set(places.values()))}
    if missing := [f"{name} in {file}" for name, file in places.items() if name not in parts[file]]:
        raise FileProblem(f"{folder / INDEX}: wanted {missing[0]}, it is not there; the files are not of one model, copy them again")
    return {name: parts[file][name] for name, file in places.items()}


def _what_came(folder: Path) -> str:
    """What a folder holds instead of safetensors, and what helps."""
    if found := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        return (
            f"{found[0]}, a pickle, which is not opened here as it can run code; where you trust it, write the folder anew with "
            f"`transformers`: AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(DIR)"
        )
    if found := sorted(path.name for pattern in _OTHERS for path in folder.glob(pattern)):
        return f"{found[0]}, which is not read here; get the model as safetensors"
    return "nothing there"
