"""Checkpoints: bit for bit what was saved, any damage rejected by name, and the last good one untouched by whatever happens."""

import errno
import json
import pickle
import random
import re
import shutil

import pytest
import torch
from checkpointed import FILES, Run, evil_pickle, hidden, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from daybreak import checkpoint, files
from daybreak.checkpoint import CheckpointProblem, folder, tensorfile


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
    random.seed(5)
    random.gauss(0, 1)  # keeps a second number for the next call
    path = run.save(scale={"growth": 1.5}, word="dawn")
    weights = run.weights()
    expected, drawn = run.train(6), (random.gauss(0, 1), random.random())
    torch.manual_seed(99)
    random.seed(99)
    again = Run(tmp_path / "run", optimizer, seed=7)
    restored = again.restore()
    assert (restored.path, restored.step, restored.tokens, restored.rejected) == (path, 3, 24, ())
    assert (restored.state["scale"], restored.state["word"]) == ({"growth": 1.5}, "dawn")
    assert (restored.layout, restored.draws) == ({"ranks": 1, "shards": 1}, "as saved")
    assert same(again.model.state_dict(), weights)
    assert (random.gauss(0, 1), random.random()) == drawn
    assert again.train(6) == expected
    assert same(again.model.state_dict(), run.model.state_dict())
    for index, entries in run.optimizer.state_dict()["state"].items():
        assert same(again.optimizer.state_dict()["state"][index], entries)


@pytest.mark.parametrize(("wrote", "reads"), [("adamw", "adamw-plain"), ("adamw-plain", "adamw")])
def test_one_optimizer_goes_on_with_the_moments_of_another(tmp_path, wrote, reads):
    run = Run(tmp_path / "run", wrote)
    run.train(3)
    run.save()
    expected = run.train(6)
    again = Run(tmp_path / "run", reads, seed=7)
    again.restore()
    assert again.train(6) == pytest.approx(expected, abs=1e-5)


def test_it_restores_into_an_optimizer_that_has_moments_already(copied):
    run = Run(copied, seed=8)
    run.train(3)
    run.restore()
    losses = run.train(6)
    fresh = Run(copied)
    fresh.restore()
    assert fresh.train(6) == losses


def test_before_the_first_step_there_are_no_moments(tmp_path):
    run = Run(tmp_path / "run")
    run.save()
    weights = run.weights()
    run.train(2)
    assert run.restore().step == 0
    assert not run.optimizer.state
    assert same(run.model.state_dict(), weights)


def test_the_folder_holds_five_files_and_no_pickle(saved):
    path = saved / "checkpoints" / "step-000000004"
    assert sorted(file.name for file in path.iterdir()) == FILES
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["files"] == files.fingerprints(path, [name for name in FILES if name != "manifest.json"])
    assert manifest["versions"]["torch"] == torch.__version__
    assert (manifest["step"], manifest["tokens"]) == (4, 32)
    assert checkpoint.problems(path) == []


def test_others_can_read_its_tensors(saved):
    run = Run(saved)
    run.restore()
    path = saved / "checkpoints" / "step-000000004"
    assert same(load_file(path / "model.safetensors"), run.model.state_dict())
    assert same(checkpoint.read_model(path), run.model.state_dict())
    moments = load_file(path / "optimizer.safetensors")
    by_name = dict(run.model.named_parameters())
    assert all(torch.equal(moments[f"exp_avg/{name}"], run.optimizer.state[p]["exp_avg"]) for name, p in by_name.items())


def test_what_wraps_a_model_leaves_no_trace_in_its_names(copied):
    run = Run(copied)
    run.restore()
    wrapped, compiled = torch.nn.Module(), torch.nn.Module()
    wrapped.module, compiled._orig_mod = run.model, wrapped  # as DistributedDataParallel and torch.compile call what they wrap
    assert checkpoint.restore(copied, wrapped, run.optimizer).step == 4
    checkpoint.save(copied, step=5, tokens=40, model=compiled, optimizer=run.optimizer, state={})
    assert same(checkpoint.read_model(copied / "checkpoints" / "step-000000005"), run.model.state_dict())


