"""What a run chooses for its machine is noted, kept when it resumes, and made smaller where memory runs out."""

from __future__ import annotations

import gc
import json
import os
import signal

import pytest
import torch
from tiny import tiny_settings

from daybreak import choosing, machine, metrics, opening, stepping
from daybreak.choosing import choose
from daybreak.model import fastest
from daybreak.settings import loss_chunk
from daybreak.story import events, run
from daybreak.training.precision import MixedPrecision
from daybreak.world import ALONE, World

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
GB = 10**9


def note(out, **values):
    """A run's metrics with one note of what was chosen."""
    facts = {"device": machine.device_name(CPU), "precision": "fp32"}
    out.mkdir(exist_ok=True)
    event = {"event": "start", "step": 0, "tokens": 0, **facts, **values}
    with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def chosen(settings, out=None, world=ALONE):
    return choose(settings, CPU, "fp32", "single", world, out)


@pytest.fixture
def settings(data_dir):
    return tiny_settings(data_dir, "model.vocab_size=257", "machine.attention=auto")


# --- micro-batch -------------------------------------------------------------------------------------------------------------


def test_what_was_noted_is_kept(settings, tmp_path):
    assert chosen(settings, tmp_path).micro_batch == 4  # nothing is noted yet, and four sequences are a batch
    note(tmp_path, micro_batch=2, attention={"dense": "plain", "banded": "rule"})
    assert chosen(settings, tmp_path) == choosing.Chosen(2, {"dense": "plain", "banded": "rule"})
    note(tmp_path, event="micro_batch", micro_batch=1)
    assert chosen(settings, tmp_path) == choosing.Chosen(1, {"dense": "plain", "banded": "rule"})
    note(tmp_path, micro_batch=4)  # a run that began anew
    assert chosen(settings, tmp_path).micro_batch == 4


def test_what_is_asked_for_comes_first(settings, data_dir, tmp_path):
    note(tmp_path, micro_batch=2)
    assert chosen(tiny_settings(data_dir, "model.vocab_size=257", "train.micro_batch=1"), tmp_path).micro_batch == 1


@pytest.mark.parametrize(
    "values",
    [
        {"micro_batch": 3},  # divides no batch of four
        {"micro_batch": "2"},
        {"micro_batch": -2},
        {"micro_batch": 2, "device": "another"},
        {"micro_batch": 2, "precision": "bf16"},
        {"attention": "plain"},
        {"attention": {"dense": "gone", "banded": "rule"}},
    ],
)
def test_what_cannot_be_kept_is_chosen_anew(settings, tmp_path, values):
    note(tmp_path, **values)
    assert chosen(settings, tmp_path) == choosing.Chosen(4, {"dense": "rule", "banded": "rule"})


def big(*edits):
    return tiny_settings("nowhere", "model.vocab_size=50257", "model.context_length=1024", "model.n_layer=12", "model.n_head=12",
                         "model.d_model=768", "train.batch_tokens=524288", "train.train_tokens=1B", *edits)  # fmt: skip


def test_on_a_gpu_the_largest_that_fits_is_taken(monkeypatch):
    sizes = {}
    for free in (4, 8, 16, 40, 80, 141):
        monkeypatch.setattr(machine, "free_memory", lambda device, free=free: free * GB)
        sizes[free] = opening.micro_batch(big(), CUDA, "bf16")
        needed = opening.planning.needs(big(), "bf16", "single", 1, sizes[free], free * GB).total
        assert needed <= 0.9 * free * GB
        assert sizes[free] == 64 or opening.planning.needs(big(), "bf16", "single", 1, 2 * sizes[free], free * GB).total > 0.9 * free * GB
    assert list(sizes.values()) == sorted(sizes.values())
    assert sizes[141] == 64  # more at once makes nothing quicker
    monkeypatch.setattr(machine, "free_memory", lambda device: GB)
    assert opening.micro_batch(big(), CUDA, "bf16") == 1  # too little for any; the run itself will say so


