"""`daybreak import` and `export`: how models come in and leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from daybreak.cli import speak

if TYPE_CHECKING:
    from daybreak.loading import Model

_SOURCE = "A folder with a GPT-2 in Hugging Face's form, tokenizer included; or gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2."
_FORM = (
    "hf: what transformers and most other programs open; gguf: one file for llama.cpp; onnx: a graph for ONNX Runtime, of any model; "
    "daybreak: our own names, for any model."
)
_FORMS = ("hf", "gguf", "onnx", "daybreak")


def import_model(
    source: Annotated[str, typer.Argument(metavar="HF_DIR|NAME", help=_SOURCE)],
    out: Annotated[Path, typer.Option(help="The run's folder to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Bring in a GPT-2 that others trained, as a run's folder; one that OpenAI published by its name."""
    from daybreak import files, loading, pretrained

    _must_be_new(out)
    published = None if Path(source).exists() else pretrained.pretrained(source)
    if published is not None:
        speak.say(f"fetching {published.repository}, unless it is in {files.cache_folder()}")
        model = loading.load_pretrained(published)
    elif Path(source).exists():
        model = loading.load(source, device="cpu")
    else:
        raise files.FileProblem(f"{source}: no such folder, and no model that is known here by name{pretrained.hint(source)}")
    _write(model, out, out / "model", None, "fp32", as_json)


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, finished or not.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    form: Annotated[str, typer.Option("--format", help=_FORM)] = "hf",
    dtype: Annotated[str, typer.Option(help="The weights' number format: fp32, bf16, fp16; gguf has q8_0 too, onnx fp32 alone.")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Write a model in a form that other programs read."""
    from daybreak import config, gguf_export, loading, onnx_export
    from daybreak.model import hf

    _must_be_new(out)
    wrong = []
    if form not in _FORMS:
        wrong.append(f"--format: wanted hf, gguf, onnx or daybreak, came '{form}'{config.closest(form, _FORMS)}")
    dtypes = {"gguf": list(gguf_export.FORMATS), "onnx": ["fp32"]}.get(form, list(hf.DTYPES))
    if dtype not in dtypes:
        wrong.append(f"--dtype: wanted {', '.join(dtypes)}, came '{dtype}'{config.closest(dtype, dtypes)}")
    if wrong:
        raise config.ConfigError(wrong)
    model, name = loading.load(source, device="cpu"), source.resolve().name
    if form == "gguf":
        _write_file(lambda: gguf_export.write(out, model, dtype, name), out, model, as_json)
    elif form == "onnx":
        _write_file(lambda: onnx_export.write(out, model, name), out, model, as_json)
    else:
        _write(model, out, out, "daybreak" if form == "daybreak" else "hf", dtype, as_json)


def _must_be_new(out: Path) -> None:
    from daybreak import files

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise files.FileProblem(f"{out}: wanted a new or empty folder, it holds something already; give another --out")


def _write(model: Model, out: Path, folder: Path, form: Literal["hf", "daybreak"] | None, dtype: str, as_json: bool) -> None:
    """Writes a model to `folder`, which is `out` or in it."""
    from daybreak import files, loading
    from daybreak.model.hf import DTYPES

    try:
        loading.write_model(folder, model.gpt, model.tokenizer, model.reshapings, form=form, dtype=DTYPES[dtype])
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); give another --out") from None
    _tell(folder, model, as_json)


def _write_file(write: Callable[[], Path], out: Path, model: Model, as_json: bool) -> None:
    """Writes a model as a file in `out`."""
    from daybreak import files

    try:
        path = write()
    except OSError as error:
        raise files.FileProblem(f"{out}: cannot be written ({error.strerror or error}); give another --out") from None
    _tell(path, model, as_json)


def _tell(written: Path, model: Model, as_json: bool) -> None:
    from daybreak.model.flops import parameter_count

    parameters = parameter_count(model.config)
    speak.result({"model": str(written), "parameters": parameters}, as_json, f"{written}: a GPT of {parameters:,} parameters")
