"""The story told by several processes: in every layout the same run, and stopped, broken or divided anew it still is."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch._dynamo  # these two before the tests fork, or each process would import them for itself, which takes a second
import torch.distributed.fsdp
from safetensors.torch import load_file
from tiny import tiny_documents, tiny_settings, write_jsonl
from worlds import in_processes

import daybreak as db
from daybreak import checkpoint, config, corpus, metrics, running, story
from daybreak.cli import main
from daybreak.cli.train import written
from daybreak.data.batches import Batches
from daybreak.data.prepare import prepare
from daybreak.recipes import recipe_settings
from daybreak.story import events

DROPOUT = "model.dropout=0.2"
OFTEN = "checkpoint.every_seconds=1e-9"
STEPS = 10
LAYOUTS = [("single", 1), ("ddp", 2), ("fsdp", 2)]


def settings_for(data_dir, layout, *edits):
    parallel = "auto" if layout == "single" else layout
    return tiny_settings(data_dir, f"machine.parallel={parallel}", "eval.every_tokens=1M", "sample.every_tokens=1M", *edits)


def tell(settings, out, do=None, before=None):
    """In one process of several: the events of the story, and how it failed, if it did. `before(rank)` is called first,
    `do(rank, event)` at each event."""
    rank = int(os.environ["RANK"])
    if before is not None:
        before(rank)
    rows = []
    try:
        for event in events(settings, out):
            rows.append(event)
            if do is not None:
                do(rank, event)
    except Exception as error:
        return rows, f"{type(error).__name__}: {error}"
    return rows, None


def told(rows):
    """What counts of a story: without times and speeds, and without what says that it was stopped."""
    plain = [{key: value for key, value in row.items() if key not in ("time", "tokens_per_second", "data_share", "run")} for row in rows]
    return [row for row in plain if row["event"] in ("step", "skip", "eval", "tasks", "sample", "end")]


def whole(out):
    """What counts of all that a run wrote down, as if it had never stopped."""
    return told(metrics.as_one_run(metrics.read(out / "metrics.jsonl")))


def losses(rows):
    return [row["loss"] for row in rows if row["event"] == "step"]


def run(settings, out, size=1, do=None, before=None, **more):
    """Trains in so many processes, all of which must come to an end and tell the same; returns the leading one's events."""
    answers = in_processes(size, tell, settings, out, do, before, **more)
    assert [failure for _, failure in answers] == [None] * size
    leading = answers[0][0]
    for rows, _ in answers[1:]:
        assert [row["event"] for row in rows] == [row["event"] for row in leading]
        assert losses(rows) == losses(leading)
    return leading


def at(step, rank, number):
    """Has one rank be sent a signal at a step."""

    def do(here, event):
        if (here, event["event"], event["step"]) == (rank, "step", step):
            os.kill(os.getpid(), number)

    return do


def same_end(out, straight):
    """The same losses and scores, and the same bits in the last checkpoint."""
    assert whole(out) == whole(straight)
    same_bits(out, straight)


def same_bits(out, straight):
    """The same weights, moments and random state in the last checkpoint."""
    last = [checkpoint.found(folder)[-1] for folder in (out, straight)]
    assert {path.name for path in last} == {f"step-{STEPS:09d}"}
    weights = [checkpoint.read_model(path) for path in last]
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    names = sorted(path.name for path in last[1].iterdir() if path.name != "manifest.json")  # which holds the versions and nothing new
    for name in names:
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes(), name


@pytest.fixture(scope="module")
def straight(data_dir, tmp_path_factory):
    """By layout the folder of a run with dropout that nobody stopped, made when first asked for. To be read only."""
    made = {}

    def of(layout, size):
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("straight") / "run"
            run(settings_for(data_dir, layout, DROPOUT), made[layout], size)
        return made[layout]

    return of


