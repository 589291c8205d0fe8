"""How fast a model of 124M's shape writes on one thread, beside Hugging Face, llama.cpp and CTranslate2, all in turns in one run.

    DAYBREAK_GPT2_VOCAB=gpt2.tiktoken python benchmarks/decode.py [--rounds 5]

The weights are random and the same for all. Each writer has a process of its own, so that none finds the others' threads. Milliseconds
are the processor's, the smallest of some rounds; those of a token are of 49 new tokens behind a prompt of 16, less those of one, divided
by 48. Peers that are not installed are left out, and their bars with them: `pip install transformers llama-cpp-python gguf ctranslate2`.

Prompt lookup is measured on a model that knows source files of this package by heart: it computes all that a model of this shape
does, and then says the file's next token. So guesses are right as often as they are for a model that writes such code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from record import bar, record
from torch import Tensor, nn

from daybreak.data.tokenizer import load_tokenizer
from daybreak.inference.engine import Engine
from daybreak.inference.formats import FORMATS, in_format
from daybreak.inference.generate import generate, keyed
from daybreak.inference.requests import Limits, Request
from daybreak.inference.sampling import Sampling
from daybreak.inference.speculation import PromptLookup
from daybreak.inference.trials import measure, quickest
from daybreak.loading import load, write_model
from daybreak.model.config import SIZES
from daybreak.model.gpt import GPT
from daybreak.model.init import build
from daybreak.model.kv_cache import KVCache

CONFIG = SIZES["gpt2"]["124m"]
PROMPT = tuple(range(1000, 1016))
LONG_PROMPT = tuple(range(1000, 1128))
NEW = 48
GREEDY = Sampling(0)
FILES = [
    Path(__file__).parents[1] / "daybreak" / name for name in ("inference/engine.py", "model/attention.py", "training/loop.py", "story.py")
]

Writer = Callable[[Sequence[int], int], object]
"""(prompt, how many tokens) -> writes them, greedily."""


# --- who writes --------------------------------------------------------------------------------------------------------------------


def ours(gpt: GPT) -> Writer:
    """As `Model.write` does it."""

    def write(prompt: Sequence[int], count: int) -> list[int]:
        def last(tokens: Tensor, kv_cache: KVCache | None) -> Tensor:
            logits: Tensor = gpt(tokens, kv_cache, lambda x: gpt.unembed(x[:, -1:]))
            return logits

        chooser, cache = keyed(GREEDY, 0, len(prompt)), KVCache(CONFIG, dtype=gpt.cache_dtype)
        tokens = torch.tensor([prompt])
        how = {"context_length": 1024, "kv_cache": cache, "chooser": chooser, "mode": torch.inference_mode}
        return [int(t) for t in generate(last, tokens, max_tokens=count, **how)]  # type: ignore[arg-type]

    return write


def hugging_face(folder: Path) -> Writer:
    """`generate` in fp32, with its own cache."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def write(prompt: Sequence[int], count: int) -> object:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            mask = torch.ones_like(ids)
            return model.generate(ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=50256)

    return write


def llama_cpp(folder: Path, kind: str) -> Writer:
    """llama.cpp through its Python binding, on a GGUF file written here."""
    from llama_cpp import Llama

    model = Llama(str(_gguf(folder, kind)), n_ctx=256, n_threads=1, n_threads_batch=1, n_batch=128, verbose=False)

    def write(prompt: Sequence[int], count: int) -> object:
        model.reset()
        written = model.generate(list(prompt), temp=0.0, top_k=1)
        return [token for token, _ in zip(written, range(count), strict=False)]

    return write