def test_less_memory_in_one_process_binds_all(monkeypatch):
    """Each process of a run computes as many micro-batches as the others."""
    told = []

    class Two(World):
        def highest(self, *numbers):
            told.append(numbers)
            return tuple(max(number, -8) for number in numbers)  # the other has room for eight

        def agree(self, value):
            return value

    monkeypatch.setattr(machine, "free_memory", lambda device: 141 * GB)
    found = choose(big("machine.attention=rule"), CUDA, "bf16", "ddp", Two(rank=0, size=2, local_size=2))
    assert (told, found.micro_batch) == ([(-64,)], 8)


def test_an_automatic_micro_batch_that_does_not_fit_is_halved(data_dir, tmp_path, monkeypatch):
    """The first step runs out of memory twice; the run ends as one that was told so from the start."""
    backward, failures = MixedPrecision.backward, []

    def too_much(self, loss):
        if len(failures) < 2:
            failures.append(0)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has none.")
        backward(self, loss)

    edits = ("model.dropout=0.2",)
    last = run(tiny_settings(data_dir, "train.micro_batch=1", *edits), tmp_path / "told")
    monkeypatch.setattr(MixedPrecision, "backward", too_much)
    told = list(events(tiny_settings(data_dir, *edits), tmp_path / "found"))
    notes = [(event["micro_batch"], event["reason"], event["step"]) for event in told if event["event"] == "micro_batch"]
    assert notes == [(2, "CUDA out of memory", 0), (1, "CUDA out of memory", 0)]
    assert told[-1]["val_loss"] == last["val_loss"]  # dropout and all
    assert chosen(tiny_settings(data_dir, *edits), tmp_path / "found").micro_batch == 1


@pytest.mark.parametrize(("edit", "after"), [("train.micro_batch=4", 0), ("train.micro_batch=none", 3)])
def test_one_that_was_asked_for_or_worked_before_is_not(data_dir, tmp_path, monkeypatch, edit, after):
    backward, done = MixedPrecision.backward, []

    def too_much(self, loss):
        done.append(0)
        if len(done) > after:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        backward(self, loss)

    monkeypatch.setattr(MixedPrecision, "backward", too_much)
    with pytest.raises(torch.OutOfMemoryError):
        list(events(tiny_settings(data_dir, edit), tmp_path / "run"))


def test_a_resumed_run_takes_what_it_began_with(data_dir, tmp_path, monkeypatch):
    """Though by now another would be chosen: with dropout that would be other bits."""
    settings = tiny_settings(data_dir, "model.dropout=0.2", "train.batch_tokens=128", "checkpoint.every_seconds=1e-6")
    straight = run(settings, tmp_path / "straight")
    sizes = []
    for event in events(settings, tmp_path / "run"):
        if event["event"] == "start":
            sizes.append(event["micro_batch"])
        if event["event"] == "step" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(choosing, "micro_batch", lambda *given: 1)
    told = list(events(settings, tmp_path / "run"))
    sizes += [event["micro_batch"] for event in told if event["event"] == "resume"]
    assert sizes == [8, 8]
    assert told[-1]["val_loss"] == straight["val_loss"]


# --- attention ---------------------------------------------------------------------------------------------------------------


