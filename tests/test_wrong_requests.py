"""Wrong requests to the command line: status 2, a line per error with what was wanted, what came and the way out, nothing written."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_documents, tiny_words, write_jsonl

from daybreak.cli import main

TRAIN = ["train", "demo", "--quiet", *tiny_words(Path("data"))]
"""A run that would work, in whose words each case spoils something; `--out` is its own."""
PREPARE = ["data", "prepare", "text.jsonl", "--workers", "1", "--out", "new"]


@dataclass(frozen=True)
class Wrong:
    """A request, what was done to the folders before it, and for each error that it must be answered with some of its words."""

    name: str
    words: list[str]
    errors: list[list[str]]
    before: Callable[[], Any] = lambda: None

    @property
    def reads(self) -> bool:
        """Whether the error shows only when sources are read: then progress is told before, and what was read is kept for the next run."""
        return self.words[0] == "tokenizer" or self.words[:2] == ["data", "prepare"]


def edit_json(path: str, **values: Any) -> Callable[[], None]:
    """Changes values of a JSON file; a value of None removes it."""

    def change() -> None:
        whole = json.loads(Path(path).read_text(encoding="utf-8"))
        for key, value in values.items():
            inner, *outer = reversed(key.split("__"))
            place = whole
            for name in reversed(outer):
                place = place[name]
            place.pop(inner, None)
            if value is not None:
                place[inner] = value
        Path(path).write_text(json.dumps(whole), encoding="utf-8")

    return change


def text(path: str, content: str | bytes) -> Callable[[], Any]:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def first(*steps: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run


def gone(path: str) -> Callable[[], Any]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def cut(path: str, size: int) -> Callable[[], Any]:
    return lambda: os.truncate(path, size)


def parquet(path: str, columns: dict[str, list[Any]]) -> Callable[[], None]:
    def write() -> None:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), path)

    return write


def another_data() -> None:
    """Other text in the folder that the run was trained on."""
    from daybreak.data.prepare import prepare

    shutil.rmtree("data")
    write_jsonl(Path("other.jsonl"), tiny_documents(seed=5))
    for _ in prepare(["other.jsonl"], Path("data"), tokenizer="bytes", val_fraction=0.2, workers=1):
        pass


def characters_data() -> None:
    """Data of another tokenizer."""
    from daybreak.data.prepare import prepare

    for _ in prepare(["text.jsonl"], Path("letters"), tokenizer="chars", val_fraction=0.2, workers=1):
        pass


def unfinished() -> None:
    """The run as it was when it was stopped before its end: no model, the last checkpoint there."""
    shutil.rmtree("run/model")


def foreign(**values: Any) -> Callable[[], None]:
    """The run's model as another program would have written it."""
    return edit_json(MODEL, daybreak=None, **values)


RUN = ["train", "run", "--quiet"]

MODEL = "run/model/config.json"