# --- stopped -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "size"), LAYOUTS)
def test_stopped_by_a_signal_to_one_process_and_resumed_it_is_the_same_run(data_dir, straight, tmp_path, layout, size):
    settings, out = settings_for(data_dir, layout, DROPOUT, OFTEN), tmp_path / "run"
    rows = run(settings, out, size, at(4, size - 1, signal.SIGTERM))
    stopped = rows[-1]
    assert (stopped["event"], stopped["reason"], stopped["status"]) == ("stop", "SIGTERM", 128 + signal.SIGTERM)
    assert 4 <= stopped["step"] <= 5  # at once, or after the step that the others had begun
    assert (out / "STOPPED").read_text() == "SIGTERM\n"
    rows = run(settings, out, size)
    assert (rows[0]["event"], rows[0]["step"], rows[0]["draws"]) == ("resume", stopped["step"], "as saved")
    assert (out / "DONE").exists()
    same_end(out, straight(layout, size))


def test_dropout_is_drawn_by_each_process_for_itself(straight):
    last = checkpoint.found(straight("ddp", 2))[-1]
    drawn = [load_file(last / f"optimizer-0000{rank}-of-00002.safetensors") for rank in (1, 2)]
    assert not torch.equal(drawn[0]["random/cpu"], drawn[1]["random/cpu"])
    assert losses(whole(straight("ddp", 2))) != losses(whole(straight("single", 1)))


# --- divided otherwise -------------------------------------------------------------------------------------------------------

WATCHED = ("eval.every_tokens=256", "eval.tokens=100", "sample.every_tokens=256", "eval.tasks_every_tokens=256", "eval.task_items=3")
WAYS = {"single": (1, 1), "ddp": (2, 2), "fsdp": (2, 2), "hsdp": (4, 2)}
"""How many processes, and how many of them on a node."""


class Recorded(Batches):
    """Batches that note what was asked of them."""

    seen: dict[int, list[list[int]]]

    def __getitem__(self, step):
        micro_batches = super().__getitem__(step)
        type(self).seen[step] = [row for batch in micro_batches for row in batch.inputs.tolist()]
        return micro_batches