def _gguf(folder: Path, kind: str) -> Path:
    import gguf
    from safetensors.numpy import load_file

    path = folder / f"{kind}.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(CONFIG.context_length)
    writer.add_embedding_length(CONFIG.d_model)
    writer.add_block_count(CONFIG.n_layer)
    writer.add_feed_forward_length(4 * CONFIG.d_model)
    writer.add_head_count(CONFIG.n_head)
    writer.add_layer_norm_eps(CONFIG.layer_norm_epsilon)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocab = sorted({**document["vocab"], "<|endoftext|>": 50256}.items(), key=lambda pair: pair[1])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([1] * 50256 + [3])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(50256)
    writer.add_eos_token_id(50256)
    names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm"}
    names |= {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    quantized = gguf.GGMLQuantizationType[kind]
    for name, tensor in load_file(folder / "model.safetensors").items():
        parts = name.removeprefix("transformer.").split(".")
        block, rest = (f"blk.{parts[1]}.", parts[2:]) if parts[0] == "h" else ("", parts)
        if ".".join(rest[:-1]) not in names:
            continue
        new = f"{block}{names['.'.join(rest[:-1])]}.{rest[-1]}"
        values = tensor.T.copy() if rest[0] in ("attn", "mlp") and rest[-1] == "weight" else tensor
        if values.ndim == 2 and "wpe" not in rest:
            writer.add_tensor(new, gguf.quants.quantize(values, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(new, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ctranslate2(folder: Path) -> Writer:
    """CTranslate2 in int8."""
    import ctranslate2 as ct2
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(folder / "ct2"), quantization="int8", force=True)
    model = ct2.Generator(str(folder / "ct2"), compute_type="int8", intra_threads=1, inter_threads=1)
    by_id = json.loads((folder / "ct2" / "vocabulary.json").read_text(encoding="utf-8"))

    def write(prompt: Sequence[int], count: int) -> object:
        words = [by_id[token] for token in prompt]
        return model.generate_batch([words], max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False)

    return write


def in_our_format(folder: Path, name: str, native: bool = True) -> Writer:
    """As `daybreak sample` opens it, with the kernels of our own or by torch's operations alone."""
    os.environ["DAYBREAK_NATIVE"] = str(int(native))
    return ours(load(folder, device="cpu", dtype=name).gpt)


PEERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Writer]]] = {
    "hugging face fp32": (("transformers",), hugging_face),
    "llama.cpp F16": (("llama_cpp", "gguf"), partial(llama_cpp, kind="F16")),
    "llama.cpp Q8_0": (("llama_cpp", "gguf"), partial(llama_cpp, kind="Q8_0")),
    "llama.cpp Q4_0": (("llama_cpp", "gguf"), partial(llama_cpp, kind="Q4_0")),
    "ctranslate2 int8": (("ctranslate2", "transformers"), ctranslate2),
}
"""By name: what has to be installed, and who then writes."""

WRITERS: dict[str, Callable[[Path], Writer]] = {
    **{name: partial(in_our_format, name=name) for name in ("fp32", *FORMATS)},
    **{f"{name} by torch": partial(in_our_format, name=name, native=False) for name, form in FORMATS.items() if "native" in form.quick},
    **{name: make for name, (_, make) in PEERS.items()},
}


def absent() -> dict[str, list[str]]:
    """The peers that are not here, and what they lack."""
    lacks = {name: [package for package in packages if find_spec(package) is None] for name, (packages, _) in PEERS.items()}
    return {name: packages for name, packages in lacks.items() if packages}


def _write_when_asked(name: str, folder: Path, asked: Connection) -> None:
    """A writer's process: for each (prompt, count) the seconds that it took, until nobody asks any more."""
    torch.set_num_threads(1)
    write = WRITERS[name](folder)
    asked.send(None)  # it is ready
    while (task := asked.recv()) is not None:
        asked.send(seconds(partial(write, *task)))


@contextmanager
def processes(names: Sequence[str], folder: Path) -> Iterator[dict[str, Connection]]:
    """Every writer in its own, ready; one at a time makes itself so."""
    spawn = get_context("spawn")
    found: dict[str, Connection] = {}
    try:
        for name in names:
            found[name], theirs = spawn.Pipe()
            spawn.Process(target=_write_when_asked, args=(name, folder, theirs), daemon=True).start()
            theirs.close()
            found[name].recv()
        yield found
    finally:
        for pipe in found.values():
            with suppress(BrokenPipeError):
                pipe.send(None)


# --- what is measured --------------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, in all threads of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def per_token(found: dict[str, Connection], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds a token and tokens a second of prefill, the writers taking turns."""
    cases = {"one": (PROMPT, 1), "many": (PROMPT, 1 + NEW), "prefill": (LONG_PROMPT, 1)}
    best: dict[str, dict[str, float]] = {name: {} for name in found}
    for turn in range(rounds + 1):
        for name, pipe in found.items():
            for case, task in cases.items():
                pipe.send(task)
                took: float = pipe.recv()
                if turn:  # the first is for caches and lazy parts
                    best[name][case] = min(best[name].get(case, took), took)
    return {
        name: {"milliseconds": 1000 * (row["many"] - row["one"]) / NEW, "prefill": len(LONG_PROMPT) / row["prefill"]}
        for name, row in best.items()
    }