CASES = [
    # Which verb, which recipe, which option
    Wrong("unknown verb", ["trian", "demo"], [["No such command 'trian'", "Did you mean 'train'?", "`daybreak --help`"]]),
    Wrong("unknown verb of data", ["data", "prepar"], [["No such command 'prepar'", "prepare", "`daybreak data --help`"]]),
    Wrong("no verb of data", ["data"], [["Missing command", "`daybreak data --help`"]]),
    Wrong("no verb of tokenizer", ["tokenizer"], [["Missing command", "`daybreak tokenizer --help`"]]),
    Wrong("no recipe", ["train"], [["Missing argument", "RECIPE", "`daybreak train --help`"]]),
    Wrong("no source", ["data", "prepare", "--out", "new"], [["Missing argument", "SOURCE", "`daybreak data prepare --help`"]]),
    Wrong("no out", ["data", "prepare", "text.jsonl"], [["Missing option", "--out"]]),
    Wrong("no run", ["sample"], [["Missing argument", "RUN_DIR"]]),
    Wrong("unknown option", ["train", "demo", "--quite"], [["No such option", "--quite", "--quiet"]]),
    Wrong("unknown general option", ["--verbose", "train", "demo"], [["No such option", "--verbose"]]),
    Wrong("option without value", ["train", "demo", "--out"], [["--out", "requires an argument"]]),
    Wrong("words too many", ["data", "verify", "data", "again"], [["unexpected extra argument", "again"]]),
    Wrong("temperature is no number", ["sample", "run", "--temperature", "hot"], [["--temperature", "number"]]),
    Wrong("top-k is no integer", ["sample", "run", "--top-k", "1.5"], [["--top-k", "integer"]]),
    Wrong("workers is no integer", [*PREPARE[:-2], "--out", "new", "--workers", "all"], [["--workers", "integer"]]),
    Wrong("unknown recipe", ["train", "dmeo"], [["dmeo: no such recipe", "did you mean demo?", "gpt2.124m"]]),
    Wrong("unknown size", ["plan", "gpt2.125m"], [["gpt2.125m: no such recipe", "did you mean gpt2.124m?"]]),
    Wrong(
        "unknown device to plan for",
        ["plan", "gpt2.124m", "--gpus", "8xh10"],
        [["--gpus: wanted a number and a device", "'8xh10'", "did you mean h100?"]],
    ),
    Wrong("no device at all", ["plan", "gpt2.124m", "--gpus", "0xa100"], [["--gpus: wanted 1 to 1,000,000 devices, came 0", "8xa100"]]),
    Wrong("a price for nothing", ["plan", "demo", "--price", "2"], [["--price: wanted --gpus too", "--gpus 8xh100"]]),
    Wrong("a dry run of no devices", ["plan", "demo", "--dry-run"], [["--dry-run: wanted --gpus too", "--gpus 8xh100"]]),
    Wrong(
        "a table of unknown devices",
        ["plan", "gpt2.124m", "--table", "--gpus", "8xh100,8xh10", "--price", "-1"],
        [["--gpus: wanted a number and a device", "'8xh10'", "did you mean h100?"], ["--price: wanted dollars", "came -1"]],
    ),
    Wrong("a dry run as a table", ["plan", "demo", "--table", "--dry-run"], [["--dry-run: wanted no --table", "ask for one of them"]]),
    Wrong("a project with slashes", [*TRAIN, "log.wandb=a/b/c"], [["log.wandb: wanted a project, or TEAM/PROJECT", "came 'a/b/c'"]]),
    Wrong("no windows", ["data", "show", "data", "--windows", "-1"], [["--windows: wanted at least 0, came -1"]]),
    Wrong("no tokenizer", ["tokenizer", "show", "gtp2", "text"], [["gtp2", "did you mean gpt2?"]]),
    Wrong("no such text", ["tokenizer", "show", "bytes", "nothing.txt"], [["nothing.txt: wanted a text or a file with one"]]),
    Wrong("price is no number", ["plan", "demo", "--gpus", "t4", "--price", "cheap"], [["--price", "number"]]),
    Wrong(
        "a wrong plan, all at once",
        ["plan", "gpt2.124m", "--gpus", "a1000", "--utilisation", "40", "--price", "-1", "lr=1"],
        [
            ["lr: no such setting"],
            ["--gpus: wanted a number and a device such as 8xh100, came 'a1000'; did you mean a100?"],
            ["--utilisation: wanted a share of the devices' peak, more than 0 and at most 1, came 40"],
            ["--price: wanted dollars for an hour of one device, 0 or more, came -1"],
        ],
    ),
    Wrong("no such run", ["train", "runs/dawn"], [["runs/dawn: no such recipe, and no run's folder", "demo"]]),
    Wrong(
        "unknown recipe and wrong settings, all at once",
        ["train", "dmeo", "lr=1", "model.n_head=x"],
        [["dmeo: no such recipe"], ["lr: no such setting"], ["model.n_head: wanted an integer, came 'x'"]],
    ),
    Wrong(
        "a file where a recipe was wanted", ["train", "text.jsonl"], [["text.jsonl: wanted a recipe or a run's folder", "settings.json"]]
    ),
    Wrong("data where a run was wanted", ["train", "data"], [["data: wanted a recipe or a run's folder", "recipes are demo"]]),
    Wrong("a name longer than any file's", ["train", "a" * 5000], [["aaa...: cannot be used (File name too long)"]]),
    # Settings
    Wrong("unknown setting", ["plan", "demo", "train.learningrate=1"], [["train.learningrate: no such setting", "train.learning_rate?"]]),
    Wrong("a setting without its group", ["plan", "demo", "n_layer=3"], [["n_layer: no such setting", "did you mean model.n_layer?"]]),
    Wrong("a setting without a value", ["plan", "demo", "model.n_layer"], [["model.n_layer: wanted path=value", "model.n_layer=VALUE?"]]),
    Wrong("a word that is no setting", ["plan", "demo", "quickly"], [["quickly: wanted path=value", "came no '='"]]),
    Wrong("a number with a fraction", ["plan", "demo", "model.n_layer=2.5"], [["model.n_layer: wanted an integer, came '2.5'"]]),
    Wrong("no choice", ["plan", "demo", "machine.precision=bf61"], [["machine.precision: wanted one of", "bf16", "did you mean bf16?"]]),
    Wrong("nothing where a value is needed", ["plan", "demo", "train.seed=none"], [["train.seed: wanted an integer, came 'none'"]]),
    Wrong("a decay of no length", ["plan", "demo", "train.decay_tokens=0"], [["train.decay_tokens: wanted at least 1 or none, came 0"]]),
    Wrong("infinity", ["plan", "demo", "train.learning_rate=inf"], [["train.learning_rate: wanted a number, came 'inf'"]]),
    Wrong(
        "width and heads", ["plan", "demo-gpt2", "model.d_model=257"], [["model.d_model: wanted a multiple of n_head = 4", "256 and 260"]]
    ),
    Wrong(
        "shared heads", ["plan", "gpt2.124m", "model.n_kv_head=5"], [["model.n_kv_head: wanted none or a divisor of n_head = 12, came 5"]]
    ),
    Wrong(
        "no such norm", ["plan", "gpt2.124m", "model.norm=rms"], [["model.norm: wanted one of layernorm, rmsnorm", "did you mean rmsnorm?"]]
    ),
    Wrong("no layers", [*TRAIN, "model.n_layer=0"], [["model.n_layer: wanted at least 1, came 0"]]),
    Wrong("indivisible batch", [*TRAIN, "train.batch_tokens=100"], [["train.batch_tokens: wanted a multiple of 16", "nearest 96 and 112"]]),
    Wrong("indivisible micro-batch", [*TRAIN, "train.micro_batch=3"], [["train.batch_tokens: wanted a multiple of 48", "48 and 96"]]),
    Wrong(
        "a batch that grows by what does not divide it",
        [*TRAIN, "train.batch_start_tokens=48", "train.batch_ramp_tokens=128"],
        [["train.batch_start_tokens: wanted a divisor of batch_tokens = 64, came 48", "batch_tokens to 48 or 96"]],
    ),
    Wrong("growing over nothing", [*TRAIN, "train.batch_start_tokens=16"], [["train.batch_start_tokens: wanted batch_ramp_tokens too"]]),
    Wrong("growing from nothing", [*TRAIN, "train.batch_ramp_tokens=99"], [["train.batch_ramp_tokens: wanted batch_start_tokens too"]]),
    Wrong(
        "a first batch that is no whole number of sequences",
        [*TRAIN, "train.batch_start_tokens=8", "train.batch_ramp_tokens=99"],
        [["train.batch_start_tokens: wanted a multiple of 16", "nearest 16"]],
    ),
    Wrong("stopping before the first step", [*TRAIN, "train.stop_tokens=0"], [["train.stop_tokens: wanted at least 1 or none, came 0"]]),
    Wrong("no pattern", [*TRAIN, "model.attention_pattern="], [["model.attention_pattern: wanted at least one of dense, banded"]]),
    Wrong(
        "unknown attention", [*TRAIN, "model.attention_pattern=sparse"], [["model.attention_pattern: wanted a list of dense and banded"]]
    ),
    Wrong("warm-up beyond the end", [*TRAIN, "train.warmup_tokens=1M"], [["train.warmup_tokens: wanted at most train_tokens = 640", "32"]]),
    Wrong("a seed that no generator takes", [*TRAIN, "train.seed=1e20"], [["train.seed: wanted 0 or more and less than 2^63"]]),
    Wrong("unknown device", [*TRAIN, "machine.device=tpu"], [["machine.device: wanted auto, cpu, cuda, cuda:N or mps, came 'tpu'"]]),
    Wrong(
        "many at once",
        [*TRAIN, "model.n_layer=0", "train.beta1=1", "eval.tokens=0", "sample.top_k=0", "checkpoint.keep=0", "machine.threads=0"],
        [["model.n_layer"], ["train.beta1"], ["eval.tokens"], ["sample.top_k"], ["checkpoint.keep"], ["machine.threads"]],
    ),
    # What only the machine and the data know
    Wrong(
        "a device that is not there",
        [*TRAIN, "machine.device=cuda"],
        [["machine.device: wanted the device cuda", "this machine has cpu"]],
    ),
    Wrong("a precision that cannot work", [*TRAIN, "machine.precision=fp16"], [["machine.precision: wanted fp16", "choose bf16, fp32"]]),
    Wrong("no data", [*TRAIN, "data.dir=none"], [["data.dir: wanted a folder of prepared data", "daybreak data prepare", "--out none"]]),
    Wrong(
        "no data and no device, both at once",
        [*TRAIN, "data.dir=none", "machine.device=mps"],
        [["wanted the device mps"], ["data.dir: wanted a folder of prepared data"]],
    ),
    Wrong("data is a file", [*TRAIN, "data.dir=text.jsonl"], [["text.jsonl: wanted a folder of prepared data", "manifest.json"]]),
    Wrong("data is another folder", [*TRAIN, "data.dir=run"], [["run: wanted a folder of prepared data", "`daybreak data prepare`"]]),
    Wrong("the plan of bad data", ["plan", "demo", "data.dir=run"], [["run: wanted a folder of prepared data"]]),
    Wrong(
        "another vocabulary",
        [*TRAIN, "model.vocab_size=50257"],
        [["model.vocab_size: wanted 257", "bytes tokenizer", "came 50257", "model.vocab_size=none", "--tokenizer gpt2"]],
    ),
    Wrong(
        "text shorter than a window",
        [*TRAIN, "model.context_length=8192", "train.batch_tokens=8192", "train.train_tokens=8192"],
        [["data.dir: its training text has", "wanted at least 8,193", "set model.context_length lower"]],
    ),
    Wrong("a model larger than the memory", [*TRAIN, "model.d_model=6e8"], [["model: wanted one that fits into", "model.n_layer or"]]),
    Wrong("damaged manifest", TRAIN, [["data/manifest.json", "damaged", "prepare the data again"]], text("data/manifest.json", "[]")),
    Wrong(
        "manifest without its checksum",
        TRAIN,
        [["data/manifest.json: wanted the manifest", "it is damaged (it lacks checksum); prepare the data again"]],
        edit_json("data/manifest.json", checksum=None),
    ),
    Wrong("manifest is no JSON", TRAIN, [["data/manifest.json", "prepare the data again"]], text("data/manifest.json", "{'")),
    Wrong("edited manifest", TRAIN, [["manifest.json", "does not match its checksum"]], edit_json("data/manifest.json", documents=7)),
    Wrong(
        "missing shard",
        TRAIN,
        [["train-000000.bin: wanted a token shard, found nothing there; copy or prepare it again"]],
        gone("data/train-000000.bin"),
    ),
    Wrong("cut shard", TRAIN, [["train-000000.bin", "copy or prepare it again"]], cut("data/train-000000.bin", 3000)),
    Wrong("shard of another kind", TRAIN, [["train-000000.bin", "magic"]], text("data/train-000000.bin", b"x" * 5000)),
    Wrong("no tokenizer in the data", TRAIN, [["data/tokenizer", "tokenizer.json"]], gone("data/tokenizer/tokenizer.json")),
    # The run's folder
    Wrong("out is a file", [*TRAIN, "--out", "text.jsonl"], [["text.jsonl: wanted a folder for the run, came a file", "another --out"]]),
    Wrong("out is not empty", [*TRAIN, "--out", "data"], [["data: is not empty and holds no run", "another --out"]]),
    Wrong("out below a file", [*TRAIN, "--out", "text.jsonl/run"], [["text.jsonl/run", "Not a directory", "another --out"]]),
    Wrong(
        "out is a dangling link", [*TRAIN, "--out", "link"], [["link", "cannot be written"]], lambda: Path("link").symlink_to("/dev/null/x")
    ),
    Wrong("a run and another out", [*RUN, "--out", "else"], [["--out: wanted run or nothing", "came else"]]),
    Wrong("a finished run with another seed", [*RUN, "train.seed=2"], [["train.seed: wanted 1337 as run was begun with, came 2"]]),
    Wrong(
        "an unfinished run with other settings",
        [*RUN, "train.seed=2", "model.n_layer=3"],
        [["model.n_layer: wanted 2 as run was begun with, came 3"], ["train.seed: wanted 1337", "keep it, or give a new --out"]],
        unfinished,
    ),
    Wrong(
        "a run of another architecture",
        ["train", "run", "--quiet", "model.d_model=64"],
        [["model.d_model: wanted 32 as run was begun with, came 64"]],
        unfinished,
    ),
    Wrong("other text under the same name", RUN, [["data: its text or tokenizer is not what run was"]], first(unfinished, another_data)),
    Wrong("data gone", RUN, [["data.dir: wanted a folder of prepared data, found nothing at data"]], first(unfinished, gone("data"))),
    Wrong("settings.json is no JSON", RUN, [["run/settings.json: wanted JSON", "line 1"]], text("run/settings.json", "{,")),
    Wrong("settings.json is another JSON", RUN, [["run/settings.json: settings: wanted a group"]], text("run/settings.json", "[1]")),
    Wrong(
        "settings.json of another version",
        RUN,
        [
            ["run/settings.json: model.n_expert: no such setting"],
            ["run/settings.json: model.n_layer: wanted an integer, came '2'"],
            ["run/settings.json: train.seed: wanted an integer, came 1.5"],
        ],
        edit_json("run/settings.json", model__n_layer="2", model__n_expert=4, train__seed=1.5),
    ),
    Wrong("data.json is another JSON", RUN, [["data: its text or tokenizer is not"]], first(unfinished, text("run/data.json", "[]"))),
    # Preparing data
    Wrong("missing source", [*PREPARE, "txt.jsonl"], [["txt.jsonl: wanted a file or a folder", "did you mean text.jsonl?"]]),
    Wrong(
        "dangling link",
        [*PREPARE, "link.txt"],
        [["link.txt: wanted a file or a folder, found nothing where this link leads (nothing); mend it"]],
        lambda: Path("link.txt").symlink_to("nothing"),
    ),
    Wrong("a device as a source", [*PREPARE, "/dev/null"], [["/dev/null: wanted a file or a folder, came a device"]]),
    Wrong("empty folder as a source", [*PREPARE, "empty"], [["empty: wanted a folder with text"]], lambda: Path("empty").mkdir()),
    Wrong("unknown python text", [*PREPARE, "python:doc"], [["python:doc: wanted python:docs", "python:code"]]),
    Wrong("hf without a name", [*PREPARE, "hf:"], [["hf:: wanted hf:NAME"]]),
    Wrong("a .json file", [*PREPARE, "one.json"], [["one.json: wanted text or JSON lines", ".jsonl"]], text("one.json", "{}")),
    Wrong("unknown tokenizer", [*PREPARE, "--tokenizer", "gtp2"], [["tokenizer gtp2", "did you mean gpt2?"]]),
    Wrong("folder without tokenizer", [*PREPARE, "--tokenizer", "run"], [["run: wanted tokenizer.json", "found none"]]),
    Wrong("damaged tokenizer", [*PREPARE, "--tokenizer", "bad.json"], [["bad.json: wanted JSON"]], text("bad.json", "{")),
    Wrong("another tokenizer", [*PREPARE, "--tokenizer", "bad.json"], [["bad.json: wanted a byte-level BPE"]], text("bad.json", "{}")),
    Wrong("all for validation", [*PREPARE, "--val-fraction", "1"], [["--val-fraction: wanted more than 0 and at most 0.5", "1.0"]]),
    Wrong("nothing for validation", [*PREPARE, "--val-fraction", "nan"], [["--val-fraction: wanted more than 0", "nan"]]),
    Wrong(
        "five options at once",
        [*PREPARE, "--val-fraction", "0", "--vocab-size", "3", "--split", "half", "--shard-tokens", "0", "--workers", "0"],
        [
            ["--val-fraction: wanted"],
            ["--split: wanted auto, document or tail, came half"],
            ["--shard-tokens: wanted 1 to"],
            ["--vocab-size: wanted 257"],
            ["--workers: wanted at least 1, came 0"],
        ],
    ),
    Wrong("no workers", [*PREPARE, "--workers", "0"], [["--workers: wanted at least 1, came 0"]]),
    Wrong("unknown engine", [*PREPARE, "--engine", "spark"], [["--engine: wanted local or dask, came spark"]]),
    Wrong("an address for nobody", [*PREPARE, "--engine-address", "tcp://x:1"], [["--engine-address: wanted none", "add --engine dask"]]),
    Wrong("standard input twice", [*PREPARE, "-", "-"], [["standard input (-) can be read once"]]),
    Wrong(
        "data to a file", [*PREPARE, "--out", "text.jsonl"], [["text.jsonl: wanted a folder to write to, it is a file", "another --out"]]
    ),
    Wrong("data to a full folder", [*PREPARE, "--out", "run"], [["run: wanted a new or empty folder", "another --out"]]),
    Wrong("other options for the same folder", [*PREPARE, "--out", "data"], [["data: holds data prepared with other options", "bytes"]]),
    Wrong("binary file", [*PREPARE, "b.txt"], [["b.txt: wanted text, came a binary file"]], text("b.txt", b"a\0b")),
    Wrong(
        "cut gzip",
        [*PREPARE, "cut.txt.gz"],
        [["cut.txt.gz", "cut short", "fetch it again"]],
        text("cut.txt.gz", gzip.compress(b"a text " * 100)[:-12]),
    ),
    Wrong("no gzip", [*PREPARE, "a.txt.gz"], [["a.txt.gz: wanted gzip data"]], text("a.txt.gz", "plain text")),
    Wrong("no zstandard", [*PREPARE, "a.txt.zst"], [["a.txt.zst: wanted zstandard data"]], text("a.txt.zst", "plain")),
    Wrong("no JSON lines", [*PREPARE, "a.jsonl"], [["a.jsonl: wanted JSON lines"]], text("a.jsonl", "plain\ntext\n")),
    Wrong(
        "another field",
        [*PREPARE, "a.jsonl"],
        [["a.jsonl: wanted a field 'text'", "body, title", "--text-field"]],
        text("a.jsonl", '{"title": "a", "body": "b"}\n'),
    ),
    Wrong(
        "parquet without the column",
        [*PREPARE, "a.parquet"],
        [["a.parquet: wanted a column 'text', it has body", "--text-field"]],
        parquet("a.parquet", {"body": ["some"]}),
    ),
    Wrong(
        "a column of numbers",
        [*PREPARE, "a.parquet"],
        [["a.parquet: wanted text in column 'text', came int64"]],
        parquet("a.parquet", {"text": [1, 2]}),
    ),
    Wrong("no parquet", [*PREPARE, "a.parquet"], [["a.parquet: wanted a parquet file"]], text("a.parquet", "plain")),
    Wrong(
        "too little text",
        ["data", "prepare", "short.txt", "--tokenizer", "bytes", "--out", "new"],
        [["short.txt: wanted at least 64 tokens for train", "--val-fraction"]],
        text("short.txt", "A word."),
    ),
    Wrong("nothing but blanks", ["data", "prepare", "e.txt", "--out", "new"], [["e.txt"]], text("e.txt", " \n")),
    # Looking at data
    Wrong("verify no data", ["data", "verify", "run"], [["run: wanted a folder of prepared data, found no manifest.json"]]),
    Wrong("verify nothing", ["data", "verify", "nothing"], [["nothing: wanted a folder of prepared data"]]),
    Wrong("show a file", ["data", "show", "text.jsonl"], [["text.jsonl: wanted a folder of prepared data"]]),
    Wrong("show fewer than none", ["data", "show", "data", "--documents", "-1", "--characters", "0"], [["--documents"], ["--characters"]]),
    # Tokenizers
    Wrong(
        "too small a vocabulary",
        ["tokenizer", "train", "text.jsonl", "--vocab-size", "256", "--out", "tok"],
        [["--vocab-size: wanted at least 257", "came 256"]],
    ),
    Wrong("tokenizer of nothing", ["tokenizer", "train", "nil", "--vocab-size", "300", "--out", "tok"], [["nil: wanted"]]),
    Wrong("tokenizer over a run", ["tokenizer", "train", "text.jsonl", "--vocab-size", "300", "--out", "run"], [["run: wanted a new or"]]),
    # Models
    Wrong("sample of nothing", ["sample", "rnu"], [["rnu: no such folder, wanted a run's folder; did you mean run?"]]),
    Wrong("sample of data", ["sample", "data"], [["data: wanted a run's folder or a model's", "settings.json nor config.json"]]),
    Wrong("sample of a file", ["sample", "text.jsonl"], [["text.jsonl: wanted a run's folder or a model's"]]),
    Wrong(
        "sample with five wrong options",
        ["sample", "run", "--temperature=-1", "--top-k=-3", "--top-p=1.5", "--max-tokens=0", "--seed=-1"],
        [
            ["--temperature: wanted 0 or"],
            ["--top-k: wanted 0 or more, came -3"],
            ["--top-p: wanted"],
            ["--max-tokens: wanted"],
            ["--seed: wanted"],
        ],
    ),
    Wrong(
        "sample with other wrong options",
        ["sample", "run", "--min-p=2", "--typical-p=0", "--repetition-penalty=0", "--stop=", "--n=0", "--dtype=int9"],
        [
            ["--min-p: wanted 0 to 1, came 2.0"],
            ["--typical-p: wanted more than 0 and at most 1, came 0.0"],
            ["--repetition-penalty: wanted more than 0, came 0.0"],
            ["--stop: wanted a text of at least one character"],
            ["--n: wanted at least 1, came 0"],
            ["--dtype: wanted one of auto, fp32, bf16, fp16w, int8, int4, came int9; did you mean int8?"],
        ],
    ),
    Wrong("no temperature at all", ["sample", "run", "--temperature", "nan"], [["--temperature: wanted 0 or more, came nan"]]),
    Wrong("no probability", ["sample", "run", "--top-p", "0"], [["--top-p: wanted more than 0 and at most 1"]]),
    Wrong("a seed without end", ["sample", "run", "--seed", "9" * 30], [["--seed: wanted 0 or more and less than 2^63"]]),
    Wrong("sample on an unknown device", ["sample", "run", "--device", "cpu:x"], [["wanted auto, cpu, cuda", "came 'cpu:x'"]]),
    Wrong("sample on a missing device", ["sample", "run", "--device", "cuda:3"], [["wanted the device cuda:3, this machine has cpu"]]),
    Wrong(
        "a run without model or checkpoint",
        ["sample", "run"],
        [["run: has no finished model and no checkpoint", "`daybreak train run`"]],
        first(gone("run/model"), gone("run/checkpoints")),
    ),
    Wrong("no weights", ["sample", "run"], [["model.safetensors: wanted the model's weights"]], gone("run/model/model.safetensors")),
    Wrong("damaged weights", ["sample", "run"], [["model.safetensors: cannot be read"]], cut("run/model/model.safetensors", 500)),
    Wrong(
        "weights that do not fit",
        ["sample", "run"],
        [["run/model/model.safetensors", "h.2.ln_1.weight"]],
        edit_json(MODEL, daybreak__model__n_layer=3),
    ),
    Wrong("import of nothing", ["import", "no-model", "--out", "new"], [["no-model: no such folder"]]),
    Wrong("import of data", ["import", "data", "--out", "new"], [["data: wanted a run's folder or a model's, found neither"]]),
    Wrong("import over a run", ["import", "run/model", "--out", "run"], [["run: wanted a new or empty folder", "give another --out"]]),
    Wrong("import without a place", ["import", "run/model"], [["Missing option '--out'"]]),
    Wrong(
        "import of another model", ["import", "run/model", "--out", "new"], [["model_type gpt2, came 'llama'"]], foreign(model_type="llama")
    ),
    Wrong(
        "export in another form",
        ["export", "run", "--format", "pickle", "--out", "new"],
        [["--format: wanted hf, gguf, onnx or daybreak, came 'pickle'"]],
    ),
    Wrong("export over a file", ["export", "run", "--out", "text.jsonl"], [["text.jsonl: wanted a new or empty folder"]]),
    Wrong(
        "another kind of model",
        ["sample", "run/model"],
        [["config.json: wanted model_type gpt2, came 'llama'"]],
        foreign(model_type="llama"),
    ),
    Wrong(
        "GPT-2 without sizes",
        ["sample", "run/model"],
        [["config.json: wanted", "n_layer"]],
        foreign(n_layer=None),
    ),
    Wrong(
        "GPT-2 of impossible sizes",
        ["sample", "run/model"],
        [["config.json: d_model: wanted a multiple of n_head = 5"]],
        foreign(n_head=5),
    ),
    Wrong(
        "GPT-2 with another activation",
        ["sample", "run/model"],
        [["activation_function", "relu"]],
        foreign(activation_function="relu"),
    ),
    Wrong(
        "a model's description is a list",
        ["sample", "run"],
        [["config.json: wanted a model's description"]],
        text(MODEL, "[]"),
    ),
    Wrong(
        "reshaped by nobody",
        ["sample", "run"],
        [["reshaped by 'magic'"]],
        edit_json(MODEL, daybreak__reshapings=["magic"]),
    ),
    Wrong("model without tokenizer", ["sample", "run"], [["run/model", "tokenizer.json"]], gone("run/model/tokenizer.json")),
    Wrong("eval of nothing", ["eval", "nothing"], [["nothing: no such folder"]]),
    Wrong("eval of data", ["eval", "data"], [["data: wanted a run's folder or a model's"]]),
    Wrong("eval of a model without data", ["eval", "run/model"], [["run/model: holds no run whose data could be taken", "--data DIR"]]),
    Wrong("eval on nothing", ["eval", "run", "--data", "nothing"], [["nothing: wanted a folder of prepared data"]]),
    Wrong(
        "eval on a task that is not known",
        ["eval", "run", "--tasks", "helaswag"],
        [["helaswag: no such task; did you mean hellaswag?", "lambada", "or a .jsonl file"]],
    ),
    Wrong("eval on no task", ["eval", "run", "--tasks", " ,"], [["--tasks: wanted names with commas", "leave it out"]]),
    Wrong(
        "eval's options without a task",
        ["eval", "run", "--items", "0", "--task-files", "nothing", "--save-items", "data", "--against", "run"],
        [
            ["--items: wanted at least 1, came 0"],
            ["--task-files: wanted a folder with the tasks' files, found none at nothing"],
            ["--save-items: wanted the name of a .jsonl file, came the folder data"],
            ["--task-files: wanted --tasks", "add --tasks hellaswag"],
            ["--save-items: wanted --tasks"],
            ["--against: wanted --tasks"],
        ],
    ),
    Wrong(
        "eval compared on one item",
        ["eval", "run", "--tasks", "lambada", "--items", "1", "--against", "run"],
        [["--items: wanted at least 2"]],
    ),
    Wrong(
        "eval with tasks whose files are not there",
        ["eval", "run", "--tasks", "hellaswag,lambada", "--task-files", "data"],
        [["data: wanted hellaswag's file, hellaswag_val.jsonl or"], ["data: wanted lambada's file, lambada_test.jsonl or"]],
    ),
    Wrong(
        "eval on a task's missing file", ["eval", "run", "--tasks", "lambada=none.jsonl"], [["none.jsonl: cannot be read", "No such file"]]
    ),
    Wrong(
        "eval on a file with a wrong line",
        ["eval", "run", "--tasks", "mine.jsonl"],
        [["mine.jsonl:2: label: wanted the number of the right ending, 0 to 1, came 7; mend the line"]],
        text(
            "mine.jsonl",
            '{"context": "a", "endings": ["b", "c"], "label": 0}\n{"context": "a", "endings": ["b", "c"], "label": 7}\n',
        ),
    ),
    Wrong(
        "eval on a file of other fields",
        ["eval", "run", "--tasks", "mine.jsonl"],
        [["mine.jsonl:1: wanted context, endings and label, or context and target, or text", "came 'txt'; did you mean text?"]],
        text("mine.jsonl", '{"txt": "a"}\n'),
    ),
    Wrong(
        "eval against nothing", ["eval", "run", "--tasks", "text.jsonl", "--against", "rnu"], [["rnu: no such folder", "did you mean run?"]]
    ),
    Wrong("eval when the data is gone", ["eval", "run"], [["data: wanted a folder of prepared data"]], gone("data")),
    Wrong(
        "eval on another tokenizer's data",
        ["eval", "run", "--data", "letters"],
        [["letters: wanted the model's bytes tokenizer, came another (chars)", "--tokenizer MODEL_DIR"]],
        characters_data,
    ),
    # Reports and the machine
    Wrong("report of data", ["report", "data"], [["data: wanted a run's folder, found no settings.json in it"]]),
    Wrong("report of two, one missing", ["report", "run", "nothing"], [["nothing: wanted a run's folder"]]),
    Wrong("report of three, two missing", ["report", "a", "run", "b"], [["a: wanted a run's folder"], ["b: wanted a run's folder"]]),
    Wrong("report to a folder", ["report", "run", "--out", "data"], [["data: cannot be written", "choose another --out"]]),
    Wrong("report below a file", ["report", "run", "--out", "text.jsonl/page.html"], [["page.html: cannot be written", "another --out"]]),
    Wrong("report of damaged settings", ["report", "run"], [["run/settings.json: wanted JSON"]], text("run/settings.json", "{")),
    Wrong("watch nothing", ["watch", "nothing"], [["nothing: wanted a run's folder or a folder of runs"]]),
    Wrong("watch a file", ["watch", "run", "text.jsonl"], [["text.jsonl: wanted a run's folder or a folder of runs"]]),
    Wrong("watch without a folder", ["watch"], [["Missing argument", "RUN_DIR"]]),
    Wrong("watch on a port that is none", ["watch", "run", "--port", "70000"], [["--port", "65535"]]),
    Wrong("compare one", ["compare", "run"], [["wanted at least two runs", "came 1"]]),
    Wrong("compare with a baseline alone", ["compare", "--baseline", "run"], [["wanted at least two runs", "came 1"]]),
    Wrong("compare with no run", ["compare", "run", "nothing"], [["nothing: wanted a run's folder"]]),
    Wrong("compare by price", ["compare", "run", "a", "--by", "price"], [["--by: wanted tokens, time or flops, came 'price'"]]),
    Wrong("compare to a word", ["compare", "run", "a", "--to-loss", "low"], [["--to-loss", "valid number"]]),
    Wrong("compare with a baseline of nothing", ["compare", "run", "--baseline"], [["--baseline", "requires an argument"]]),
    Wrong("doctor of no run", ["doctor", "data"], [["data: wanted a run's folder"]]),
]