def tell_with_batches(settings, out):
    Recorded.seen = {}
    running.Batches = Recorded
    return *tell(settings, out), Recorded.seen


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """A task of five items of several lengths."""
    path = tmp_path_factory.mktemp("tasks") / "mine.jsonl"
    contexts = ("The sun", "A model learns", "The night", "The", "At dawn the loss")
    rows = [{"context": text, "endings": ["rises at dawn.", "learns once more", "x"], "label": n % 3} for n, text in enumerate(contexts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def layouts(data_dir, items, tmp_path_factory):
    """What all processes of a layout tell of the same run without dropout, and the run's folder; made when first asked for. To be read
    only."""
    made = {}

    def of(layout):
        if layout not in made:
            size, per_node = WAYS[layout]
            out = tmp_path_factory.mktemp("layouts") / layout
            settings = settings_for(data_dir, layout, *WATCHED, f"eval.tasks={items}")
            made[layout] = in_processes(size, tell_with_batches, settings, out, per_node=per_node), out
        return made[layout]

    return of


def without_times(row):
    return {**row, "tasks": {n: {k: v for k, v in t.items() if k != "seconds"} for n, t in row.get("tasks", {}).items()}}


def figures(rows, *kinds):
    """The numbers of events, in order."""

    def numbers(value):
        if isinstance(value, dict):
            return [number for key in sorted(value) for number in numbers(value[key])]
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []

    return [number for row in told(rows) if row["event"] in kinds for number in numbers(without_times(row))]


@pytest.mark.parametrize("layout", ["ddp", "fsdp", "hsdp"])
def test_every_layout_is_the_same_run_to_rounding(layouts, layout):
    ((alone, _, batches),), alone_out = layouts("single")
    told_by_all, out = layouts(layout)
    for rows, failure, _ in told_by_all:
        assert failure is None
        assert rows[0]["layout"] == layout
        assert [(row["event"], row["step"]) for row in told(rows)] == [(row["event"], row["step"]) for row in told(alone)]
        assert losses(rows) == losses(told_by_all[0][0])
        for kind in ("step", "eval", "tasks", "end"):
            wanted = figures(alone, kind)
            assert len(wanted) > 5
            assert figures(rows, kind) == pytest.approx(wanted, rel=2e-5), kind
    samples = [[row["text"] for row in told(rows) if row["event"] == "sample"] for rows in (alone, told_by_all[0][0])]
    assert samples[0] == samples[1]
    assert all(samples[0])

    for step in range(STEPS):
        shares = [seen[step] for _, _, seen in told_by_all]
        assert {len(share) for share in shares} == {len(batches[step]) // len(shares)}
        assert [row for share in shares for row in share] == batches[step]

    ours, theirs = (db.load(folder, device="cpu") for folder in (out, alone_out))
    tokens = torch.arange(10)[None]
    assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-4)
    saved = checkpoint.read_model(checkpoint.found(out)[-1])
    assert all(torch.equal(saved[name], tensor) for name, tensor in ours.gpt.state_dict().items())


def test_in_bf16_the_layouts_agree_as_far_as_bf16_goes(data_dir, items, tmp_path):
    edits = (f"eval.tasks={items}", "machine.precision=bf16", "machine.recompute=true", "train.micro_batch=1")
    alone = run(settings_for(data_dir, "single", *edits), tmp_path / "single")
    for layout in ("ddp", "fsdp"):
        rows = run(settings_for(data_dir, layout, *edits), tmp_path / layout, 2)
        assert [(row["event"], row["step"]) for row in told(rows)] == [(row["event"], row["step"]) for row in told(alone)]
        assert figures(rows, "step", "end") == pytest.approx(figures(alone, "step", "end"), rel=2e-2)
        assert all(row["text"] for row in rows if row["event"] == "sample")


def test_gone_on_with_in_another_layout_each_time_it_is_the_same_run_to_rounding(data_dir, layouts, tmp_path):
    out = tmp_path / "run"
    stays = [("single", 1, 2), ("ddp", 2, 4), ("fsdp", 2, 6), ("fsdp", 4, 8), ("single", 1, None)]
    before = 0
    for layout, size, stop in stays:
        do = None if stop is None else at(stop, 0, signal.SIGTERM)
        rows = run(settings_for(data_dir, layout), out, size, do)
        begun, ended = rows[0], rows[-1]
        assert (begun["layout"], begun["devices"], begun["step"]) == (layout, size, before)
        assert ended["event"] == ("end" if stop is None else "stop")
        before = ended["step"]
    ((alone, _, _),), _ = layouts("single")
    assert losses(whole(out)) == pytest.approx(losses(alone), rel=2e-5)
    assert figures(whole(out), "end") == pytest.approx(figures(alone, "end"), rel=2e-5)


# --- broken ------------------------------------------------------------------------------------------------------------------

LOST = (
    r"RunFailed: rank {rank}: lost the others at step \d+; (rank \d at (step \d+|its start)(, )?){{{size}}}\. "
    r"The same command goes on from the newest checkpoint \([^()/]+\)$"
)


def dies(kind, step, rank, number=signal.SIGKILL):
    """Has one rank be killed, or stopped where it stands, at an event of that step, or at the first after it: a step that comes
    while the one before is still being saved gets no checkpoint of its own."""

    def do(here, event):
        if (here, event["event"]) == (rank, kind) and event["step"] >= step:
            os.kill(os.getpid(), number)

    return do


@pytest.mark.parametrize(
    ("layout", "kind", "step"),
    [
        ("ddp", "step", 4),
        ("fsdp", "step", 4),
        ("fsdp", "sample", STEPS),
        ("ddp", "checkpoint", 3),
        ("ddp", "checkpoint", STEPS),
        ("fsdp", "start", 0),
    ],
)
def test_a_process_that_dies_is_told_by_the_others_and_the_run_goes_on(data_dir, straight, tmp_path, layout, kind, step):
    settings, out = settings_for(data_dir, layout, DROPOUT, OFTEN), tmp_path / "run"
    began = time.monotonic()
    (_, failure), nothing = in_processes(2, tell, settings, out, dies(kind, step, 1), killed=[1])
    assert time.monotonic() - began < 30  # and not the ten minutes of patience: its connections are closed with it
    assert nothing is None
    assert re.match(LOST.format(rank=0, size=2), failure), failure
    assert "\n" not in failure
    assert not (out / "STOPPED").exists()
    rows = run(settings_for(data_dir, layout, DROPOUT), out, 2)
    assert rows[0]["event"] in (("resume",) if kind in ("checkpoint", "sample") else ("start", "resume"))
    same_end(out, straight(layout, 2))


def test_when_the_leading_process_dies_the_others_end_too(data_dir, tmp_path):
    nothing, *others = in_processes(
        3, tell, settings_for(data_dir, "ddp", "train.batch_tokens=96"), tmp_path / "run", dies("step", 4, 0), killed=[0]
    )
    assert nothing is None
    for rank, (_, failure) in enumerate(others, 1):
        assert re.match(rf"RunFailed: rank {rank}: lost the others at step \d+; ", failure), failure


def test_a_process_that_hangs_is_waited_for_as_long_as_the_settings_say(data_dir, tmp_path):
    """It is not dead: only the time tells."""
    settings, out = settings_for(data_dir, "ddp", "machine.patience=2"), tmp_path / "run"

    def work(settings, out):
        began = time.monotonic()
        _, failure = tell(settings, out, hangs)
        return failure, time.monotonic() - began

    def hangs(rank, event):
        if (rank, event["event"], event["step"]) == (1, "step", 4):
            time.sleep(6)

    (failure, took), (other, _) = in_processes(2, work, settings, out)
    assert re.match(r"RunFailed: rank 0: lost the others at step \d; rank 0 at step \d, rank 1 at step 4\. ", failure), failure
    assert 2 <= took < 6
    assert re.match(r"RunFailed: rank 1: lost the others at step 4; ", other), other


def test_a_process_that_dies_before_training_is_told_by_the_others(data_dir, tmp_path):
    def dies_opening(rank):
        if rank == 1:
            corpus.Data.open = lambda folder: os.kill(os.getpid(), signal.SIGKILL)

    settings, out = settings_for(data_dir, "ddp"), tmp_path / "run"
    (rows, failure), nothing = in_processes(2, tell, settings, out, None, dies_opening, killed=[1])
    assert (rows, nothing) == ([], None)
    assert re.match(r"RunFailed: rank 0: lost the others at step 0; rank 0 at its start, rank 1 at its start\. ", failure), failure
    assert not out.exists()


def test_a_process_that_never_comes_is_waited_for_as_long_as_the_settings_say(data_dir, tmp_path):
    def work(settings, out):
        return None if os.environ["RANK"] == "1" else tell(settings, out)

    settings = settings_for(data_dir, "ddp", "machine.patience=1")
    (rows, failure), _ = in_processes(2, work, settings, tmp_path / "run")
    assert rows == []
    assert re.match(
        r"NeverMet: rank 0: wanted 2 processes to meet at 127\.0\.0\.1:\d+ within 1 seconds, not all came; look at ", failure
    ), failure
    assert "\n" not in failure


def test_a_disk_that_fails_in_one_process_ends_all_and_is_named(data_dir, straight, tmp_path):
    def fails(rank):
        write = metrics.MetricsFile.write

        def full(self, event):
            if event["event"] == "step" and event["step"] == 5:
                raise OSError(28, "No space left on device")
            write(self, event)

        metrics.MetricsFile.write = full

    settings, out = settings_for(data_dir, "ddp", DROPOUT, OFTEN), tmp_path / "run"
    (_, leading), (_, other) = in_processes(2, tell, settings, out, None, fails)
    assert (
        leading == f"RunFailed: rank 0: {out}: No space left on device; free space or mend the folder, then give the same command to go on"
    )
    assert re.match(LOST.format(rank=1, size=2), other) or "nobody can be asked" in other, other
    run(settings, out, 2)
    same_end(out, straight("ddp", 2))


# --- refused -----------------------------------------------------------------------------------------------------------------


def tell_own(by_rank, out):
    """Each process with settings of its own."""
    return tell(by_rank[int(os.environ["RANK"])], out)


def refused(by_rank, out):
    """How each process fails, none of which may have begun anything."""
    answers = in_processes(len(by_rank), tell_own, by_rank, out)
    assert [rows for rows, _ in answers] == [[]] * len(by_rank)
    assert not (out / "settings.json").exists()
    return [failure for _, failure in answers]


def test_a_text_that_one_process_does_not_find_is_told_with_its_rank(data_dir, tmp_path):
    there, missing = (settings_for(folder, "ddp", "train.batch_tokens=96") for folder in (data_dir, tmp_path / "nowhere"))
    leading, own, third = refused([there, missing, there], tmp_path / "run")
    assert own.startswith(f"ConfigError: data.dir: wanted a folder of prepared data, found nothing at {tmp_path / 'nowhere'}; ")
    assert leading == third == "FailedElsewhere: rank 1: " + own.removeprefix("ConfigError: ")


def test_another_text_on_one_node_is_refused(data_dir, tmp_path):
    source = write_jsonl(tmp_path / "source.jsonl", tiny_documents(seed=1))
    for _ in prepare([str(source)], tmp_path / "other", tokenizer="bytes", val_fraction=0.2, workers=1):
        pass
    failures = refused([settings_for(data_dir, "ddp"), settings_for(tmp_path / "other", "ddp")], tmp_path / "run")
    wanted = "data.dir: wanted the same text and tokenizer on every node, those of rank 1 are not those of rank 0"
    assert failures == [f"ConfigError: {wanted}"] * 2


def test_other_settings_on_one_node_are_refused_all_at_once(data_dir, tmp_path):
    one, two = settings_for(data_dir, "ddp"), settings_for(data_dir, "fsdp", "train.learning_rate=1e-3", "machine.threads=2")
    failures = refused([one, two], tmp_path / "run")
    lines = [
        "train.learning_rate: wanted 0.01 on rank 1 as on rank 0, came 0.001; give all the same command",
        "machine.parallel: wanted ddp on rank 1 as on rank 0, came fsdp; give all the same command",
    ]
    assert failures == ["ConfigError: " + "\n".join(lines)] * 2


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("train.batch_tokens=48", r"train\.batch_tokens: wanted a multiple of 32 \(.*2 devices\), came 48; nearest 32 and 64$"),
        ("train.micro_batch=4", r"train\.batch_tokens: wanted a multiple of 128 \(.*2 devices\), came 64; "),
        ("machine.parallel=hsdp", r"machine\.parallel: wanted several nodes of equally many devices for hsdp, came 2 devices, 2 here$"),
        ("machine.precision=fp16", r"machine\.precision: "),
    ],
)
def test_what_cannot_be_divided_is_told_in_one_line_by_all(data_dir, tmp_path, edit, said):
    failures = refused([settings_for(data_dir, "fsdp", edit)] * 2, tmp_path / "run")
    assert failures[0] == failures[1]
    assert re.match(f"ConfigError: {said}", failures[0]), failures[0]
    assert "\n" not in failures[0]


