"""From a folder to a model that answers, and back: a run, finished or not, or a Hugging Face folder of a GPT-2.

    model = load("runs/dawn")
    for piece in model.write("The sun", temperature=0.8, max_tokens=50):
        print(piece, end="")

B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from daybreak import checkpoint, config, files
from daybreak.data.tokenizer import Tokenizer, TokenizerProblem, load_tokenizer
from daybreak.data.utf8 import Utf8Stream
from daybreak.inference.dtypes import chosen, in_dtype
from daybreak.inference.generate import Predictor, generate, keyed
from daybreak.inference.graphs import Recordings
from daybreak.inference.sampling import Sampling
from daybreak.inference.stopping import StopStrings
from daybreak.machine import choose_device, give_back
from daybreak.model import hf
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.kv_cache import KVCache
from daybreak.model.weights import WEIGHTS, read_weights
from daybreak.pretrained import Pretrained, fetch, pretrained
from daybreak.settings import Settings

Reshaping = Callable[[GPT], GPT]
"""Changes a model's structure: quantization, structured pruning, adapters. Its name is kept beside the weights."""

RESHAPINGS: dict[str, Reshaping] = {}
"""By name, what a saved model may have been through; `load` does it again before it reads the weights."""

_WORTH_RECORDING = 32
"""New tokens: before a step is replayed it is done three times for each of up to four windows, kernel by kernel."""


class Model:
    """A model with its tokenizer. Callable as the model is: (B, T) token ids to (B, T, V) logits."""

    def __init__(self, gpt: GPT, tokenizer: Tokenizer, reshapings: Sequence[str] = ()) -> None:
        self.gpt = gpt.eval()
        self.tokenizer = tokenizer
        self.reshapings = tuple(reshapings)
        """What it has been through, by name."""
        self.dtype = "fp32"
        """The number format it computes in, one of `inference.dtypes.DTYPES`."""
        self.mode: Callable[[], AbstractContextManager[object]] = torch.inference_mode
        """How it writes without gradients; `torch.no_grad` while its weights are a training run's."""
        self.recordings = Recordings()
        """Of its steps, on a GPU."""

    @property
    def config(self) -> GPTConfig:
        """The architecture."""
        return self.gpt.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.gpt.token_embedding.weight.device

    def __call__(self, tokens: Tensor, kv_cache: KVCache | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits."""
        logits: Tensor = self.gpt(tokens.to(self.device), kv_cache)
        return logits

    def _next(self, tokens: Tensor, kv_cache: KVCache | None) -> Tensor:
        """(B, T) token ids -> (B, 1, V) the last logits alone: for a long prompt the others take longer than a layer."""
        logits: Tensor = self.gpt(tokens.to(self.device), kv_cache, lambda x: self.gpt.unembed(x[:, -1:]))
        return logits

    def write(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = 50,
        top_p: float | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> Iterator[str]:
        """Continues `prompt`, yielding text as soon as its characters are complete, until `max_tokens`, a stop string or the text's end.

        An empty prompt begins a new text. The same seed writes the same. Raises ConfigError for impossible sampling settings.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty)
        if wrong := config.check(sampling):
            raise config.ConfigError(wrong)
        ids = self.tokenizer.encode(prompt).tolist() or [self.tokenizer.eot]
        stream, stops = Utf8Stream(), StopStrings(stop)
        with self._reader(max_tokens) as (predictor, kv_cache):
            tokens = generate(
                predictor,
                torch.tensor([ids], device=self.device),
                max_tokens=max_tokens,
                context_length=self.config.context_length,
                kv_cache=kv_cache,
                chooser=keyed(sampling, secrets.randbits(62) if seed is None else seed, len(ids)),
                mode=self.mode,
            )
            for token in tokens:
                if int(token) == self.tokenizer.eot:
                    break
                if text := stops.push(stream.push(self.tokenizer.token_bytes(int(token)))):
                    yield text
                if stops.stopped:
                    return
            if text := stops.push(stream.flush()) + stops.flush():
                yield text

    @contextmanager
    def _reader(self, max_tokens: int) -> Iterator[tuple[Predictor, KVCache]]:
        """What reads a text of so many new tokens, from a recording where that is worth making one and where the machine has any."""
        lasting = max_tokens >= _WORTH_RECORDING and self.mode is torch.inference_mode
        with self.recordings.lent(self.gpt) if lasting else nullcontext() as recorded:
            if recorded is not None:
                yield recorded.predict, KVCache(self.config, capacity=1)  # which only counts
            else:
                yield self._next, KVCache(self.config, device=self.device, dtype=self.gpt.cache_dtype)