def drained(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """All at once through an engine: the tokens of each."""
    heard: list[list[int]] = [[] for _ in requests]
    for request, tokens in zip(requests, heard, strict=True):
        engine.submit(request, lambda emitted, tokens=tokens: tokens.append(emitted.token))  # type: ignore[misc]
    _drain(engine)
    return heard


def together(gpt: GPT, rounds: int) -> dict[str, Any]:
    """32 requests at once and the same one after another, tokens a second of the processor."""
    prompts = [tuple((token + 97 * n) % 50000 for token in PROMPT) for n in range(32)]
    requests = [Request(prompt, NEW, GREEDY, ignore_eot=True) for prompt in prompts]
    write = ours(gpt)
    engine = Engine(gpt, lambda token: b"", 50256, Limits(running=32, cache_tokens=4096), speculator=None, reuse=False)
    once, alone, same = [], [], 0
    for _ in range(max(1, rounds // 2)):
        heard: list[list[int]] = []
        one_by_one: list[Any] = []
        once.append(seconds(lambda heard=heard: heard.extend(drained(engine, requests))))  # type: ignore[misc]
        alone.append(seconds(lambda kept=one_by_one: kept.extend(write(prompt, NEW) for prompt in prompts)))  # type: ignore[misc]
        same = sum(a == b for a, b in zip(heard, one_by_one, strict=True))
    count = 32 * NEW
    return {"together": count / min(once), "one after another": count / min(alone), "same texts": same}


class ByHeart(nn.Module):
    """Computes what a model does, and says the next token of a text that it knows."""

    def __init__(self, gpt: GPT, text: Sequence[int]) -> None:
        super().__init__()
        self.config, self.token_embedding, self.cache_dtype, self._gpt = gpt.config, gpt.token_embedding, gpt.cache_dtype, gpt
        self._text = torch.tensor([*text, 0])

    def forward(self, tokens: Tensor, kv_cache: Any, unembed: Callable[[Tensor], Tensor]) -> Tensor:
        """As a model's; positions travel as one more number beside each state."""
        positions = kv_cache.positions(tokens.shape[1])[None, :, None]
        logits: Tensor = self._gpt(tokens, kv_cache, lambda x: unembed(torch.cat([x, positions.to(x.dtype)], dim=-1)))
        return logits

    def unembed(self, x: Tensor) -> Tensor:
        """(B, T, C + 1) -> (B, T, V)."""
        known = self._text[x[..., -1].long() + 1]
        return self._gpt.unembed(x[..., :-1].contiguous()).scatter(-1, known[..., None], 1e4)


def lookup(gpt: GPT, texts: Sequence[Sequence[int]], rounds: int) -> dict[str, Any]:
    """Source files, of each the first 512 tokens given and 256 written, with prompt lookup and without, in turns."""
    took: dict[str, float] = {"with": 0.0, "without": 0.0}
    same, drafted, accepted = True, 0, 0
    for text in texts:
        knows: Any = ByHeart(gpt, text)
        request = Request(tuple(text[:512]), 256, GREEDY, ignore_eot=True)
        best: dict[str, float] = {}
        for _ in range(max(2, rounds // 2)):
            for name in took:
                speculator = PromptLookup if name == "with" else None
                engine = Engine(knows, lambda token: b"", 50256, Limits(cache_tokens=1024), speculator=speculator, reuse=False)
                heard: list[int] = []
                engine.submit(request, lambda emitted, heard=heard: heard.append(emitted.token))  # type: ignore[misc]
                while not heard:  # the prompt is read alike
                    engine.step()
                spent = seconds(partial(_drain, engine))
                best[name] = min(best.get(name, spent), spent)
                same = same and heard == list(text[512:768])
                if name == "with":
                    last = engine.stats
        drafted, accepted = drafted + last.drafted_tokens, accepted + last.accepted_tokens
        took = {name: total + best[name] for name, total in took.items()}
    return {"faster": took["without"] / took["with"], "accepted": accepted / max(1, drafted), "identical": same}


def _drain(engine: Engine) -> None:
    while engine.step():
        pass


OPENING = """
import sys, time
started = time.perf_counter()
import torch
import daybreak
from daybreak.loading import load
from daybreak.data.tokenizer import load_tokenizer
if len(sys.argv) > 2:
    model = load(sys.argv[1], device="cpu", dtype=sys.argv[2])
    next(model.write("The sun", temperature=0, max_tokens=8))
else:
    torch.ones(8, 8) @ torch.ones(8, 8)
    import daybreak.inference.engine, safetensors.torch
    tokenizer = load_tokenizer(sys.argv[1])
took = time.perf_counter() - started
import gc; gc.collect()
pages = int(open("/proc/self/statm").read().split()[1])
import resource, json
print(json.dumps([took, pages * resource.getpagesize() / 1e6]))
"""


def opening(folder: Path, dtype: str | None) -> tuple[float, float]:
    """Seconds by the clock to import, load and write the first words in a new process; its resident megabytes then.

    Without a dtype, of what runs it: Python, the libraries and the tokenizer.
    """
    words = [str(folder), dtype] if dtype else [str(folder)]
    told = subprocess.run([sys.executable, "-c", OPENING, *words], capture_output=True, text=True, check=True)
    took, resident = json.loads(told.stdout.splitlines()[-1])
    return took, resident


def megabytes(name: str) -> float:
    """Of the weights that a token is computed with, head included, in a format."""
    bits = {"fp32": 32, "bf16": 16, "fp16w": 16, "int8": 8, "int4": 5}[name]
    return (12 * 12 * 768**2 + 50304 * 768) * bits / 8 / 1e6


def ratios(rows: dict[str, dict[str, float]]) -> Iterator[dict[str, Any]]:
    """The bars of speed, as far as the peers are there."""
    wanted = [
        ("fp16w", "hugging face fp32", ">= 3.0"),
        ("fp16w", "llama.cpp F16", ">= 1.0"),
        ("int8", "hugging face fp32", ">= 4.5"),
        ("int8", "ctranslate2 int8", ">= 2.2"),
        ("int8", "llama.cpp Q8_0", ">= 0.95"),
        ("int4", "hugging face fp32", ">= 5.0"),
        ("int4", "llama.cpp Q4_0", ">= 0.85"),
    ]
    for mine, peer, want in wanted:
        if peer in rows:
            yield bar(f"{mine}, times as fast as {peer}", rows[peer]["milliseconds"] / rows[mine]["milliseconds"], want)
    if best := max((row["prefill"] for name, row in rows.items() if name.startswith("llama.cpp")), default=0):
        yield bar("prefill of 128 tokens in int8, times llama.cpp's best", rows["int8"]["prefill"] / best, ">= 2")
    if "hugging face fp32" in rows:
        yield bar(
            "prefill of 128 tokens in int8, times hugging face", rows["int8"]["prefill"] / rows["hugging face fp32"]["prefill"], ">= 4.5"
        )


def main() -> None:
    """Everything, and benchmarks/results/decode.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer("gpt2")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        gpt = build(CONFIG, 0).eval()
        write_model(folder, gpt, tokenizer)
        runtime = min(opening(folder, None)[1] for _ in range(2))
        opened = {dtype: min(opening(folder, dtype) for _ in range(4)) for dtype in ("auto", "int8", "fp32")}
        missing = absent()
        with processes([name for name in WRITERS if name not in missing], folder) as found:
            speeds = per_token(found, arguments.rounds)
    for writer, row in speeds.items():
        rows.append({"writer": writer, **{key: round(value, 3) for key, value in row.items()}})
        print(rows[-1], flush=True)
    rows += [{"missing": name, "not installed": packages} for name, packages in missing.items()]
    int8 = in_format(gpt, "int8", quickest)
    many = together(int8, arguments.rounds)
    guessed = lookup(int8, [tokenizer.encode(path.read_text(encoding="utf-8")).tolist()[:768] for path in FILES], arguments.rounds)
    rows += [{"32 requests": many}, {"prompt lookup": guessed}, {"runtime megabytes": runtime}]
    rows += [{"opening": dtype, "seconds": took, "megabytes": resident} for dtype, (took, resident) in opened.items()]
    rows.append(
        {"trials": {f"{form} {M}x{K}": measure(form, M, K) for form in FORMATS for M, K in ((2304, 768), (2688, 768), (640, 3072))}}
    )
    bars = list(ratios(speeds))
    bars.append(bar("32 requests at once in int8, times one after another", many["together"] / many["one after another"], ">= 5"))
    bars.append(bar("prompt lookup on source code, times without", guessed["faster"], ">= 1.3"))
    bars.append(bar("prompt lookup, text identical", float(guessed["identical"]), ">= 1"))
    for dtype, weights in (("auto", "fp16w"), ("int8", "int8")):
        took, resident = opened[dtype]
        bars.append(bar(f"seconds to import, load and write the first words, {dtype}", took, "<= 3"))
        bars.append(bar(f"resident beyond the runtime, times the weights, {dtype}", (resident - runtime) / megabytes(weights), "<= 1.3"))
    packages = [name for name in ("transformers", "gguf", "ctranslate2") if find_spec(name)]
    record("decode", bars, rows, packages)


if __name__ == "__main__":
    main()