# --- not finite in one process ------------------------------------------------------------------------------------------------


def breaks(rank, steps):
    """Lets the loss of one rank be NaN the first time that it comes to each of these steps."""

    def before(here):
        left = set(steps)

        class Breaking(running.Running):
            def _build(self):
                gpt = super()._build()

                def spoil(module, inputs, output):
                    if not module.training or self.done not in left:
                        return output
                    left.discard(self.done)
                    return output * math.nan

                if here == rank:
                    gpt.blocks[-1].register_forward_hook(spoil)
                return gpt

        story.Running = Breaking

    return before


@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 2)])
def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_all(data_dir, tmp_path, layout, size):
    rows = run(settings_for(data_dir, layout), tmp_path / "run", size, None, breaks(1, [3]))
    alone = run(settings_for(data_dir, "single"), tmp_path / "alone", 1, None, breaks(0, [3]))
    (skip,) = [row for row in rows if row["event"] == "skip"]
    assert skip["step"] == 4
    assert math.isnan(skip["loss"])
    assert [(row["event"], row["step"]) for row in told(rows)] == [(row["event"], row["step"]) for row in told(alone)]
    assert losses(rows) == pytest.approx(losses(alone), rel=2e-5)
    assert rows[-1]["val_loss"] == pytest.approx(alone[-1]["val_loss"], rel=2e-5)