def load(folder: str | Path, *, device: str = "auto", dtype: str = "fp32", reshapings: Mapping[str, Reshaping] = RESHAPINGS) -> Model:
    """Opens a run's folder (its finished model, else its newest checkpoint), or a folder in Hugging Face's form.

    `dtype`: the number format to compute in, one of `inference.dtypes.DTYPES`; auto takes the quickest that changes next to nothing.
    Raises FileProblem, or a ValueError of the part concerned, in one line.
    """
    model = _opened(Path(folder), device, reshapings)
    changed = decoding_in(model, dtype)
    if changed is model:
        return model
    if changed.gpt.head is not model.gpt.head and (rows := _rows_in_file(Path(folder), changed.gpt)) is not None:
        # The head is packed; of the rows only those that are looked up need to be in memory.
        changed.gpt.token_embedding = torch.nn.Embedding.from_pretrained(rows)  # type: ignore[no-untyped-call]
    del model
    give_back()  # what was there before it was packed
    return changed


def decoding_in(model: Model, dtype: str) -> Model:
    """A model in a number format, one of `inference.dtypes.DTYPES`. Raises ConfigError for one that is not for its device."""
    dtype = chosen(model.gpt, dtype)
    if dtype == model.dtype:
        return model
    changed = Model(in_dtype(model.gpt, dtype), model.tokenizer, model.reshapings)
    changed.dtype = dtype
    return changed


def _opened(folder: Path, device: str, reshapings: Mapping[str, Reshaping]) -> Model:
    if not folder.exists():
        known = f"; `daybreak import {folder} --out RUN_DIR` brings in the published model" if pretrained(str(folder)) else ""
        near = known or config.closest(folder.name, _neighbours(folder))
        raise files.FileProblem(f"{folder}: no such folder, wanted a run's folder{near}")
    place = choose_device(device)
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return _load_model(candidate, place, reshapings)
    if (folder / "settings.json").is_file():
        return _load_checkpoint(folder, place)
    raise files.FileProblem(f"{folder}: wanted a run's folder or a model's, found neither settings.json nor config.json in it")


def load_pretrained(published: Pretrained) -> Model:
    """A model that OpenAI published, from our cache or the network. Raises FileProblem or TokenizerProblem, in one line."""
    tokenizer = load_tokenizer("gpt2")  # before the weights, which take long
    folder = fetch(published)
    with torch.device("meta"):
        gpt = GPT(published.config)
    state = hf.import_state(read_weights(folder), published.config)
    return Model(_filled(gpt, state, folder, torch.device("cpu")), tokenizer)


