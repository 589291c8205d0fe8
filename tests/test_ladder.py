"""The ladder keeps what pays, names what it cannot try, survives what fails, and says what its differences are worth."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_settings

from daybreak import ceiling, config, ladder, machine, shares, trial
from daybreak.cli import main
from daybreak.ladder import Ladder, climb, edits_of
from daybreak.model.config import GPTConfig
from daybreak.model.flops import flops_per_token
from daybreak.shares import Ceilings
from daybreak.trial import OutOfMemory, Trial, TrialFailed

CPU = torch.device("cpu")
SETTINGS = config.edit(tiny_settings("nowhere"), ["model.vocab_size=300", "machine.precision=auto", "train.batch_tokens=65536"])


def trial_of(speed):
    return Trial(speed, 1000.0 / speed, 0.01, 3, 0.0, 0.0, 10**9, 5.7)


def speed_of(settings, padded):
    """A machine on which every lever but chunks and torch's attention pays."""
    shape, plan = settings.machine, settings.train
    speed = 100.0 * (2.0 if shape.precision == "bf16" else 1.0) * (1.5 if shape.compile else 1.0)
    speed *= {"plain": 1.0, "rule": 1.3, "fused": 1.2, "daybreak": 0.5, "auto": 1.0}[shape.attention]
    speed *= (1.1 if padded else 1.0) * (1.2 if plan.optimizer == "adamw" else 1.0) * (0.9 if shape.loss_chunk else 1.0)
    return speed * plan.micro_batch**0.1


@pytest.fixture
def tried(monkeypatch):
    """What was measured, in order, on a processor that has bf16."""
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: True)
    asked = []

    def measure(settings, seconds, padded):
        asked.append((settings, padded))
        return trial_of(speed_of(settings, padded))

    measure.asked = asked
    return measure


def test_each_rung_stands_on_the_best_before_it(tried):
    rows = list(climb(SETTINGS, CPU, tried))
    kept = [row.name for row in rows if row.kept]
    assert kept[:6] == [
        "fp32, as it is written",
        "bf16",
        "compiled blocks",
        "attention by rule",
        "vocabulary padded to 320",
        "optimizer by torch",
    ]
    assert kept[-1].startswith("micro-batch 512,")
    best = Ladder(rows).best
    assert best is not None
    assert best.trial.tokens_per_second == max(row.trial.tokens_per_second for row in rows if row.trial)
    chosen = best.choice.settings.machine
    assert (chosen.precision, chosen.compile, chosen.attention, chosen.loss_chunk) == ("bf16", True, "rule", 0)
    assert best.choice.padded


def test_a_step_has_as_many_tokens_in_each_rung_that_is_compared(tried):
    list(climb(SETTINGS, CPU, tried))
    batches = [settings.train.batch_tokens for settings, _ in tried.asked]
    sizes = [settings.train.micro_batch for settings, _ in tried.asked]
    first = batches[0]
    assert first == sizes[0] * SETTINGS.model.context_length
    assert batches == [first] * (len(batches) - 4) + [2 * first] * 3 + [first]
    assert sizes[-4:] == [sizes[0] // 2, sizes[0], 2 * sizes[0], sizes[0]]


def test_micro_batches_divide_the_batch_of_the_run(tried):
    small = config.edit(SETTINGS, ["train.batch_tokens=192"])  # twelve sequences
    rows = list(climb(small, CPU, tried))
    assert [settings.train.micro_batch for settings, _ in tried.asked][-3:] == [6, 12, 12]
    config.edit(small, edits_of(Ladder(rows).best.choice, small, CPU))


def test_what_cannot_be_tried_here_says_why(tried):
    problems = {row.name: row.problem for row in climb(SETTINGS, CPU, tried) if row.trial is None}
    assert problems == {"TF32": "cpu has no TF32", "attention of our own (Triton)": "Triton's kernels need CUDA"}
    muon = config.edit(SETTINGS, ["train.optimizer=muon", "train.z_loss=1e-4", "model.dropout=0.1"])
    problems = {row.name: row.problem for row in climb(muon, CPU, tried) if row.trial is None}
    assert problems["optimizer by torch"] == "muon has one form only"
    assert problems["loss in chunks of 1,024 tokens"] == "this loss needs whole logits"


def test_without_bf16_the_processor_stays_in_fp32(tried, monkeypatch):
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: False)
    rows = {row.name: row for row in climb(SETTINGS, CPU, tried)}
    assert rows["bf16"].problem == "this processor has no instructions for it"