@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 2)])
def test_trouble_in_one_process_takes_all_back(data_dir, tmp_path, layout, size):
    edits = ("train.train_tokens=1920", OFTEN)
    rows = run(settings_for(data_dir, layout, *edits), tmp_path / "run", size, None, breaks(1, range(3, 23)))
    alone = run(settings_for(data_dir, "single", *edits), tmp_path / "alone", 1, None, breaks(0, range(3, 23)))
    for story_told in (rows, alone):
        (back,) = [row for row in story_told if row["event"] == "rollback"]
        assert back["without"] == [3, 22]
        assert back["to"] <= 3
    ours, theirs = (whole(tmp_path / name) for name in ("run", "alone"))
    assert [row["step"] for row in ours if row["event"] == "step"] == list(range(1, 31))
    assert losses(ours) == pytest.approx(losses(theirs), rel=5e-5)


def test_a_run_that_diverges_says_so_once(data_dir, tmp_path):
    settings = settings_for(data_dir, "ddp", "train.train_tokens=3200", "train.most_rollbacks=0")
    (_, leading), (_, other) = in_processes(2, tell, settings, tmp_path / "run", None, breaks(1, range(3, 23)))
    assert re.match(r"RunFailed: .*not finite for 20 steps in a row", leading), leading
    assert other == "FailedElsewhere: rank 0: " + leading.removeprefix("RunFailed: ")