def write_model(
    folder: Path,
    gpt: GPT,
    tokenizer: Tokenizer,
    reshapings: Sequence[str] = (),
    *,
    form: Literal["hf", "daybreak"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a finished model's folder, whole or not at all, replacing one of the same name.

    `form`: hf is what `transformers` opens as it is; daybreak, in our own names, holds any model; None takes hf wherever it can say
    all of the model. Raises hf.Unrepresentable, before anything is written, if it cannot be written as asked; OSError for a full disk.
    """
    if reshapings and form == "hf":
        been = ", ".join(reshapings)
        raise hf.Unrepresentable(f"the model was reshaped by {been}, which GPT2LMHeadModel cannot say; write it with --format daybreak")
    if reshapings and dtype != torch.float32:
        raise hf.Unrepresentable(f"the model was reshaped by {', '.join(reshapings)} and keeps its own number formats; leave out --dtype")
    if form is None:
        form = "daybreak" if reshapings or hf.unrepresentable(gpt.config) else "hf"
    ours = {"model": config.to_dict(gpt.config), "reshapings": list(reshapings), "tokenizer": tokenizer.fingerprint}
    if form == "hf":
        described = hf.export_config(gpt.config, tokenizer.eot, dtype)
        tensors = hf.export_state(gpt.state_dict(), gpt.config, dtype)
    else:
        described = {"model_type": "daybreak"}
        tensors = {
            name: (tensor if reshapings else tensor.to(dtype)).detach().cpu().contiguous() for name, tensor in gpt.state_dict().items()
        }
    with files.new_folder(folder) as temporary:
        try:
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(temporary / WEIGHTS)) from None  # so the library tells of a disk that is full
        files.write_json(temporary / "config.json", {**described, "daybreak": ours})
        (temporary / WEIGHTS).chmod((temporary / "config.json").stat().st_mode)  # safetensors' own may be read by nobody else
        tokenizer.save(temporary)


def _load_model(folder: Path, device: torch.device, reshapings: Mapping[str, Reshaping]) -> Model:
    described = files.read_json(folder / "config.json")
    ours = described.get("daybreak", {}) if isinstance(described, dict) else None
    if not isinstance(ours, dict):
        raise files.FileProblem(f"{folder / 'config.json'}: wanted a model's description, found other JSON; is the folder a model's?")
    try:
        shape = config.from_dict(GPTConfig, ours["model"] if "model" in ours else config.to_dict(hf.import_config(described)))
    except ValueError as error:
        raise files.FileProblem(f"{folder / 'config.json'}: {str(error).removeprefix('config.json: ')}") from None
    with torch.device("meta"):
        gpt = GPT(shape)
    reshaped = ours.get("reshapings", ())
    for name in reshaped:
        if name not in reshapings:
            raise files.FileProblem(f"{folder}: was reshaped by '{name}', which is not known here{config.closest(name, reshapings)}")
        gpt = reshapings[name](gpt)
    state = read_weights(folder)
    if described.get("model_type") != "daybreak":
        in_file = {tensor.data_ptr() for tensor in state.values()}
        try:
            state = hf.import_state(state, shape)
        except ValueError as error:
            raise files.FileProblem(f"{folder / WEIGHTS}: {error}") from None
        # What is still the file's, as a bias, would keep all of it in memory beside the copies of the rest.
        state = {name: tensor.clone() if tensor.data_ptr() in in_file else tensor for name, tensor in state.items()}
    elif not reshaped:
        state = {name: tensor.float() for name, tensor in state.items()}
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > shape.tokens:
        raise files.FileProblem(f"{folder}: wanted a tokenizer of at most the model's {shape.tokens:,} ids, came {tokenizer.vocab_size:,}")
    return Model(_filled(gpt, state, folder, device), tokenizer, reshaped)


def _rows_in_file(folder: Path, gpt: GPT) -> Tensor | None:
    """The token embedding as it lies in a model's file, of which the machine reads what is looked up; None where it is kept otherwise."""
    for path in (folder / "model" / WEIGHTS, folder / WEIGHTS):
        if path.is_file():
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.endswith(("wte.weight", "token_embedding.weight")):
                        rows: Tensor = file.get_tensor(name)
                        return rows if rows.dtype == torch.float32 and len(rows) >= gpt.config.tokens else None
    return None


def _load_checkpoint(run: Path, device: torch.device) -> Model:
    settings = config.load(Settings, run / "settings.json")
    for folder in reversed(checkpoint.found(run)):
        if not checkpoint.problems(folder):
            with torch.device("meta"):
                gpt = GPT(settings.model)
            return Model(_filled(gpt, checkpoint.read_model(folder), folder, device), load_tokenizer(run / "tokenizer"))
    raise files.FileProblem(f"{run}: has no finished model and no checkpoint that verifies yet; let `daybreak train {run}` go on")


def _filled(gpt: GPT, state: dict[str, Tensor], folder: Path, device: torch.device) -> GPT:
    try:
        gpt.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise files.FileProblem(f"{folder}: its weights do not fit its config.json ({str(error).splitlines()[-1].strip()})") from None
    return gpt.to(device)


def _neighbours(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []


__all__ = ["RESHAPINGS", "Model", "Reshaping", "TokenizerProblem", "load", "write_model"]