def test_every_dtype_survives(tmp_path):
    class Kinds(torch.nn.Module):
        def __init__(self, fill):
            super().__init__()
            for name, dtype in tensorfile.DTYPES.items():
                tensor = torch.randint(-100, 100, (3, 5)) * fill
                self.register_buffer(name.lower(), tensor.to(torch.float32).to(dtype))
            self.register_buffer("none", torch.empty(0, 7))
            self.register_buffer("one", torch.tensor(2.5 * fill))
            self.weight = torch.nn.Parameter(torch.randn(2, 2))

    model, again = Kinds(1), Kinds(0)
    optimizers = [torch.optim.SGD(kinds.parameters(), lr=0.1) for kinds in (model, again)]
    path = checkpoint.save(tmp_path, step=1, tokens=1, model=model, optimizer=optimizers[0], state={})
    checkpoint.restore(tmp_path, again, optimizers[1])
    bits = [{name: t.reshape(-1).view(torch.uint8) for name, t in kinds.state_dict().items()} for kinds in (model, again)]
    assert same(*bits)
    assert same({n: t.reshape(-1).view(torch.uint8) for n, t in load_file(path / "model.safetensors").items()}, bits[0])


def test_no_checkpoint_is_no_error(tmp_path):
    assert Run(tmp_path / "nowhere").restore() is None


def test_those_of_more_steps_than_wanted_are_passed_over(saved):
    run = Run(saved)
    assert [run.restore(most_steps=most).step for most in (2, 3, 4, 9)] == [2, 2, 4, 4]
    assert run.restore(most_steps=1) is None


# --- damaged -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_rejected_by_name(saved, tmp_path_factory, name, where, bit):
    path = tmp_path_factory.getbasetemp() / f"flipped-{name}" / "step-000000004"
    if not path.exists():
        shutil.copytree(saved / "checkpoints" / "step-000000004", path)
    content = (saved / "checkpoints" / "step-000000004" / name).read_bytes()
    damaged = bytearray(content)
    damaged[where % len(content)] ^= 1 << bit
    (path / name).write_bytes(damaged)
    try:
        [problem] = checkpoint.problems(path)
        assert name in problem or (name == "manifest.json" and "manifest" in problem)
    finally:
        (path / name).write_bytes(content)
    assert checkpoint.problems(path) == []


def test_every_byte_of_the_manifest_counts(copied):
    """It is small enough to try a bit of each."""
    path = copied / "checkpoints" / "step-000000002"
    content = (path / "manifest.json").read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 7)
        (path / "manifest.json").write_bytes(damaged)
        assert len(checkpoint.problems(path)) == 1, position


@pytest.mark.parametrize("name", FILES)
def test_any_truncation_is_rejected(copied, name):
    path = copied / "checkpoints" / "step-000000002"
    content, draw = (path / name).read_bytes(), random.Random(0)
    for length in {0, 1, len(content) - 1, *(draw.randrange(len(content)) for _ in range(15))}:
        (path / name).write_bytes(content[:length])
        [problem] = checkpoint.problems(path)
        assert "manifest" in problem, (length, problem)


def shortened(path):
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1])
    return "model.safetensors: .* bytes, the manifest says"


def lengthened(path):
    with open(path / "state.json", "ab") as file:
        file.write(b" ")
    return "state.json: .* bytes, the manifest says"


def lost(path):
    (path / "optimizer.safetensors").unlink()
    return "optimizer.safetensors: missing"


def half_copied(path):
    for name in ("manifest.json", "optimizer.safetensors", "state.json"):
        (path / name).unlink()
    return "its manifest is unreadable"


def joined(path):
    (path / "model.pt").write_bytes(b"anything")
    return "model.pt: not in the manifest"


def unlisted(path):
    (path / "manifest.json").unlink()
    return "its manifest is unreadable"


def emptied(path):
    (path / "manifest.json").write_text("[]")
    return "its manifest is unreadable"


def told_otherwise(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "tokens": 99}))
    return "its content changed"


def renamed(path):
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step-000000002"), path)
    return r"manifest.json: is of another checkpoint \(step-000000002\)"