# --- torchrun ----------------------------------------------------------------------------------------------------------------


def torchrun(*words):
    """`torchrun --nproc-per-node 2 -m daybreak train demo`, begun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "daybreak", "train", "demo"]
    folder = Path(db.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [*command, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process):
    """Its exit status, and what it said on standard output and standard error."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def steps_written(out):
    path = out / "metrics.jsonl"
    return [row["step"] for row in metrics.read(path) if row["event"] == "step"] if path.exists() else []


def test_under_torchrun_it_is_stopped_by_sigterm_and_the_same_command_goes_on(data_dir, straight, tmp_path):
    out = tmp_path / "run"
    # Long samples, which change nothing that is learned, give the time to stop it in the middle.
    settings = settings_for(data_dir, "ddp", DROPOUT, "sample.every_tokens=64", "sample.max_tokens=400")
    differing = config.differences(settings, recipe_settings("demo"))
    words = [f"{path}={written(value)}" for path, value, _ in differing if path != "recipe"]
    command = (*words, "--out", str(out), "--json")

    process = torchrun(*command)
    while process.poll() is None and max(steps_written(out), default=0) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status, answer, said = ended(process)
    assert status != 0
    steps = steps_written(out)
    assert 2 <= steps[-1] < STEPS
    assert checkpoint.found(out)[-1].name == f"step-{steps[-1]:09d}"
    assert (out / "STOPPED").read_text() == "SIGTERM\n"
    assert json.loads(answer)["step"] == steps[-1]
    assert said.count("machine  ") == said.count(f"stopped by SIGTERM after step {steps[-1]}; ") == 1

    status, answer, said = ended(torchrun(*command))
    assert status == 0, said
    assert json.loads(answer)["step"] == STEPS
    assert (out / "DONE").exists()
    assert [line.split()[0] for line in said.splitlines()].count("resuming") == 1
    assert "Warning" not in said
    assert losses(whole(out)) == losses(whole(straight("ddp", 2)))
    same_bits(out, straight("ddp", 2))


def refuse(data_dir, out):
    """The command line in one process of several."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        began = time.monotonic()
        status = main(["train", "demo", f"data.dir={data_dir}", "train.batch_tokens=1000", "machine.device=cpu", "--out", str(out)])
    return status, said.getvalue(), time.monotonic() - began


def test_what_is_wrong_for_all_is_said_by_the_leading_process_before_another_ends(data_dir, tmp_path):
    (status, said, took), (other_status, other_said, other_took) = in_processes(2, refuse, data_dir, tmp_path / "run")
    assert status == other_status == 2
    assert re.fullmatch(r"error: train\.batch_tokens: .*\n", said), said
    assert other_said == ""
    assert other_took > took + 0.5