def test_attention_is_tried_once_for_each_kind_of_layer(data_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(fastest, "choose", lambda shape: asked.append((shape.band, shape.B, shape.T)) or "fused")
    dense = tiny_settings(data_dir, "model.vocab_size=257")
    assert chosen(dense).attention == {"dense": "fused", "banded": "rule"}
    assert asked == [(None, 4, 16)]
    both = tiny_settings(data_dir, "model.vocab_size=257", "model.attention_pattern=dense,banded", "model.attention_band=4")
    assert chosen(both).attention == {"dense": "fused", "banded": "fused"}
    assert asked[1:] == [(None, 4, 16), (4, 4, 16)]
    for edit in ("machine.attention=rule", "machine.attention=plain", "model.dropout=0.1"):
        assert chosen(tiny_settings(data_dir, "model.vocab_size=257", edit)).attention == {"dense": "rule", "banded": "rule"}
    assert len(asked) == 3


def test_a_run_notes_its_kernels_and_computes_with_them(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "choose", lambda shape: "triangle")
    calls = []
    half = fastest.KERNELS["triangle"]
    monkeypatch.setitem(fastest.KERNELS, "triangle", lambda *given: calls.append(given[0].shape) or half(*given))
    told = list(events(tiny_settings(data_dir), tmp_path / "run"))
    assert told[0]["attention"] == {"dense": "triangle", "banded": "rule"}
    assert set(calls) >= {torch.Size((4, 2, 16, 16))}
    plain = run(tiny_settings(data_dir, "machine.attention=plain"), tmp_path / "plain")
    assert told[-1]["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)
    assert next(metrics.read(tmp_path / "plain" / "metrics.jsonl"))["attention"] == "plain"


# --- the loss ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "precision", "chunk"),
    [
        ([], "bf16", 1024),
        ([], "fp16", 1024),
        ([], "fp32", None),
        ([], "tf32", None),
        (["machine.loss_chunk=7"], "fp32", 7),
        (["machine.loss_chunk=0"], "bf16", None),
        (["train.z_loss=1e-4"], "bf16", None),
        (["model.logit_softcap=30"], "bf16", None),
        (["model.vocab_size=8192"], "bf16", None),
    ],
)
def test_the_loss_is_in_chunks_where_that_pays(edits, precision, chunk):
    assert loss_chunk(big(*edits), precision) == chunk
    in_chunks = stepping.objective(big(*edits), precision).__qualname__.startswith("chunked")
    assert in_chunks is (chunk is not None)


# --- pauses ------------------------------------------------------------------------------------------------------------------


def test_garbage_is_collected_between_steps_only_where_the_run_pauses(data_dir, tmp_path):
    """Evaluations lie after steps 4 and 8; the collector does not run before any other step."""
    step, collected = [0], []

    def note(phase, info):
        if phase == "start":
            collected.append(step[0])

    assert gc.isenabled()
    gc.callbacks.append(note)
    try:
        for event in events(tiny_settings(data_dir, "sample.every_tokens=1000000"), tmp_path / "run"):
            if event["event"] == "step":
                step[0] = event["step"]
                for _ in range(3000):  # enough for the collector to run, were it on
                    cycle = []
                    cycle.append(cycle)
            if event["event"] in ("eval", "checkpoint"):
                step[0] += 0.5
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    within = {place for place in collected if 0 < place < 10}
    assert within == {4.5, 8.5}


def test_steps_tell_what_share_of_them_was_waiting_for_data(data_dir, tmp_path):
    shares = [event["data_share"] for event in events(tiny_settings(data_dir), tmp_path / "run") if event["event"] == "step"]
    assert len(shares) == 10
    assert all(0 <= share <= 1 for share in shares)


def test_time_to_compile_counts_for_no_step(data_dir, tmp_path, monkeypatch):
    """A compiler that takes its time: the event tells it, and the step's speed does not know."""
    from daybreak import story

    class Compiled:
        seconds = 0.0

        def __init__(self, on):
            assert on

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    watch = Compiled(True)
    monkeypatch.setattr(story, "Stopwatch", lambda on: watch)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    clock = iter(range(0, 10**6, 10))
    pace = story.Pace
    monkeypatch.setattr(story, "Pace", lambda waited, compiled: pace(lambda: 0.0, compiled, lambda: float(next(clock))))
    seen = []
    for event in events(tiny_settings(data_dir, "machine.compile=true", "eval.every_tokens=1000000"), tmp_path / "run"):
        if event["event"] in ("compile", "step"):
            seen.append((event["event"], event.get("seconds"), event.get("tokens_per_second")))
        if event["event"] == "step" and event["step"] == 1:
            watch.seconds = 8.0
    assert seen[0] == ("step", None, 6.4)
    assert seen[1:3] == [("compile", 8.0, None), ("step", None, 32.0)]
    assert seen[3] == ("step", None, 6.4)