def signed(path, **changed):
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    manifest.update(changed)
    (path / "manifest.json").write_text(json.dumps({**manifest, "checksum": files.json_sha256(manifest)}))


def reaching_out(path):
    (path.parent / "secret").write_bytes(b"")
    rows = json.loads((path / "manifest.json").read_text())["files"]
    signed(path, files={**rows, "../secret": {"bytes": 0, "sha256": "e3b0"}})
    return r"lists \.\./secret, which no checkpoint has"


def vouched_for(path):
    (path / ".metadata").write_bytes(b"a pickle")
    signed(path, files=files.fingerprints(path, [*(name for name in FILES if name != "manifest.json"), ".metadata"]))
    return r"lists \.metadata, which no checkpoint has"


def without_index(path):
    (path / "index.json").unlink()
    rows = json.loads((path / "manifest.json").read_text())["files"]
    signed(path, files={name: row for name, row in rows.items() if name != "index.json"})
    return "does not list what a checkpoint has"


def from_the_future(path):
    (path / "manifest.json").write_text('{"format": 3}')
    return "its format is 3, this version reads 2"


def from_the_past(path):
    (path / "manifest.json").write_text('{"format": 1}')
    return "its format is 1, this version reads 2"


DAMAGES = [shortened, lengthened, lost, half_copied, joined, unlisted, emptied, told_otherwise, renamed, reaching_out, without_index]
DAMAGES += [vouched_for, from_the_future, from_the_past]


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
    before = run.weights()
    with pytest.raises(CheckpointProblem, match=r"none of its checkpoints verifies .*step-000000004: .*step-000000002: .*delete the run"):
        run.restore()
    assert same(run.model.state_dict(), before)


@pytest.mark.parametrize("name", [".metadata", "model.pkl", "extra/.metadata"])
def test_a_pickle_in_the_folder_runs_nothing(copied, tmp_path, name):
    mark = tmp_path / "ran"
    planted = copied / "checkpoints" / "step-000000004" / name
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(evil_pickle(mark))
    restored = Run(copied).restore()
    assert restored.step == 2
    assert f"{name.partition('/')[0]}: not in the manifest" in restored.rejected[0]
    assert not mark.exists()
    pickle.loads(planted.read_bytes())  # noqa: S301 - to see that it would have
    assert mark.exists()


@pytest.mark.parametrize("name", ["index.json", "state.json", "model.safetensors", "optimizer.safetensors"])
def test_a_pickle_in_a_file_s_place_runs_nothing_though_the_manifest_vouches_for_it(copied, tmp_path, name):
    mark, path = tmp_path / "ran", copied / "checkpoints" / "step-000000004"
    (path / name).write_bytes(evil_pickle(mark))
    signed(path, files=files.fingerprints(path, [file for file in FILES if file != "manifest.json"]))
    assert checkpoint.problems(path) == []
    with pytest.raises(files.FileProblem, match="step-000000004"):
        Run(copied).restore()
    assert not mark.exists()


def test_an_index_that_names_foreign_files_is_refused(copied):
    path = copied / "checkpoints" / "step-000000004"
    (path / "index.json").write_text(
        (path / "index.json").read_text().replace('"model.safetensors"', '"../step-000000002/model.safetensors"')
    )
    signed(path, files=files.fingerprints(path, [name for name in FILES if name != "manifest.json"]))
    with pytest.raises(CheckpointProblem, match="which is no file of this folder"):
        Run(copied).restore()


