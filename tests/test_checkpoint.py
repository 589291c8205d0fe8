"""Checkpoints: bit for bit what was saved, any damage rejected by name, and the last good one untouched by whatever happens."""

import errno
import json
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daybreak import checkpoint, files
from daybreak.checkpoint import CheckpointProblem
from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.loop import train
from daybreak.training.optimizers import make_optimizer

FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


class OneBatch:
    def __getitem__(self, step):
        tokens = torch.arange(9)[None] + step
        return [Batch(tokens[:, :-1], tokens[:, 1:])]

    def tokens_after(self, step):
        return 8 * (step + 1)


class Run:
    """A model and its optimizer, trained for some steps with dropout."""

    def __init__(self, folder, optimizer="adamw", seed=0, n_layer=1):
        self.folder = folder
        self.model = build(GPTConfig(vocab_size=64, context_length=8, n_layer=n_layer, n_head=1, d_model=8, dropout=0.2), seed)
        self.optimizer = make_optimizer(optimizer, self.model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
        self.done = 0

    def train(self, to):
        steps = train(self.model, self.optimizer, OneBatch(), lambda tokens: 1e-2, steps=to, start=self.done)
        losses = [float(step.loss) for step in steps]
        self.done = to
        return losses

    def save(self, keep=2, **state):
        named = {"model": self.model, "optimizer": self.optimizer, "state": state, "keep": keep}
        return checkpoint.save(self.folder, step=self.done, tokens=8 * self.done, **named)

    def restore(self):
        restored = checkpoint.restore(self.folder, self.model, self.optimizer)
        if restored is not None:
            self.done = restored.step
        return restored


def names(run):
    return [path.name for path in checkpoint.found(run.folder)]


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with the checkpoints of steps 2 and 4. To be read only."""
    run = Run(tmp_path_factory.mktemp("saved") / "run")
    for step in (2, 4):
        run.train(step)
        run.save()
    return run.folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


# --- whole -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-plain"])
def test_what_is_restored_goes_on_bit_for_bit(tmp_path, optimizer):
    torch.manual_seed(3)
    run = Run(tmp_path / "run", optimizer)
    run.train(3)
    path = run.save(scale={"growth": 1.5}, word="dawn")
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    expected = run.train(6)
    torch.manual_seed(99)
    again = Run(tmp_path / "run", optimizer, seed=7)
    restored = again.restore()
    assert (restored.path, restored.step, restored.tokens, restored.rejected) == (path, 3, 24, ())
    assert (restored.state["scale"], restored.state["word"]) == ({"growth": 1.5}, "dawn")
    assert same(again.model.state_dict(), weights)
    assert again.train(6) == expected
    assert same(again.model.state_dict(), run.model.state_dict())
    for index, entries in run.optimizer.state_dict()["state"].items():
        assert same(again.optimizer.state_dict()["state"][index], entries)


def test_the_folder_holds_four_files_and_no_pickle(saved):
    folder = saved / "checkpoints" / "step-000000004"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == files.fingerprints(folder, FILES[1:])
    assert manifest["versions"]["torch"] == torch.__version__
    assert checkpoint.problems(folder) == []


def test_no_checkpoint_is_no_error(tmp_path):
    assert Run(tmp_path / "nowhere").restore() is None


def test_as_many_are_kept_as_wanted(tmp_path):
    run = Run(tmp_path / "run")
    for step in range(1, 6):
        run.train(step)
        run.save(keep=3)
    assert names(run) == ["step-000000003", "step-000000004", "step-000000005"]
    run.train(6)
    run.save(keep=1)
    assert names(run) == ["step-000000006"]


def test_saving_the_same_step_again_keeps_a_good_one_and_replaces_a_damaged_one(tmp_path):
    run = Run(tmp_path / "run")
    run.train(2)
    path = run.save()
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert run.save() == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    (path / "model.safetensors").write_bytes(b"")
    assert run.save() == path
    assert checkpoint.problems(path) == []


# --- damaged -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_rejected_by_name(saved, tmp_path_factory, name, where, bit):
    folder = tmp_path_factory.getbasetemp() / f"flipped-{name}"
    if not folder.exists():
        shutil.copytree(saved / "checkpoints" / "step-000000004", folder)
    content = (saved / "checkpoints" / "step-000000004" / name).read_bytes()
    damaged = bytearray(content)
    damaged[where % len(content)] ^= 1 << bit
    (folder / name).write_bytes(damaged)
    try:
        [problem] = checkpoint.problems(folder)
        assert name in problem or (name == "manifest.json" and "manifest" in problem)
    finally:
        (folder / name).write_bytes(content)
    assert checkpoint.problems(folder) == []


def test_every_byte_of_the_manifest_counts(copied):
    """It is small enough to try a bit of each."""
    folder = copied / "checkpoints" / "step-000000002"
    content = (folder / "manifest.json").read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 7)
        (folder / "manifest.json").write_bytes(damaged)
        assert len(checkpoint.problems(folder)) == 1, position


def shortened(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    return "model.safetensors: .* bytes, the manifest says"


def lengthened(folder):
    with open(folder / "state.json", "ab") as file:
        file.write(b" ")
    return "state.json: .* bytes, the manifest says"


def lost(folder):
    (folder / "optimizer.safetensors").unlink()
    return "optimizer.safetensors: missing"


def joined(folder):
    (folder / "model.pt").write_bytes(b"anything")
    return "model.pt: not in the manifest"


def unlisted(folder):
    (folder / "manifest.json").unlink()
    return "its manifest is unreadable"


def emptied(folder):
    (folder / "manifest.json").write_text("[]")
    return "its manifest is unreadable"


def from_the_future(folder):
    (folder / "manifest.json").write_text('{"format": 2}')
    return "its format is 2, this version reads 1"


DAMAGES = [shortened, lengthened, lost, joined, unlisted, emptied, from_the_future]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_it_used(copied, damage):
    said = damage(copied / "checkpoints" / "step-000000004")
    run = Run(copied)
    restored = run.restore()
    assert restored.step == 2
    [rejected] = restored.rejected
    assert rejected.startswith("step-000000004: ")
    assert re.search(said, rejected)


def test_if_all_are_damaged_all_are_named(copied):
    for step in (2, 4):
        shortened(copied / "checkpoints" / f"step-00000000{step}")
    run = Run(copied)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with pytest.raises(CheckpointProblem, match=r"none of its checkpoints verifies .*step-000000004: .*step-000000002: .*delete the run"):
        run.restore()
    assert same(run.model.state_dict(), before)


def test_a_new_one_is_not_pushed_out_by_damaged_newer_ones(copied):
    shortened(copied / "checkpoints" / "step-000000004")
    run = Run(copied)
    run.restore()
    run.train(3)
    path = run.save(keep=1)
    assert names(run) == ["step-000000003", "step-000000004"]
    again = Run(copied).restore()
    assert (again.path, again.step) == (path, 3)
    run.train(4)
    run.save(keep=1)
    assert names(run) == ["step-000000004"]
    assert Run(copied).restore().rejected == ()


def test_another_architecture_is_named(copied):
    with pytest.raises(CheckpointProblem, match=r"step-000000004: holds another architecture .*blocks\.1\."):
        Run(copied, n_layer=2).restore()


# --- interrupted -------------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("moment", ["save_file", "_write", "publish_folder"])
def test_a_crash_before_the_rename_leaves_the_old_one(copied, monkeypatch, moment):
    run = Run(copied)
    run.restore()
    run.train(5)

    def cut(*arguments):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(files if moment == "publish_folder" else checkpoint, moment, cut)
        with pytest.raises(PowerCut):
            run.save()
    assert names(run) == ["step-000000002", "step-000000004"]
    assert Run(copied).restore().step == 4
    run.train(6)
    run.save()
    assert names(run) == ["step-000000004", "step-000000006"]
    assert not list((copied / "checkpoints").glob(".*"))  # what the crash left is gone


@pytest.mark.parametrize("moment", ["save_file", "_write", "need_space"])
def test_a_full_disk_leaves_the_old_one_and_is_told(copied, monkeypatch, moment):
    run = Run(copied)
    run.restore()
    run.train(5)

    def full(*arguments):
        if moment == "need_space":
            raise files.FileProblem("needs 500 MB, the disk has 3 MB free")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files if moment == "need_space" else checkpoint, moment, full)
    with pytest.raises(CheckpointProblem, match=r"step-000000005: could not be written .*the last good checkpoint is untouched"):
        run.save(keep=1)
    assert names(run) == ["step-000000002", "step-000000004"]
    assert not list((copied / "checkpoints").glob(".*"))
    assert Run(copied).restore().rejected == ()


def test_deleting_takes_the_manifest_first(copied, monkeypatch):
    folder = copied / "checkpoints" / "step-000000004"

    def cut(*arguments, **named):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", cut)
        with pytest.raises(PowerCut):
            checkpoint.delete(folder)
    assert checkpoint.problems(folder) == [f"its manifest is unreadable ({folder}/manifest.json: wanted a JSON file, found nothing there)"]