def test_on_a_gpu_every_rung_is_tried(tried, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    written = config.edit(SETTINGS, ["train.optimizer=adamw-plain"])
    rungs = {rung.name: rung.why_not for rung in ladder.rungs(written, torch.device("cuda"))}
    assert set(rungs.values()) == {""}


def test_a_rung_without_memory_is_a_row_and_the_climb_goes_on(tried):
    def measure(settings, seconds, padded):
        if settings.train.micro_batch > 16:
            raise OutOfMemory("64 sequences are too many")
        if settings.machine.compile:
            raise TrialFailed("no compiler")
        return tried(settings, seconds, padded)

    rows = list(climb(SETTINGS, CPU, measure))
    assert [row.problem for row in rows[:4]] == ["out of memory: 64 sequences are too many; trying half"] * 4
    assert rows[4].kept
    assert rows[4].choice.settings.train.micro_batch == 16
    problems = {row.name: row.problem for row in rows}
    assert problems["compiled blocks"] == "failed: no compiler"
    assert problems["micro-batch 32, 32 a step"] == "out of memory: 64 sequences are too many"
    assert Ladder(rows).best.choice.settings.machine.compile is False


def test_where_nothing_works_there_is_no_best():
    def measure(settings, seconds, padded):
        raise TrialFailed("broken")

    rows = list(climb(SETTINGS, CPU, measure))
    assert [(row.problem, row.kept) for row in rows] == [("failed: broken", False)]
    assert (Ladder(rows).best, Ladder(rows).drift) == (None, None)


def test_the_first_rung_again_tells_how_far_the_machine_drifted(tried):
    slower = iter([1.0] * 100)

    def measure(settings, seconds, padded):
        return dataclasses.replace(tried(settings, seconds, padded), tokens_per_second=speed_of(settings, padded) * next(slower))

    rows = list(climb(SETTINGS, CPU, measure))
    assert rows[-1].again
    assert Ladder(rows).drift == pytest.approx(0.0)
    last = dataclasses.replace(rows[-1], trial=trial_of(0.8 * rows[-1].trial.tokens_per_second))
    assert Ladder([*rows[:-1], last]).drift == pytest.approx(-0.2)
    assert Ladder(rows[:-1]).drift is None


def test_the_edits_leave_out_what_would_be_chosen_anyway(tried):
    best = Ladder(list(climb(SETTINGS, CPU, tried))).best
    assert edits_of(best.choice, SETTINGS, CPU) == ["machine.compile=true", "machine.loss_chunk=0", "train.micro_batch=512"]
    assert config.edit(SETTINGS, edits_of(best.choice, SETTINGS, CPU)).machine.compile


# --- shares ------------------------------------------------------------------------------------------------------------------

SHAPE = GPTConfig(vocab_size=300, context_length=64, n_layer=2, n_head=2, d_model=64)


@given(speed=st.floats(1.0, 1e12), peak=st.none() | st.floats(1e6, 1e15), measured=st.floats(1e6, 1e15))
def test_no_share_is_above_all(speed, peak, measured):
    share = Ceilings(CPU, {"bf16": measured, "fp32": measured / 4}, peak).share(SHAPE, speed)
    for each in (share.of_ceiling, share.of_peak):
        assert each is None or 0 < each <= 1
    if share.of_ceiling is None:
        assert "cannot be" in share.note
    if peak is None:
        assert (share.of_peak, share.as_dict()["share_of_peak"]) == (None, "unknown")


def test_shares_are_of_the_highest_format():
    speed = 1e12 / flops_per_token(SHAPE)
    share = Ceilings(CPU, {"bf16": 4e12, "fp32": 2e12}, 8e12).share(SHAPE, speed)
    assert (share.of_ceiling, share.of_peak, share.note) == (pytest.approx(0.25), pytest.approx(0.125), "")


def test_where_more_was_counted_than_done_only_what_was_done_counts():
    shape = dataclasses.replace(SHAPE, context_length=4096)
    counted, done = flops_per_token(shape), shares.least_flops_per_token(shape)
    assert done < 0.8 * counted
    share = Ceilings(CPU, {"bf16": 1e12}, None).share(shape, 0.9e12 / done)
    assert share.of_ceiling == pytest.approx(0.9)
    assert "masked half" in share.note


def test_the_ceiling_is_a_rate_that_was_reached():
    flops = ceiling.measure(CPU, "fp32", seconds=0.05)
    assert 1e8 < flops < 1e15
    before = torch.get_float32_matmul_precision()
    ceiling.measure(CPU, "bf16", seconds=0.01)
    assert torch.get_float32_matmul_precision() == before


# --- trials ------------------------------------------------------------------------------------------------------------------


def tiny_trial(*edits):
    return config.edit(SETTINGS, ["machine.precision=fp32", "train.batch_tokens=64", "train.micro_batch=2", *edits])


def test_a_trial_takes_real_steps():
    came = trial.measure(tiny_trial(), seconds=0.01)
    assert came.steps >= trial.FEWEST
    assert came.tokens_per_second == pytest.approx(64 / (came.milliseconds / 1000), rel=0.01)
    assert came.loss == pytest.approx(5.7, abs=0.3)  # log 300: nothing is to be learned from random tokens
    assert 0 <= came.data_share < 1


def test_of_long_steps_fewer_will_do(monkeypatch):
    monkeypatch.setattr(trial, "LONG", 0.0)
    assert trial.measure(tiny_trial(), seconds=0.0).steps == 1


@pytest.mark.parametrize("edit", ["train.optimizer=adamw-plain", "machine.loss_chunk=7", "machine.attention=plain", "train.micro_batch=4"])
def test_a_trial_computes_what_the_settings_say_whatever_the_lever(edit):
    assert trial.measure(tiny_trial(edit), seconds=0.001).loss == pytest.approx(trial.measure(tiny_trial(), seconds=0.001).loss, rel=0.05)


def test_an_unpadded_vocabulary_is_one():
    shape = trial.Unpadded.of(SETTINGS.model)
    assert (shape.padded_vocab_size, SETTINGS.model.padded_vocab_size) == (300, 320)
    assert trial.measure(tiny_trial(), seconds=0.001, padded=False).loss == pytest.approx(5.7, abs=0.3)


def test_a_trial_that_runs_out_of_memory_says_so(monkeypatch):
    def steps(running, count):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trial.stepping, "steps", steps)
    with pytest.raises(OutOfMemory, match="micro-batches of 2"):
        trial.measure(tiny_trial())