def test_an_index_with_a_gap_is_refused(copied):
    path = copied / "checkpoints" / "step-000000004"
    index = json.loads((path / "index.json").read_text())
    index["model"]["norm.weight"]["pieces"] = [["model.safetensors", 0, 3], ["model.safetensors", 5, 3]]
    (path / "index.json").write_text(json.dumps(index))
    signed(path, files=files.fingerprints(path, [name for name in FILES if name != "manifest.json"]))
    with pytest.raises(CheckpointProblem, match=r"norm\.weight: wanted rows 0 to 8, found 6 of them"):
        Run(copied).restore()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"n_layer": 2}, r"blocks\.1\.attention_norm\.weight is not in the checkpoint, and \d+ more"),
        ({"n_layer": 0}, r"blocks\.0\.\S+ is only in the checkpoint, and \d+ more"),
        ({"d_model": 4}, r"token_embedding\.weight: wanted the shape \(64, 4\), came \(64, 8\), and \d+ more"),
    ],
)
def test_another_architecture_is_named_and_nothing_is_loaded(copied, other, said):
    run = Run(copied, **{"n_layer": 1, **other}) if other.get("n_layer") != 0 else Run(copied)
    if other.get("n_layer") == 0:
        run.model.blocks = torch.nn.ModuleList()
        run.optimizer = torch.optim.AdamW(run.model.parameters())
    before = run.weights()
    with pytest.raises(CheckpointProblem, match=rf"step-000000004: holds another architecture than the run's settings \({said}"):
        run.restore()
    assert same(run.model.state_dict(), before)


def test_another_dtype_is_named(copied):
    run = Run(copied)
    run.model.to(torch.bfloat16)
    with pytest.raises(CheckpointProblem, match=r"token_embedding\.weight: wanted torch\.bfloat16, came F32"):
        run.restore()


def test_moments_of_what_is_not_trained_are_named(copied):
    run = Run(copied)
    optimizer = torch.optim.AdamW(list(run.model.parameters())[1:])
    with pytest.raises(CheckpointProblem, match=r"exp_avg/token_embedding\.weight is of a parameter that is not trained"):
        checkpoint.restore(copied, run.model, optimizer)


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(CheckpointProblem, match=r"has a parameter of shape \(64, 8\) that the model does not have"):
        checkpoint.save(run.folder, step=1, tokens=1, model=run.model, optimizer=Run(tmp_path / "other").optimizer, state={})
    assert not (run.folder / "checkpoints").exists()


def test_a_run_s_own_are_told_from_another_s(tmp_path):
    run = Run(tmp_path / "run")
    for step, data in ((1, "abc"), (2, "xyz")):
        run.train(step)
        saver = checkpoint.Saver(run.folder, identity={"data": data})
        run.begin(saver)
        saver.finish()
    restored = run.restore(identity={"data": "abc", "settings": "told by none"})
    assert restored.step == 1
    assert restored.rejected == ("step-000000002: is of another run (its data is xyz, this run's abc)",)
    assert run.restore().step == 2


# --- interrupted -------------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("moment", ["write_json", "publish_folder"])
def test_a_crash_before_the_rename_leaves_the_old_one(copied, monkeypatch, moment):
    run = Run(copied)
    run.restore()
    run.train(5)

    def cut(*arguments):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(files, moment, cut)
        with pytest.raises(PowerCut):
            run.save()
    assert run.names() == ["step-000000002", "step-000000004"]
    assert Run(copied).restore().step == 4
    run.train(6)
    run.save()
    assert run.names() == ["step-000000004", "step-000000006"]
    assert not hidden(copied)  # what the crash left is gone


@pytest.mark.parametrize("moment", ["HostCopy.write", "write_json", "need_space", "fingerprints", "publish_folder"])
def test_a_full_disk_leaves_the_old_one_and_is_told(copied, monkeypatch, moment):
    run = Run(copied)
    run.restore()
    run.train(5)

    def full(*arguments):
        if moment == "need_space":
            raise files.FileProblem("needs 500 MB, the disk has 3 MB free")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((tensorfile.HostCopy, "write") if "." in moment else (files, moment)), full)
    with pytest.raises(CheckpointProblem, match=r"step-000000005: could not be written .*(No space|3 MB).*the last good checkpoint is"):
        run.save()
    assert run.names() == ["step-000000002", "step-000000004"]
    assert not hidden(copied)
    assert Run(copied).restore().rejected == ()


def test_deleting_takes_the_name_and_the_manifest_first(copied, monkeypatch):
    path = copied / "checkpoints" / "step-000000004"

    def cut(*arguments, **named):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "rmtree", lambda left, **named: None if not left.exists() else cut())
        with pytest.raises(PowerCut):
            checkpoint.delete(path)
    assert Run(copied).names() == ["step-000000002"]
    [left] = hidden(copied)
    assert not (copied / "checkpoints" / left / "manifest.json").exists()
