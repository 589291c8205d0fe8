"""The weights that OpenAI published, by name: where each file lies and what it must be, byte for byte."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from daybreak import files
from daybreak.config import closest
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.flops import parameter_count
from daybreak.model.weights import WEIGHTS

HUB = "https://huggingface.co"
"""Where the files are; $HF_ENDPOINT names a mirror, as for Hugging Face's own programs."""


@dataclass(frozen=True)
class Pretrained:
    """One published model. All of them take GPT-2's tokenizer."""

    repository: str
    revision: str
    """The commit, so that the file stays what it was."""
    sha256: str
    """Of model.safetensors."""
    config: GPTConfig
    """What config.json there says."""


_GPT2 = {name: dataclasses.replace(shape, dropout=0.1) for name, shape in SIZES["gpt2"].items()}

# The sha256 of a file is its id in the hub's git-lfs. Each stands in at least two public projects that pin or checked it, of which:
# gpt2, distilgpt2: ALLPROTO/core-lm-cross-model-lab, blind_v1/model-assets.draft.json; gpt2-medium: the same, models.json;
# gpt2-large: SyedNaveedMahmood/kd-sink, protocols/s1_artifact_partial_v1.json; gpt2-xl: mikepfrank/GPT-2-tools, src/gpt2_local/runtime.py.
PRETRAINED = {
    "gpt2": Pretrained(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        _GPT2["124m"],
    ),
    "gpt2-medium": Pretrained(
        "openai-community/gpt2-medium",
        "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
        _GPT2["355m"],
    ),
    "gpt2-large": Pretrained(
        "openai-community/gpt2-large",
        "32b71b12589c2f8d625668d2335a01cac3249519",
        "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
        _GPT2["774m"],
    ),
    "gpt2-xl": Pretrained(
        "openai-community/gpt2-xl",
        "15ea56dee5df4983c59b2538573817e1667135e2",
        "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
        _GPT2["1558m"],
    ),
    "distilgpt2": Pretrained(
        "distilbert/distilgpt2",
        "2290a62682d06624634c1f46a6ad5be0f47f38aa",
        "e1ff18884359fe8beb795a5f414feb85a6ce3d929ad019c0d958c039d2b94a1b",
        dataclasses.replace(_GPT2["124m"], n_layer=6),
    ),
}


def pretrained(name: str) -> Pretrained | None:
    """A published model by its name, with the owner or without (`gpt2-xl`, `openai-community/gpt2-xl`); None for another name."""
    return next((model for short, model in PRETRAINED.items() if name in (short, model.repository)), None)


def fetch(model: Pretrained) -> Path:
    """The folder in our cache with the model's weights, which are downloaded if they are not there or not whole.

    Raises FileProblem in one line if that fails.
    """
    folder = files.cache_folder() / "models" / model.repository.rpartition("/")[2]
    path = folder / WEIGHTS
    if path.is_file() and files.sha256(path) == model.sha256:
        return folder
    files.need_space(folder, 4 * parameter_count(model.config))
    url = f"{os.environ.get('HF_ENDPOINT') or HUB}/{model.repository}/resolve/{model.revision}/{WEIGHTS}"
    try:
        files.download(url, path, model.sha256)
    except files.FileProblem as error:
        raise files.FileProblem(f"{error}; {by_hand(model.repository)}") from None
    return folder


def by_hand(repository: str) -> str:
    """How to get a model of the hub without us."""
    return f"where there is a network, `hf download {repository} --local-dir DIR`, then `daybreak import DIR`"


def hint(name: str) -> str:
    """What to say of a name that is neither a folder nor a published model that is known here."""
    near = closest(name, [*PRETRAINED, *(model.repository for model in PRETRAINED.values())])
    return f"{near or '; by name there are ' + ', '.join(PRETRAINED)}; {by_hand(name if name.count('/') == 1 else 'OWNER/NAME')}"
