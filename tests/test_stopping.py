"""Stopping: a wish that all processes grant at the same step, what a second signal does, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import in_worlds

from daybreak.stopping import DONE, LIMIT, STOPPED, Stopping, grace, how, mark, requeue, too_slow

HOME = Path(__file__).parents[1]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_a_wish_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Stopping() as stopping:
        assert stopping.wanted == 0
        os.kill(os.getpid(), number)
        assert stopping.wanted == number
        assert how(stopping.wanted) == (number.name, 128 + number)
    assert signal.getsignal(number) is before


def test_an_announcement_does_not_make_the_signal_after_it_the_second():
    with Stopping(environment={}) as stopping:
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert stopping.wanted == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_limit_leaves_time_for_the_last_save():
    clock = Clock()
    stopping = Stopping(60.0, clock=clock)
    clock.now += 59.0
    assert stopping.wanted == 0
    clock.now += 1.0
    assert stopping.wanted == LIMIT
    assert how(LIMIT) == ("limit", 124)
    clock.now -= 15.0
    assert stopping.wanted == 0
    stopping.reserve(10.0)
    stopping.reserve(2.0)
    assert stopping.wanted == LIMIT
    assert Stopping(clock=clock).wanted == 0


def one_is_told(world, told):
    """How many steps each process does until all stop, if one of them gets a signal in its third; and by what."""
    with Stopping() as stopping:
        for step in range(1, 10):
            if step == 3 and world.rank == told:
                os.kill(os.getpid(), signal.SIGTERM)
            (wanted,) = world.highest(stopping.wanted)
            if wanted:
                return step, how(wanted).reason, stopping.signal
    return None


@pytest.mark.parametrize("told", [0, 1])
def test_if_one_process_is_told_all_stop_at_the_same_step(told):
    expected = [(3, "SIGTERM", None)] * 2
    expected[told] = (3, "SIGTERM", signal.SIGTERM)
    assert in_worlds(2, one_is_told, told) == expected


WAITS = """
import os, sys, time
from pathlib import Path
from daybreak.stopping import Stopping
out = Path(sys.argv[1])
with Stopping() as stopping:
    (out / f"ready-{os.environ.get('RANK', '0')}").touch()
    while not stopping.wanted:
        time.sleep(0.01)
    (out / f"heard-{os.environ.get('RANK', '0')}").write_text(str(stopping.wanted))
    time.sleep(float(sys.argv[2]))  # the save
(out / f"saved-{os.environ.get('RANK', '0')}").touch()
"""


def started(words, **environment):
    environment = {**os.environ, "PYTHONPATH": str(HOME), **environment}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(*paths, process=None, patience=90.0):
    end = time.monotonic() + patience
    while not all(path.exists() for path in paths):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{paths} did not come"
        time.sleep(0.02)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def waiting(tmp_path):
    """Starts a process among two that waits for a signal and then saves for some seconds."""
    begun = []

    def start(save_seconds):
        process = started([sys.executable, "-c", WAITS, str(tmp_path), str(save_seconds)], WORLD_SIZE="2", RANK="0")
        begun.append(process)
        until(tmp_path / "ready-0", process=process)
        process.send_signal(signal.SIGTERM)
        until(tmp_path / "heard-0", process=process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_a_signal_heard_twice_at_once_lets_the_save_finish(waiting, tmp_path):
    process = waiting(1.0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "saved-0").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_with_a_line(waiting, tmp_path, number):
    process = waiting(60.0)
    time.sleep(2.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said == f"daybreak: a second {number.name}, ending at once\n"
    assert not (tmp_path / "saved-0").exists()


def test_torchrun_passes_the_signal_on_and_every_process_saves(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "waits.py").write_text(WAITS)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "waits.py")]
    process = started([*words, str(tmp_path / "out"), "0.5"], OMP_NUM_THREADS="1")
    try:
        until(tmp_path / "out" / "ready-0", tmp_path / "out" / "ready-1", process=process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert names(tmp_path / "out") == [f"{what}-{rank}" for what in ("heard", "ready", "saved") for rank in (0, 1)]
    assert (tmp_path / "out" / "heard-1").read_text() == "15"
    assert process.returncode == 1  # whatever its processes did: therefore the marks


# --- the warning, the marks, the queue ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "version", "seconds"),
    [
        ({}, "2.13.0", None),
        ({"TORCHELASTIC_RUN_ID": "x"}, "2.13.0+cpu", 30.0),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"}, "2.13.0+cpu", 120.0),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"}, "2.11.0+cu130", 30.0),
        ({"TORCHELASTIC_RUN_ID": "x", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "soon"}, "2.13.0", 30.0),
    ],
)
def test_the_time_that_torchrun_gives(environment, version, seconds):
    assert grace(environment, version) == seconds


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
def test_a_save_that_does_not_fit_is_warned_of(save, step, given_seconds):
    assert bool(too_slow(save, step, given_seconds)) == (save + step > given_seconds)
    assert too_slow(save, step, None) == ""


def test_the_warning_says_what_helps():
    assert too_slow(41.0, 2.0, 30.0).startswith("a step and a save take 43 s, but torchrun kills a stopped run after 30 s")


def test_a_run_s_marks_exclude_each_other(tmp_path):
    mark(tmp_path, STOPPED, "SIGTERM after step 12")
    assert (names(tmp_path), (tmp_path / STOPPED).read_text()) == ([STOPPED], "SIGTERM after step 12\n")
    mark(tmp_path, DONE, "step 20")
    assert names(tmp_path) == [DONE]
    mark(tmp_path)
    mark(tmp_path)
    assert names(tmp_path) == []


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A `scontrol` that notes what it is asked, and answers as told."""

    def place(answer):
        path = tmp_path / "scontrol"
        path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{answer}\n')
        path.chmod(0o755)
        return tmp_path / "asked"

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return place


def test_a_job_goes_back_to_the_queue_only_if_asked(scontrol):
    asked = scontrol("exit 0")
    for environment in ({}, {"SLURM_JOB_ID": "17"}, {"DAYBREAK_REQUEUE": "1"}, {"DAYBREAK_REQUEUE": "1", "SLURM_JOB_ID": "17; reboot"}):
        assert requeue(environment) == ""
    assert not asked.exists()
    assert requeue({"DAYBREAK_REQUEUE": "1", "SLURM_JOB_ID": "17"}) == "job 17 is back in Slurm's queue"
    assert asked.read_text() == "requeue 17\n"


def test_a_queue_that_refuses_is_told_and_not_raised(scontrol, monkeypatch, tmp_path):
    wanted = {"DAYBREAK_REQUEUE": "1", "SLURM_JOB_ID": "17"}
    scontrol("echo 'Requested operation not permitted' >&2; exit 1")
    assert requeue(wanted) == "job 17 could not be put back into Slurm's queue (Requested operation not permitted); submit it again"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert requeue(wanted).startswith("job 17 could not be put back into Slurm's queue ([Errno 2]")