def test_a_trial_apart_comes_back_with_figures_or_with_a_reason(monkeypatch):
    assert trial.measure_apart(tiny_trial(), seconds=0.01).steps >= trial.FEWEST
    with pytest.raises(TrialFailed, match=r"ValueError: wanted the device cuda:7"):
        trial.measure_apart(tiny_trial("machine.device=cuda:7"))


def test_a_trial_that_the_system_ends_ran_out_of_memory(monkeypatch, tmp_path):
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="")
    monkeypatch.setattr(trial.subprocess, "run", lambda *words, **named: killed)
    with pytest.raises(OutOfMemory, match="the system ended it"):
        trial.measure_apart(tiny_trial())
    monkeypatch.setattr(trial.subprocess, "run", lambda *words, **named: subprocess.CompletedProcess([], 3, "", "Traceback\nOops: no"))
    with pytest.raises(TrialFailed, match="ended with status 3: Oops: no"):
        trial.measure_apart(tiny_trial())


# --- the command -------------------------------------------------------------------------------------------------------------


def bench(tmp_path, monkeypatch, *more, measure=None):
    monkeypatch.setattr(trial, "measure_apart", measure or (lambda settings, seconds, padded: trial_of(speed_of(settings, padded))))
    monkeypatch.setattr(ceiling, "measure", lambda device, name, seconds=1.0: 1e12)
    ceiling.matmul_flops.cache_clear()
    monkeypatch.chdir(tmp_path)
    return main(["bench", "train", "demo", "model.n_layer=1", "machine.device=cpu", *more])