def tree(without: str = "") -> dict[str, str]:
    """Every folder, link and file below here, the files with what is in them; if asked without one folder and those that hold it."""
    found = {}
    for path in sorted(Path().rglob("*")):
        if without and (path.is_relative_to(without) or str(path) in map(str, Path(without).parents)) and Path(without).exists():
            continue
        found[str(path)] = "link" if path.is_symlink() else "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def place(tmp_path: Path, data_dir: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a text, its data and a run on it, in which the command is given."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("text.jsonl"), tiny_documents())
    shutil.copytree(data_dir, "data")
    shutil.copytree(run_dir, "run")
    edit_json("run/settings.json", data__dir="data")()
    return tmp_path


def check(case: Wrong, status: int, out: str, err: str) -> None:
    assert status == 2, err
    assert out == ""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if not case.reads:
        assert errors == lines, "something else was said"
    assert "Traceback" not in err
    assert "unexpected" not in err or "unexpected" in str(case.errors)
    assert len(errors) == len(case.errors), err
    left = list(errors)
    for words in case.errors:
        answer = next((line for line in left if all(word in line for word in words)), None)
        assert answer is not None, (words, left)
        assert len(answer) > 20
        left.remove(answer)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_request(case: Wrong, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case.before()
    before = tree()
    capfd.readouterr()
    status = main(case.words)
    out, err = capfd.readouterr()
    check(case, status, out, err)
    assert tree(without="new/.prepare" if case.reads else "") == before, "something was written or changed"


def test_there_are_enough_and_no_two_are_the_same() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", ["unknown verb", "many at once", "sample with five wrong options", "edited manifest"])
def test_a_wrong_request_to_a_process_of_its_own(name: str, place: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    case.before()
    before = tree()
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [sys.executable, "-m", "daybreak", *case.words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=120
    )
    check(case, told.returncode, told.stdout, told.stderr)
    assert tree() == before


def test_a_run_that_works_with_these_words(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The words that every case spoils are themselves right, or the cases would prove nothing."""
    assert main([*TRAIN, "--out", "new"]) == 0, capfd.readouterr().err
    assert main([*PREPARE[:-1], "other", "--tokenizer", "bytes"]) == 0, capfd.readouterr().err
    assert main(["sample", "run", "The", "--max-tokens", "3"]) == 0
    assert main(["eval", "run"]) == 0
    shutil.rmtree("run/model")
    assert main(RUN) == 0, capfd.readouterr().err
