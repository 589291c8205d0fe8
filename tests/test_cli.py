"""The command line: one JSON object with --json, help that tells every setting, progress that shows a sample as it is."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_documents, tiny_words, write_jsonl

import daybreak
from daybreak import config, files
from daybreak.cli import main, progress, speak
from daybreak.settings import Settings

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, data_dir: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with the data and the run, in which the command is given."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data_dir, "data")
    shutil.copytree(run_dir, "run")
    settings = json.loads(Path("run/settings.json").read_text())
    settings["data"]["dir"] = "data"
    Path("run/settings.json").write_text(json.dumps(settings))
    return tmp_path


def told(capsys: Captured, *words: str, status: int = 0) -> str:
    """What the command says on standard output."""
    capsys.readouterr()
    came = main(words)
    out, err = capsys.readouterr()
    assert came == status, err
    assert "error" not in err, err
    return out


def object_of(capsys: Captured, *words: str, status: int = 0) -> dict[str, Any]:
    """The one JSON object that a command with --json leaves on standard output."""
    out = told(capsys, *words, "--json", status=status)
    assert out.endswith("}\n")
    assert out.count("\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(out, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


# --- One JSON object ---


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("124m", 124_439_808), ("355m", 354_823_168), ("774m", 774_030_080), ("1558m", 1_557_611_200)],
)
def test_plan_of_the_published_sizes(size: str, parameters: int, place: Path, capsys: Captured) -> None:
    plan = object_of(capsys, "plan", f"gpt2.{size}")
    assert plan["parameters"] == parameters
    assert {"flops_per_token", "memory_bytes", "seconds", "cost", "flops", "steps", "train_tokens", "recipe", "settings"} <= plan.keys()
    assert plan["memory_bytes"] >= 16 * parameters
    assert plan["flops_per_token"] > 6 * 0.9 * parameters
    assert plan["flops"] == plan["flops_per_token"] * plan["train_tokens"]
    assert plan["train_tokens"] == plan["steps"] * plan["settings"]["train"]["batch_tokens"] >= 9_999_000_000
    assert f"gpt2.{size}: {parameters:,} parameters" in told(capsys, "plan", f"gpt2.{size}")


def test_plan_shows_every_setting_with_its_sentence_and_writes_nothing(place: Path, capsys: Captured) -> None:
    before = sorted(Path().rglob("*"))
    out = told(capsys, "plan", "demo", "data.dir=data", "train.seed=5", "sample.prompts=a,b")
    assert "with the 257 tokens of data" in out
    for row in config.describe(Settings()):
        assert f"{row.path} = " in out
        assert f"{row.sentence} ({row.wanted})" in out
    assert "train.seed = 5\n" in out
    assert "sample.prompts = a,b\n" in out
    assert "8,192 tokens, as nowhere is not prepared yet" in told(capsys, "plan", "demo", "data.dir=nowhere")
    assert "tiny: " in told(capsys, "plan", "run")
    assert sorted(Path().rglob("*")) == before


def test_train_sample_eval_report(place: Path, capsys: Captured) -> None:
    result = object_of(capsys, "train", "demo", *tiny_words(Path("data")), "--out", "new")
    assert result.keys() == {"run", "step", "tokens", "val_loss", "bits_per_byte"}
    assert (result["run"], result["step"], result["tokens"]) == ("new", 10, 640)
    assert 0 < result["val_loss"] < 6
    assert Path("new/report.html").is_file()

    again = object_of(capsys, "train", "new")
    assert again == result

    evaluated = object_of(capsys, "eval", "new")
    assert evaluated.keys() == {"model", "data", "tasks"}
    figures = evaluated["tasks"]["validation"]
    assert {"val_loss", "perplexity", "bits_per_byte"} <= figures.keys()
    for figure in figures.values():
        assert figure.keys() == {"value", "stderr", "n"}
        assert figure["n"] > 500
    assert figures["bits_per_byte"]["value"] == pytest.approx(result["bits_per_byte"], abs=5e-3)  # the run computed in fp32
    assert "validation tokens" in told(capsys, "eval", "new", "--data", "data")

    written = object_of(capsys, "sample", "new", "The", "--seed", "1", "--max-tokens", "12")
    assert written.keys() == {"text", "tokens"}
    assert 0 < written["tokens"] <= 40
    assert object_of(capsys, "sample", "new", "The", "--seed", "1", "--max-tokens", "12") == written
    assert told(capsys, "sample", "new", "The", "--seed", "1", "--max-tokens", "12") == f"The{written['text']}\n"
    likeliest = object_of(capsys, "sample", "new", "The", "--temperature", "0", "--max-tokens", "12")
    assert object_of(capsys, "sample", "new", "The", "--top-k", "1", "--max-tokens", "12") == likeliest

    page = object_of(capsys, "report", "new", "run", "--out", "page.html")
    assert page == {"report": str(Path("page.html").resolve())}
    assert "<html" in Path("page.html").read_text(encoding="utf-8")
    assert told(capsys, "report", "new") == f"{Path('new/report.html').resolve()}\n"


def test_data_prepare_show_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("text.jsonl"), tiny_documents())
    words = ["data", "prepare", "text.jsonl", "--out", "made", "--tokenizer", "chars", "--val-fraction", "0.2", "--workers", "1"]
    figures = object_of(capsys, *words)
    assert figures["documents"] == 40
    assert figures["train_tokens"] > figures["val_tokens"] > 0
    assert figures["tokenizer"] == "chars"
    assert object_of(capsys, *words) == figures
    assert "40 documents" in told(capsys, *words)

    shown = object_of(capsys, "data", "show", "made", "--documents", "1", "--characters", "20")
    assert {key: shown[key] for key in figures} == figures
    assert all(len(text) == 20 for text in (*shown["samples"]["train"], *shown["samples"]["val"]))
    assert "--- val ---" in told(capsys, "data", "show", "made")
    assert object_of(capsys, "data", "show", "made", "--documents", "0")["samples"] == {"train": [], "val": []}

    assert object_of(capsys, "data", "verify", "made") == {"data": "made", "problems": []}
    assert told(capsys, "data", "verify", "made") == "made: every byte is as it was written\n"
    shard = Path("made/train-000000.bin")
    shard.write_bytes(shard.read_bytes()[:-2] + b"\1\1")
    found = object_of(capsys, "data", "verify", "made", status=1)
    assert len(found["problems"]) == 1
    assert "train-000000.bin" in found["problems"][0]
    assert "train-000000.bin" in told(capsys, "data", "verify", "made", status=1)


def test_tokenizer_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("text.jsonl"), tiny_documents())
    assert object_of(capsys, "tokenizer", "train", "text.jsonl", "--vocab-size", "300", "--out", "tok") == {
        "tokenizer": "tok",
        "vocab_size": 300,
    }
    words = ["data", "prepare", "text.jsonl", "--out", "made", "--tokenizer", "tok", "--val-fraction", "0.2", "--workers", "1"]
    assert object_of(capsys, *words)["vocab_size"] == 300


def test_doctor(place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = object_of(capsys, "doctor")
    assert {"device", "precision", "python", "torch", "system", "threads", "missing"} <= findings.keys()
    assert findings["torch"] == torch.__version__
    assert "checkpoints" not in findings
    assert object_of(capsys, "doctor", "run")["checkpoints"] == {"step-000000010": []}
    assert "step-000000010  every byte is as it was written" in told(capsys, "doctor", "run")
    weights = Path("run/checkpoints/step-000000010/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    (problem,) = object_of(capsys, "doctor", "run", status=1)["checkpoints"]["step-000000010"]
    assert "model.safetensors" in problem
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'daybreak[parquet]'" in object_of(capsys, "doctor")["missing"]["pyarrow"]
    assert "missing    datasets streams hf:NAME" in told(capsys, "doctor")


def test_numbers_that_json_cannot_hold_are_null(capsys: Captured) -> None:
    speak.result({"loss": float("nan"), "tasks": [{"value": float("inf")}]}, True, "")
    assert json.loads(capsys.readouterr().out) == {"loss": None, "tasks": [{"value": None}]}


# --- Runs that stop, end, and are asked again ---


def test_a_finished_run_says_so_and_stays_as_it_is(place: Path, capsys: Captured) -> None:
    told(capsys, "train", "run", "--quiet")  # writes the page and the card that a killed run may lack
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert main(["train", "run"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "run is finished; `daybreak sample run` lets it write, another --out begins a new run\n"
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    Path("run/metrics.jsonl").unlink()
    assert object_of(capsys, "train", "run") == {"run": "run", "step": None, "tokens": None, "val_loss": None, "bits_per_byte": None}


def test_what_a_run_was_killed_before_is_made_up_for(place: Path, capsys: Captured) -> None:
    wanted = object_of(capsys, "train", "run")
    Path("run/DONE").unlink()
    Path("run/report.html").unlink()
    Path("run/model/README.md").unlink()
    assert object_of(capsys, "train", "run") == wanted
    assert Path("run/DONE").exists()
    assert "# run\n" in Path("run/model/README.md").read_text()
    assert "</html>" in Path("run/report.html").read_text()
    told_before = Path("run/metrics.jsonl").read_text().splitlines(keepends=True)
    assert '"event": "end"' in told_before[-1]
    Path("run/metrics.jsonl").write_text("".join(told_before[:-1]))  # killed when the model was written, and the end not yet told
    assert object_of(capsys, "train", "run") == wanted
    assert wanted["val_loss"] is not None


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")])
def test_a_stopped_run_says_how_to_go_on(
    number: signal.Signals, name: str, place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: progress.Quiet, event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(progress.Quiet, "event", stop)
    words = ["train", "demo", *tiny_words(Path("data")), "--out", "new", "--quiet", "--json"]
    assert main(words) == 128 + number
    out, err = capsys.readouterr()
    assert f"stopped by {name} after step 3; the same command goes on from there" in err
    assert json.loads(out) == {"run": "new", "step": 3, "tokens": 192, "val_loss": None, "bits_per_byte": None}
    monkeypatch.undo()
    os.chdir(place)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 10


def test_ctrl_c_anywhere_else(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("daybreak.data.inspection.verify", interrupt)
    assert main(["data", "verify", "anything"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from what is saved\n"


# --- Help, version, errors ---


def test_help_without_words(capsys: Captured) -> None:
    out = told(capsys)
    assert out == told(capsys, "--help")
    for verb in ("data", "tokenizer", "train", "plan", "eval", "sample", "report", "doctor"):
        assert f"\n  {verb} " in out
    assert "daybreak data prepare python:docs --out data/demo; daybreak train demo" in " ".join(out.split())


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_help_tells_every_setting_and_recipe(verb: str, capsys: Captured) -> None:
    out = " ".join(told(capsys, verb, "--help").split())
    for row in config.describe(Settings()):
        assert f"{row.path}=" in out
        assert row.sentence in out, row.path
    for recipe in daybreak.recipes.RECIPES:
        assert recipe in out


@pytest.mark.parametrize(
    "words",
    [["data", "prepare"], ["data", "show"], ["data", "verify"], ["tokenizer", "train"], ["eval"], ["sample"], ["report"], ["doctor"]],
)
def test_every_option_has_its_sentence(words: list[str], capsys: Captured) -> None:
    from daybreak.cli.app import command

    verb: Any = command()
    for word in words:
        verb = verb.commands[word]
    assert "--json" in told(capsys, *words, "--help")
    for parameter in verb.params:
        assert (parameter.help or "").endswith((".", "too.")), parameter.name
    assert verb.help


def test_version(capsys: Captured) -> None:
    assert told(capsys, "--version") == f"daybreak {daybreak.__version__}\n"


def test_debug_shows_the_traceback(capsys: Captured) -> None:
    with pytest.raises(files.FileProblem, match="nothing: no such folder"):
        main(["sample", "nothing", "--debug"])
    with pytest.raises(config.ConfigError):
        main(["--debug", "plan", "dmeo"])


class Odd(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("one\n  and two"), 2, "error: one and two"),
        (config.ConfigError(["a: wrong", "b: wrong"]), 2, "error: a: wrong\nerror: b: wrong"),
        (files.FileProblem("a: wrong\nb: wrong"), 2, "error: a: wrong\nerror: b: wrong"),
        (OSError(13, "Permission denied", "a/b"), 2, "error: a/b: cannot be used (Permission denied); name another, or mend it"),
        (MemoryError(), 1, "error: the device has too little memory for this; set train.micro_batch, train.batch_tokens or"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "error: the device has too little memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "error: the device has too little memory"),
        (Odd("x\ny"), 1, "error: unexpected Odd: x y; the same command with --debug shows where"),
    ],
)
def test_an_error_in_lines(error: Exception, status: int, line: str, capsys: Captured) -> None:
    assert speak.failure(error) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == line.count("\n") + 1


def test_failures_of_the_work_have_status_1(capsys: Captured) -> None:
    from daybreak.checkpoint import CheckpointProblem
    from daybreak.story import RunFailed

    assert speak.failure(CheckpointProblem("run/checkpoints: none verifies")) == 1
    assert speak.failure(RunFailed("the loss was not finite")) == 1
    assert capsys.readouterr().err == "error: run/checkpoints: none verifies\nerror: the loss was not finite\n"


# --- Pipes ---


@pytest.mark.parametrize("words", [["plan", "demo"], ["--version"], ["--help"]])
def test_a_reader_that_goes_away_is_no_error(words: list[str], place: Path) -> None:
    """As `daybreak plan demo | head -1` does it: no traceback, no complaint of Python's at its end."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "daybreak", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": ""},  # a buffer is what is left over at the end
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 0