def test_bench_train_tells_table_plot_and_figures(tmp_path, monkeypatch, capsys):
    assert bench(tmp_path, monkeypatch, "--json", "--out", "figures") == 0
    ceiling.matmul_flops.cache_clear()
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"name", "when", "machine", "versions", "bars", "rows", "edits", "drift"}
    assert found == json.loads((tmp_path / "figures" / "ladder.json").read_text())
    assert (tmp_path / "figures" / "ladder.png").read_bytes()[:4] == b"\x89PNG"
    assert found["machine"]["peak_flops"] == "unknown"
    assert found["drift"] == 0.0
    assert {row["share_of_peak"] for row in found["rows"] if row["problem"] is None} == {"unknown"}
    assert all(row["share_of_ceiling"] <= 1 for row in found["rows"] if row["problem"] is None)
    assert "machine.compile=true" in found["edits"]
    assert bench(tmp_path, monkeypatch) == 0
    told = capsys.readouterr()
    assert "quickest with  machine.compile=true" in told.out
    assert "smaller differences may be chance" in told.out
    assert "TF32: cpu has no TF32" in told.err


def test_stopped_it_tells_what_there_is(tmp_path, monkeypatch, capsys):
    count = iter(range(100))

    def measure(settings, seconds, padded):
        if next(count) == 2:
            raise KeyboardInterrupt
        return trial_of(speed_of(settings, padded))

    assert bench(tmp_path, monkeypatch, "--json", measure=measure) == 130
    found = json.loads(capsys.readouterr().out)
    assert [row["rung"] for row in found["rows"] if row["problem"] is None]
    assert found["drift"] is None


def test_the_doctor_measures_where_it_is_asked(monkeypatch, capsys):
    monkeypatch.setattr(ceiling, "measure", lambda device, name, seconds=1.0: 2e12)
    ceiling.matmul_flops.cache_clear()
    assert main(["doctor", "--bench"]) == 0
    told = capsys.readouterr().out
    assert "ceiling    2 TFLOP/s in fp32, measured" in told
    assert main(["doctor", "--bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ceiling_flops"]["fp32"] == 2e12
    ceiling.matmul_flops.cache_clear()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seconds", "0"], "--seconds: wanted more than 0, came 0"),
        (["--out", "a-file"], "--out: wanted a folder, came the file a-file; name another"),
        (["machine.atention=plain"], "machine.atention: no such setting"),
    ],
)
def test_wrong_requests_take_a_line(tmp_path, monkeypatch, capsys, words, said):
    (tmp_path / "a-file").write_text("")
    assert bench(tmp_path, monkeypatch, *words) == 2
    told = capsys.readouterr()
    assert (told.out, said in told.err, told.err.count("\n")) == ("", True, 1)


def test_ctrl_c_ends_the_process_apart_too(tmp_path):
    words = ["bench", "train", "demo", "model.n_layer=1", "model.d_model=32", "machine.device=cpu", "machine.threads=1", "--seconds", "60"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; from daybreak.cli import main; sys.exit(main({words}))"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(trial.Path(trial.__file__).parents[1])},
        start_new_session=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # the ceilings are known, and the first rung begins
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; this is what there is" in err
    assert "Traceback" not in err + out
