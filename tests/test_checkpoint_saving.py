"""Saving beside training: what is written, what stays, and what is left when the process, the disk or the thread fails."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import threading
import time

import pytest
from checkpointed import Run, evil_pickle, hidden, same
from worlds import in_worlds

from daybreak import checkpoint, files
from daybreak.checkpoint import CheckpointProblem, Saver, folder, retention, saving, tensorfile


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def damage(path):
    with open(path / "state.json", "ab") as file:
        file.write(b" ")


def steps(run):
    return [int(name[5:]) for name in run.names()]


@pytest.fixture
def gate(monkeypatch):
    """Holds every write back until it is opened."""
    opened = threading.Event()
    write = tensorfile.HostCopy.write

    def wait(self, path):
        assert opened.wait(20)
        write(self, path)

    monkeypatch.setattr(tensorfile.HostCopy, "write", wait)
    yield opened
    opened.set()


# --- beside training ---------------------------------------------------------------------------------------------------------


def test_training_goes_on_while_it_writes_and_changes_nothing_in_it(run, gate):
    run.train(2)
    saver = Saver(run.folder)
    weights = run.weights()
    run.begin(saver, word="dawn")
    assert (saver.busy, saver.done_here, run.names()) == (True, False, [])
    expected = run.train(4)
    gate.set()
    saved = saver.publish()
    assert (saver.busy, saver.done_here) == (False, True)
    assert (saved.step, saved.tokens, saved.permanent, saved.deleted) == (2, 16, False, ())
    assert saved.bytes > 3 * 4 * sum(tensor.numel() for tensor in weights.values())
    assert 0 < saved.held_up < saved.seconds
    assert same(checkpoint.read_model(saved.path), weights)
    again = Run(run.folder, seed=3)
    assert again.restore().state == {"word": "dawn"}
    assert again.train(4) == expected


def test_it_says_when_it_is_done(run):
    saver = Saver(run.folder)
    assert saver.done_here
    run.begin(saver)
    deadline = time.monotonic() + 20
    while not saver.done_here:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert run.names() == []
    assert saver.publish().path == checkpoint.found(run.folder)[0]
    assert saver.finish() is None


def test_a_second_save_waits_for_the_first(run, gate):
    saver = Saver(run.folder)
    run.train(1)
    run.begin(saver)
    threading.Timer(0.1, gate.set).start()
    run.train(2)
    run.begin(saver)
    assert run.names() == ["step-000000001"]
    saver.finish()
    assert steps(run) == [1, 2]


def test_memory_is_used_again_and_grows_when_moments_come(run):
    saver = Saver(run.folder)
    places = []
    for step in range(4):
        run.train(step)
        run.begin(saver)
        saver.finish()
        places.append({kind: copy._memory.data_ptr() for kind, copy in saver._copies.items()})
    assert places[1] == places[2] == places[3]
    assert places[0]["model"] == places[1]["model"]
    again = Run(run.folder, seed=2)
    again.restore()
    assert same(again.model.state_dict(), run.model.state_dict())


def test_saving_the_same_step_again_keeps_a_good_one_and_replaces_a_damaged_one(run):
    run.train(2)
    path = run.save(word="dawn")
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert run.save(word="dawn") == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    (path / "model.safetensors").write_bytes(b"")
    assert run.save(word="dawn") == path
    assert checkpoint.problems(path) == []
    assert not hidden(run.folder)


def test_one_of_another_past_is_replaced(run):
    """A run that went back to an older checkpoint comes by the same step again, with other weights."""
    run.train(2)
    path = run.save(went_back=0)
    again = Run(run.folder, seed=3)
    again.train(2)
    assert again.save(went_back=1) == path
    assert same(checkpoint.read_model(path), again.model.state_dict())
    assert Run(run.folder).restore().state == {"went_back": 1}
    assert not hidden(run.folder)


def test_a_crash_between_the_two_renames_of_a_replacement_loses_nothing(run, monkeypatch):
    run.train(2)
    path = run.save(went_back=0)

    class PowerCut(BaseException):
        pass

    def cut(*arguments):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(files, "publish_folder", cut)
        with pytest.raises(PowerCut):
            run.save(went_back=1)
    assert run.names() == []
    Saver(run.folder)
    assert checkpoint.problems(path) == []
    assert Run(run.folder).restore().state == {"went_back": 0}
    assert not hidden(run.folder)


def test_a_replacement_that_cannot_be_published_leaves_the_old_one(run, monkeypatch):
    run.train(2)
    path = run.save(went_back=0)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "publish_folder", full)
    with pytest.raises(CheckpointProblem, match="No space left"):
        run.save(went_back=1)
    assert checkpoint.problems(path) == []
    assert not hidden(run.folder)


# --- which stay --------------------------------------------------------------------------------------------------------------


def test_as_many_are_kept_as_wanted_and_never_fewer_than_two(run):
    for step in range(1, 6):
        run.train(step)
        run.save(keep=3)
    assert steps(run) == [3, 4, 5]
    run.train(6)
    run.save(keep=1)
    assert steps(run) == [5, 6]
    assert not hidden(run.folder)


def test_those_at_multiples_of_so_many_tokens_stay(run):
    saver = Saver(run.folder, permanent_every=24)
    permanent = []
    for step in range(1, 11):  # 8 tokens each
        if step == 5:
            saver = Saver(run.folder, permanent_every=24)  # another process goes on
        if step != 6:  # the first after the multiple takes its place
            run.train(step)
            run.begin(saver)
            saved = saver.finish()
            permanent += [step] if saved.permanent else []
    assert permanent == [3, 7, 9]
    assert steps(run) == [3, 7, 9, 10]
    manifest = json.loads((saved.path / "manifest.json").read_text())
    assert (manifest["permanent"], manifest["tokens"]) == (False, 80)


def test_damaged_ones_do_not_count(run):
    for step in (1, 2, 3):
        run.train(step)
        path = run.save(keep=3)
    damage(path)
    run.train(4)
    saver = Saver(run.folder, keep=2)
    run.begin(saver)
    assert saver.finish().deleted == ("step-000000001",)
    assert steps(run) == [2, 3, 4]  # 2 and 4 verify
    run.train(5)
    run.begin(saver)
    assert saver.finish().deleted == ("step-000000002", "step-000000003")


def test_a_new_one_is_not_pushed_out_by_damaged_newer_ones(run):
    for step in (2, 4):
        run.train(step)
        run.save()
    damage(checkpoint.found(run.folder)[-1])
    run.restore()
    run.train(3)
    path = run.save()
    assert steps(run) == [2, 3, 4]
    assert Run(run.folder).restore().path == path
    run.train(4)
    run.save()
    assert steps(run) == [3, 4]
    assert Run(run.folder).restore().rejected == ()


def test_what_this_process_restored_or_wrote_is_not_read_again(run, monkeypatch):
    for step in (1, 2):
        run.train(step)
        run.save()
    restored = run.restore()
    looked = []
    monkeypatch.setattr(retention.folders, "problems", lambda path: looked.append(path.name) or [])
    saver = Saver(run.folder, verified=[restored.path])
    for step in (3, 4):
        run.train(step)
        run.begin(saver)
        saver.finish()
    assert (steps(run), looked) == ([3, 4], [])
    run.train(5)
    run.save()
    assert looked == ["step-000000004"]


def test_a_hurried_one_is_not_read_back_and_pushes_nothing_out(run, monkeypatch):
    for step in (1, 2):
        run.train(step)
        run.save()
    run.train(3)
    saver = Saver(run.folder)
    with monkeypatch.context() as patch:
        patch.setattr(saving, "_read_back", lambda *arguments: pytest.fail("it was read back"))
        run.begin(saver, hurry=True)
        assert saver.finish().deleted == ()
    assert steps(run) == [1, 2, 3]
    run.train(4)
    assert run.save()
    assert steps(run) == [3, 4]


# --- failures ----------------------------------------------------------------------------------------------------------------


def test_a_disk_that_does_not_keep_what_it_was_told_is_noticed(run, monkeypatch):
    run.train(1)
    run.save()
    write = tensorfile.HostCopy.write

    def careless(self, path):
        write(self, path)
        if path.name == "model.safetensors":
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)

    monkeypatch.setattr(tensorfile.HostCopy, "write", careless)
    run.train(2)
    with pytest.raises(CheckpointProblem, match=r"step-000000002: could not be written \(model\.safetensors: its bytes changed"):
        run.save()
    assert (steps(run), hidden(run.folder)) == ([1], [])


def test_a_failure_in_the_thread_is_told_and_the_next_save_works(run, monkeypatch):
    run.train(1)
    run.save()
    saver = Saver(run.folder)
    with monkeypatch.context() as patch:
        patch.setattr(tensorfile.HostCopy, "write", lambda *arguments: [][0])
        run.train(2)
        run.begin(saver)
        run.train(3)
        with pytest.raises(CheckpointProblem, match=r"step-000000002: could not be written \(list index out of range\); the last good"):
            saver.publish()
    assert (saver.busy, steps(run), hidden(run.folder)) == (False, [1], [])
    run.begin(saver)
    assert saver.finish().step == 3


def test_too_little_memory_for_the_copy_is_told(run, monkeypatch):
    def none_left(*arguments, **named):
        raise RuntimeError("not enough memory: you tried to allocate")

    monkeypatch.setattr(tensorfile.HostCopy, "_reserve", none_left)
    saver = Saver(run.folder)
    run.begin(saver)
    assert saver.done_here
    with pytest.raises(CheckpointProblem, match="not enough memory"):
        saver.publish()
    assert hidden(run.folder) == []


def test_state_that_is_no_json_is_refused_before_anything_is_written(run):
    with pytest.raises(TypeError):
        run.save(word=object())
    assert not (run.folder / "checkpoints").exists()


def test_what_cannot_be_deleted_does_not_make_the_save_fail(run, monkeypatch):
    for step in (1, 2):
        run.train(step)
        run.save()
    run.train(3)

    def refused(*arguments):
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "unpublish", refused)
        run.save()
    assert steps(run) == [1, 2, 3]


def test_given_up_it_leaves_nothing(run):
    saver = Saver(run.folder)
    run.begin(saver)
    saver.close()
    assert (saver.busy, run.names(), hidden(run.folder)) == (False, [], [])


def limited(world, run_dir, limit):
    """Saves under a limit of the system on how long a file may be: the write fails somewhere in its middle."""
    run = Run(run_dir)
    run.train(1)
    run.save()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run.train(2)
    try:
        run.save()
    except CheckpointProblem as problem:
        return str(problem), hidden(run_dir), run.names()


@pytest.mark.parametrize("limit", [0, 100, 5_000, 12_000])
def test_a_write_that_the_system_cuts_off_leaves_the_last_good_one(tmp_path, limit):
    [(told, left, names)] = in_worlds(1, limited, tmp_path / "run", limit)
    assert "step-000000002: could not be written" in told
    assert "File too large" in told
    assert (left, names) == ([], ["step-000000001"])
    assert Run(tmp_path / "run").restore().step == 1


def test_a_folder_that_is_a_file_is_told(run):
    run.folder.mkdir()
    (run.folder / "checkpoints").write_bytes(b"")
    with pytest.raises(CheckpointProblem, match="step-000000000: could not be written"):
        run.save()


def saving_for_ever(run_dir):
    """Trains and saves, one step after the other, until it is killed."""
    run = Run(run_dir)
    restored = run.restore()
    saver = Saver(run_dir, permanent_every=400, verified=[restored.path] if restored else [])
    step = run.done
    while True:
        step += 1
        run.train(step)
        run.begin(saver)
        if step % 3:
            while not saver.done_here:
                pass
        saver.publish()


def test_killed_at_any_moment_it_leaves_only_whole_checkpoints(tmp_path):
    draw = random.Random(0)
    run_dir = tmp_path / "run"
    Run(run_dir).train(1)  # what it imports is imported before the forks
    reached, left_behind = [], 0
    for turn in range(12):
        child = os.fork()
        if child == 0:
            try:
                saving_for_ever(run_dir)
            finally:
                os._exit(1)
        deadline = time.monotonic() + 20
        before = reached[-1] if reached else 0
        while True:  # until it has begun; then a moment more
            newest = max((int(path.name[5:]) for path in checkpoint.found(run_dir)), default=0)
            if newest > before or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        time.sleep(draw.random() * 0.06)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        published = checkpoint.found(run_dir)
        assert [checkpoint.problems(path) for path in published] == [[]] * len(published)
        assert len(published) >= min(2, 1 + turn)
        left_behind += len(hidden(run_dir))
        reached.append(int(published[-1].name[5:]))
    assert reached == sorted(reached)
    assert left_behind > 0  # some were killed in the middle
    run = Run(run_dir)
    assert run.restore().step == reached[-1]
    run.train(reached[-1] + 1)
    run.save()
    assert hidden(run_dir) == []


def test_what_others_leave_beside_checkpoints_is_no_checkpoint(run, tmp_path):
    run.train(1)
    path = run.save()
    (path.parent / "notes.txt").write_text("mine")
    (path.parent / "step-000000009").write_bytes(evil_pickle(tmp_path / "ran"))
    shutil.copytree(path, path.with_name("copy"))
    assert run.names() == [path.name]
    assert run.restore().rejected == ()
    assert not (tmp_path / "ran").exists()
