"""The story of a run: stopped, killed or left alone, it has the same losses and ends with the same bits."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_documents, tiny_settings, write_jsonl

import daybreak as db
from daybreak import checkpoint, corpus, metrics, opening, running
from daybreak.config import ConfigError
from daybreak.data.batches import Batches
from daybreak.data.prepare import prepare
from daybreak.evaluating import score_validation
from daybreak.files import FileProblem
from daybreak.model.init import build
from daybreak.story import RunFailed, events, run
from daybreak.training.precision import MixedPrecision

DROPOUT = "model.dropout=0.2"
PROMPTS = "sample.prompts=The sun,A model"
STEPS = 10


def settings_for(data_dir, *edits):
    return tiny_settings(data_dir, DROPOUT, PROMPTS, *edits)


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """The run that nobody stopped. To be read only."""
    out = tmp_path_factory.mktemp("straight") / "run"
    run(settings_for(data_dir), out)
    return out


@pytest.fixture
def other_data(tmp_path):
    """A data folder of another text under the same name as a first one: `other_data()` changes the text."""
    folder = tmp_path / "changing"

    def change(seed):
        shutil.rmtree(folder, ignore_errors=True)
        source = write_jsonl(tmp_path / "source.jsonl", tiny_documents(seed=seed))
        for _ in prepare([str(source)], folder, tokenizer="bytes", val_fraction=0.2, workers=1):
            pass
        return folder

    return change


def told(out):
    """What counts of a run's metrics: without times and speeds, and without what says that it was stopped."""
    rows = metrics.as_one_run(metrics.read(out / "metrics.jsonl"))
    plain = [{key: value for key, value in row.items() if key not in ("time", "tokens_per_second", "data_share", "run")} for row in rows]
    return [row for row in plain if row["event"] in ("step", "eval", "sample", "end")]


def assert_same_end(out, straight):
    """The same losses, samples and scores, and the same bytes of weights, moments and random state."""
    assert told(out) == told(straight)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        last = f"checkpoints/step-{STEPS:09d}/{name}"
        assert (out / last).read_bytes() == (straight / last).read_bytes(), name
    assert (out / "model" / "model.safetensors").read_bytes() == (straight / "model" / "model.safetensors").read_bytes()


def until(settings, out, step, do):
    """Tells the story and calls `do` at the event of a step."""
    kinds = []
    for event in events(settings, out):
        kinds.append((event["event"], event["step"]))
        if event["event"] == "step" and event["step"] == step:
            do()
    return kinds, event


def killing(number):
    return lambda: os.kill(os.getpid(), number)


# --- the plain story ---------------------------------------------------------------------------------------------------------


def test_the_events_come_in_order(straight):
    rows = list(metrics.read(straight / "metrics.jsonl"))
    steps = [("step", step) for step in range(1, STEPS + 1)]
    look = ["eval", "sample"]
    expected = [("start", 0), *steps[:4], *((kind, 4) for kind in look), *steps[4:8], *((kind, 8) for kind in look), *steps[8:]]
    expected += [(kind, STEPS) for kind in ("checkpoint", "sample", "sample", "end")]
    assert [(row["event"], row["step"]) for row in rows] == expected
    assert all(row["tokens"] == 64 * row["step"] for row in rows)
    start, end = rows[0], rows[-1]
    assert (start["steps"], start["train_tokens"], start["parameters"]) == (STEPS, 640, 34_208)
    assert [row["prompt"] for row in rows if row["event"] == "sample"] == ["The sun", "A model", "The sun", "A model"]
    assert end["val_bytes"] > 0
    assert set(end["compressors"]) == {"gzip -9", "xz -9"}


def test_it_learns(straight):
    losses = [row["loss"] for row in told(straight) if row["event"] == "step"]
    assert losses[-1] < losses[0] - 1


def test_the_learning_rate_warms_up_and_decays(straight):
    rates = [row["learning_rate"] for row in told(straight) if row["event"] == "step"]
    assert [rates[0], rates[1], rates[-1]] == pytest.approx([0.005, 0.01, 0.001])
    assert sorted(rates[1:], reverse=True) == rates[1:]


def test_a_finished_run_opens_as_a_model_with_the_last_weights(straight):
    finished = db.load(straight, device="cpu")
    from_checkpoint = checkpoint.found(straight)[-1]
    saved = load_file(from_checkpoint / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in finished.gpt.state_dict().items())
    assert isinstance("".join(finished.write("The sun", max_tokens=5, seed=0)), str)
    assert opening.is_finished(straight, settings_for(straight))