def test_work_goes_on_when_nobody_reads_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    speak.say("a step")


# --- Terminals ---

WRITTEN = "a\x1b[2J\tb\r\n\x7f\x9b31m\u0435"


@pytest.mark.parametrize(("terminal", "shown"), [(True, "a␛[2J\tb␍\n␡�31m\u0435"), (False, WRITTEN)])
def test_a_model_does_not_command_the_terminal(
    terminal: bool, shown: str, place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybreak.loading.Model.write", lambda *_, **__: iter(WRITTEN))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert told(capsys, "sample", "run", "The") == f"The{shown}\n"
    out = told(capsys, "sample", "run", "The", "--json")
    assert out.isprintable() or out[:-1].isprintable()
    assert json.loads(out)["text"] == WRITTEN


# --- Models that travel ---


def test_a_model_leaves_and_comes_back_bit_for_bit(place: Path, capsys: Captured) -> None:
    sent = object_of(capsys, "export", "run", "--out", "sent")
    got = object_of(capsys, "import", "sent", "--out", "back")
    assert sent["parameters"] == got["parameters"] == object_of(capsys, "plan", "run")["parameters"]
    assert got["model"] == str(Path("back/model"))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert Path("sent", name).read_bytes() == Path("run/model", name).read_bytes() == Path("back/model", name).read_bytes()
    words = ["--seed", "1", "--max-tokens", "8"]
    assert object_of(capsys, "sample", "back", "The", *words)["text"] == object_of(capsys, "sample", "run", "The", *words)["text"]
    ours, theirs = (object_of(capsys, "eval", folder, "--data", "data")["tasks"] for folder in ("run", "back"))
    assert ours == theirs


def test_what_transformers_wrote_is_imported(place: Path, capsys: Captured) -> None:
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(vocab_size=257, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256)
    model = transformers.GPT2LMHeadModel(shape).eval()
    model.save_pretrained("theirs")
    daybreak.load_tokenizer("bytes").save(Path("theirs"))
    object_of(capsys, "import", "theirs", "--out", "ours")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        difference = (model(ids).logits - daybreak.load("ours", device="cpu")(ids)).abs().max()
    assert difference < 1e-4