def test_python_s_door(data_dir, tmp_path):
    seen = []
    last = db.run(settings_for(data_dir, "train.train_tokens=128"), tmp_path / "run", show=seen.append)
    assert last is seen[-1]
    assert last["event"] == "end"
    assert [event["event"] for event in seen] == [row["event"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl")]
    assert run(settings_for(data_dir, "train.train_tokens=128"), tmp_path / "run")["val_loss"] == last["val_loss"]  # nothing is left to do


def test_the_same_settings_give_the_same_run_and_another_seed_another(data_dir, straight, tmp_path):
    run(settings_for(data_dir), tmp_path / "again")
    assert_same_end(tmp_path / "again", straight)
    run(settings_for(data_dir, "train.seed=1"), tmp_path / "other")
    losses = [[row["loss"] for row in told(out) if row["event"] == "step"] for out in (straight, tmp_path / "other")]
    assert not set(losses[0]) & set(losses[1])


def test_neither_evaluating_nor_saving_changes_what_is_learned(data_dir, straight, tmp_path):
    often = ("eval.every_tokens=64", "sample.every_tokens=64", "checkpoint.every_seconds=1e-9", "eval.tokens=32")
    run(settings_for(data_dir, *often), tmp_path / "run")
    assert [row for row in told(tmp_path / "run") if row["event"] == "step"] == [row for row in told(straight) if row["event"] == "step"]
    assert len(checkpoint.found(tmp_path / "run")) == 2


def test_the_result_does_not_depend_on_the_micro_batch(data_dir, tmp_path):
    ends = [
        run(tiny_settings(data_dir, f"train.micro_batch={size}"), tmp_path / str(size))["val_loss"]  # without dropout
        for size in (1, 2, 4)
    ]
    assert ends == pytest.approx([ends[0]] * 3, abs=1e-4)


@pytest.mark.parametrize("most", [None, 100])
def test_the_validation_loss_does_not_depend_on_the_batch(data_dir, most):
    data = corpus.Data.open(data_dir)
    model = build(opening.resolve_vocabulary(tiny_settings(data_dir).model, data.tokenizer), 0)
    precision = MixedPrecision("fp32", torch.device("cpu"))
    scores = [score_validation(model, data, precision, batch, most) for batch in (1, 3, 8, 1000)]
    assert {result.tokens for result in scores} == {len(data.val) - 1 if most is None else most}
    assert {round(result.loss, 5) for result in scores} == {round(scores[0].loss, 5)}


def test_tasks_run_while_it_learns_and_at_the_end(data_dir, straight, tmp_path):
    items = [{"context": "The sun", "endings": ["rises at dawn.", "learns", "x"], "label": 0} for _ in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    wanted = (f"eval.tasks={tmp_path / 'mine.jsonl'}", "eval.tasks_every_tokens=256", "eval.task_items=2")
    run(settings_for(data_dir, *wanted), tmp_path / "run")
    rows = [row for row in metrics.read(tmp_path / "run" / "metrics.jsonl") if row["event"] == "tasks"]
    assert [(row["tokens"], next(iter(row["tasks"].values()))["n"]) for row in rows] == [(256, 2), (512, 2), (640, 6)]
    for row in next(iter(rows[-1]["tasks"].values()))["metrics"].values():
        assert row["stderr"] >= 0
    assert_same_end(tmp_path / "run", straight)  # asked or not, it learns the same


def test_probes_look_at_every_layer_and_change_nothing(data_dir, straight, tmp_path):
    run(settings_for(data_dir, "eval.probe_every_tokens=256"), tmp_path / "run")
    rows = [row for row in metrics.read(tmp_path / "run" / "metrics.jsonl") if row["event"] == "probe"]
    assert [row["step"] for row in rows] == [4, 8]
    assert set(rows[0]["attention_logit"]) == {"blocks.0", "blocks.1"}
    assert set(rows[0]["gradient_norm"]) == {"token_embedding", "position_embedding", "blocks.0", "blocks.1", "norm"}
    assert_same_end(tmp_path / "run", straight)


def test_the_z_loss_is_part_of_what_is_learned(data_dir, straight, tmp_path):
    run(settings_for(data_dir, "train.z_loss=0.01"), tmp_path / "run")
    first, plain = (next(row for row in told(out) if row["event"] == "step")["loss"] for out in (tmp_path / "run", straight))
    assert first == pytest.approx(plain + 0.01 * math.log(257) ** 2, rel=0.01)  # at the start the softmax is nearly even


def test_the_loss_in_chunks_is_the_loss(data_dir, straight, tmp_path):
    run(settings_for(data_dir, "machine.loss_chunk=7"), tmp_path / "run")
    ours, plain = ([row["loss"] for row in told(out) if row["event"] == "step"] for out in (tmp_path / "run", straight))
    assert ours == pytest.approx(plain, rel=1e-5)


def test_a_task_that_is_not_there_is_told_before_anything_is_written(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"helaswag.*did you mean hellaswag"):
        run(settings_for(data_dir, "eval.tasks=helaswag"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- stopped -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 1), (signal.SIGTERM, 4), (signal.SIGINT, 9)])
def test_stopped_by_a_signal_and_resumed_it_is_the_same_run(data_dir, straight, tmp_path, number, step):
    settings = settings_for(data_dir)
    before = signal.getsignal(number)
    kinds, last = until(settings, tmp_path / "run", step, killing(number))
    assert signal.getsignal(number) is before
    assert kinds[-2:] == [("checkpoint", step), ("stop", step)]
    assert (last["reason"], last["status"]) == (number.name, 128 + number)
    assert (tmp_path / "run" / "STOPPED").read_text() == f"{number.name}\n"
    assert not opening.is_finished(tmp_path / "run", settings)
    assert db.load(tmp_path / "run", device="cpu").config.vocab_size == 257  # what there is can be opened
    kinds, last = until(settings, tmp_path / "run", 0, None)
    assert kinds[:2] == [("resume", step), ("step", step + 1)]
    assert last["event"] == "end"
    assert_same_end(tmp_path / "run", straight)


def test_stopped_again_and_again_it_is_the_same_run(data_dir, straight, tmp_path):
    for step in (2, 3, 7):
        _, last = until(settings_for(data_dir), tmp_path / "run", step, killing(signal.SIGINT))
        assert last["event"] == "stop"
    run(settings_for(data_dir), tmp_path / "run")
    assert_same_end(tmp_path / "run", straight)


def test_a_second_signal_ends_it_at_once_and_it_can_still_be_resumed(data_dir, straight, tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        until(settings_for(data_dir, "checkpoint.every_seconds=1e-9"), tmp_path / "run", 3, twice)
    run(settings_for(data_dir), tmp_path / "run")
    assert_same_end(tmp_path / "run", straight)


def test_a_signal_at_the_last_step_lets_it_finish(data_dir, straight, tmp_path):
    _, last = until(settings_for(data_dir), tmp_path / "run", STEPS, killing(signal.SIGINT))
    assert last["event"] == "end"
    assert_same_end(tmp_path / "run", straight)


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tiny import tiny_settings
from daybreak.story import events
for event in events(tiny_settings(Path(sys.argv[1]), *sys.argv[4:]), sys.argv[2]):
    saved = os.listdir(sys.argv[2] + "/checkpoints") if os.path.isdir(sys.argv[2] + "/checkpoints") else []
    if event["event"] == "step" and event["step"] >= 6 and any(not name.startswith(".") for name in saved):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)  # saving goes on beside; let it come to something
"""


def test_killed_without_a_word_and_resumed_it_is_the_same_run(data_dir, straight, tmp_path):
    settings = settings_for(data_dir, "checkpoint.every_seconds=1e-9")
    words = [DROPOUT, PROMPTS, "checkpoint.every_seconds=1e-9"]
    command = [sys.executable, "-c", KILLED, str(data_dir), str(tmp_path / "run"), str(Path(__file__).parent), *words]
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    kinds, _ = until(settings, tmp_path / "run", 0, None)
    (kind, step), following = kinds[:2]
    assert kind == "resume"
    assert step >= 1  # the newest that was published
    assert following == ("step", step + 1)
    assert_same_end(tmp_path / "run", straight)


def test_a_damaged_checkpoint_is_told_and_costs_only_its_steps(data_dir, straight, tmp_path):
    settings = settings_for(data_dir, "checkpoint.every_seconds=1e-9", "checkpoint.keep=3")
    until(settings, tmp_path / "run", 6, killing(signal.SIGTERM))
    (tmp_path / "run" / "checkpoints" / "step-000000006" / "state.json").write_text("{}")
    story_told = list(events(settings, tmp_path / "run"))
    assert story_told[0]["event"] == "resume"
    assert 1 <= story_told[0]["step"] <= 5
    assert story_told[0]["rejected"][0].startswith("step-000000006: state.json: ")
    assert_same_end(tmp_path / "run", straight)


# --- refused -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(data_dir, tmp_path):
    until(settings_for(data_dir), tmp_path / "stopped", 2, killing(signal.SIGINT))
    return tmp_path / "stopped"


def test_settings_that_would_change_the_result_are_refused_all_at_once(data_dir, stopped):
    with pytest.raises(ConfigError) as caught:
        run(settings_for(data_dir, "train.learning_rate=1e-3", "model.n_layer=3"), stopped)
    assert len(caught.value.problems) == 2
    assert any(line.startswith("train.learning_rate: wanted 0.01 as ") and "came 0.001" in line for line in caught.value.problems)


def test_settings_that_only_watch_may_change(data_dir, straight, stopped):
    run(settings_for(data_dir, "eval.every_tokens=64", "checkpoint.keep=3"), stopped)
    assert [row for row in told(stopped) if row["event"] == "step"] == [row for row in told(straight) if row["event"] == "step"]
    assert json.loads((stopped / "settings.json").read_text())["checkpoint"]["keep"] == 3


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_changed_data_is_refused(other_data, tmp_path, has_checkpoint):
    settings = settings_for(other_data(seed=0))
    story_told = events(settings, tmp_path / "run")
    for event in story_told:
        if event["event"] == "step" and event["step"] == 2:
            if not has_checkpoint:
                break
            os.kill(os.getpid(), signal.SIGINT)
    story_told.close()
    assert bool(checkpoint.found(tmp_path / "run")) == has_checkpoint
    other_data(seed=1)
    with pytest.raises(FileProblem, match=r"changing: its text or tokenizer is not what .*run was trained on; give the run another --out"):
        run(settings, tmp_path / "run")
    other_data(seed=0)
    assert run(settings, tmp_path / "run")["event"] == "end"


def test_a_folder_that_is_no_run_is_left_alone(data_dir, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("unique")
    with pytest.raises(FileProblem, match="mine: is not empty and holds no run; give another --out"):
        run(settings_for(data_dir), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(FileProblem, match="wanted a folder for the run, came a file"):
        run(settings_for(data_dir), tmp_path / "mine" / "thesis.txt")


def test_a_run_killed_before_its_settings_were_written_begins_anew(data_dir, straight, tmp_path):
    for name in ("tokenizer", "data.json"):
        (shutil.copytree if (straight / name).is_dir() else shutil.copy)(straight / name, _made(tmp_path / "run") / name)
    run(settings_for(data_dir), tmp_path / "run")
    assert_same_end(tmp_path / "run", straight)


HOLDING = """
import sys
from pathlib import Path
from daybreak.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_two_processes_do_not_train_in_one_folder(data_dir, straight, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", HOLDING, str(out / ".lock")]
    environment = {**os.environ, "PYTHONPATH": str(Path(db.__file__).parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        process.stdout.readline()
        with pytest.raises(FileProblem, match=rf"run: wanted a run that nobody trains, process {process.pid} trains it; .*another --out"):
            run(settings_for(data_dir), out)
        assert [path.name for path in out.iterdir()] == [".lock"]
        process.kill()
    assert (out / ".lock").exists()
    run(settings_for(data_dir), out)
    assert_same_end(out, straight)
    assert not (out / ".lock").exists()


def test_a_run_is_held_from_its_first_event_to_its_last(data_dir, tmp_path):
    story_told = events(settings_for(data_dir), tmp_path / "run")
    assert next(story_told)["event"] == "start"
    with pytest.raises(FileProblem, match=f"process {os.getpid()} trains it"):
        run(settings_for(data_dir), tmp_path / "run")
    story_told.close()
    with opening.holding(tmp_path / "run"):
        pass


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


# --- failing -----------------------------------------------------------------------------------------------------------------


def diverging(data_dir, *edits):
    return tiny_settings(data_dir, "train.learning_rate=1e30", "train.train_tokens=3200", "train.grad_clip=0", *edits)


def test_a_run_that_diverges_fails_by_name_and_its_skips_are_told(data_dir, tmp_path):
    with pytest.raises(RunFailed, match=r"not finite for 20 steps in a row, after 2 rollbacks; begin a new run with a lower"):
        run(diverging(data_dir, "sample.every_tokens=1M"), tmp_path / "run")
    rows = list(metrics.read(tmp_path / "run" / "metrics.jsonl"))
    skips = [row for row in rows if row["event"] == "skip"]
    assert len(skips) == 3 * 20
    assert skips[-1]["loss"] is None  # JSON has no NaN


def test_a_run_that_diverges_keeps_a_checkpoint_from_before(data_dir, tmp_path):
    with pytest.raises(RunFailed):
        run(diverging(data_dir, "sample.every_tokens=1M", "checkpoint.every_seconds=1e-9"), tmp_path / "run")
    taken = {row["step"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl") if row["event"] == "step"}
    kept = {int(path.name[5:]) for path in checkpoint.found(tmp_path / "run")}
    assert kept
    assert kept <= taken


def poisoned(first, last):
    """Batches whose windows at the steps `first` to `last` of an untroubled run give no finite loss."""

    class Poisoned(Batches):
        def window_numbers(self, positions):
            self.bad = ((positions >= first * 4) & (positions < (last + 1) * 4)).any()
            return super().window_numbers(positions)

        def __getitem__(self, step):
            micro_batches = super().__getitem__(step)
            return (
                [batch._replace(weights=torch.full(batch.inputs.shape, torch.nan)) for batch in micro_batches]
                if self.bad
                else micro_batches
            )

    return Poisoned


def test_a_run_in_trouble_goes_back_and_leaves_the_data_out(data_dir, tmp_path, monkeypatch):
    settings = settings_for(data_dir, "train.train_tokens=2560", "checkpoint.every_seconds=1e-9")
    monkeypatch.setattr(running, "Batches", poisoned(5, 24))
    rows = list(events(settings, tmp_path / "run"))
    assert [row["event"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl")].count("skip") == 20
    (back,) = [row for row in rows if row["event"] == "rollback"]
    assert back["without"] == [5, 24]
    assert back["step"] == back["to"] <= 5
    assert rows[-1]["event"] == "end"
    steps = [row for row in told(tmp_path / "run") if row["event"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 41))

    # It is the run on what is left of the text, and killed after it went back it still is.
    class Left(Batches):
        def __getitem__(self, step):
            return super().__getitem__(step if step < 5 else step + 20)

    with monkeypatch.context() as patch:
        patch.setattr(running, "Batches", Left)
        run(settings_for(data_dir, "train.train_tokens=2560"), tmp_path / "left")
    assert [row["loss"] for row in steps] == [row["loss"] for row in told(tmp_path / "left") if row["event"] == "step"]

    monkeypatch.setattr(running, "Batches", poisoned(5, 24))
    story_told = events(settings, tmp_path / "again")
    for event in story_told:
        if event["event"] == "step" and event["step"] == 12:
            break
    story_told.close()
    run(settings, tmp_path / "again")
    assert [row["loss"] for row in told(tmp_path / "again") if row["event"] == "step"] == [row["loss"] for row in steps]


def test_trouble_before_the_first_checkpoint_sends_a_run_back_to_its_beginning(data_dir, tmp_path, monkeypatch):
    settings = settings_for(data_dir, "train.train_tokens=1920")
    monkeypatch.setattr(running, "Batches", poisoned(1, 20))
    rows = list(events(settings, tmp_path / "run"))
    (back,) = [row for row in rows if row["event"] == "rollback"]
    assert back["to"] == 0
    assert rows[-1]["event"] == "end"
    assert rows[-1]["step"] == 30


def test_a_model_that_has_diverged_writes_no_sample_and_says_so(data_dir, tmp_path):
    with pytest.raises(RunFailed, match=r"predicts NaN or infinity: its weights have diverged; train it with a lower train\.learning_rate"):
        run(diverging(data_dir), tmp_path / "run")


def test_a_disk_that_fails_is_named_and_the_run_can_go_on(data_dir, straight, tmp_path, monkeypatch):
    settings = settings_for(data_dir, "checkpoint.every_seconds=1e-9")
    write = metrics.MetricsFile.write

    def fails(self, event):
        if event["event"] == "eval":
            raise OSError(28, "No space left on device")
        write(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsFile, "write", fails)
        with pytest.raises(RunFailed, match="No space left on device; free space or mend the folder, then give the same command"):
            run(settings, tmp_path / "run")
    run(settings, tmp_path / "run")
    losses = [[row["loss"] for row in told(out) if row["event"] == "step"] for out in (tmp_path / "run", straight)]
    assert losses[0] == losses[1]
