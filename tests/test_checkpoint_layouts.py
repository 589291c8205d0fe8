"""What one layout of devices saved, another goes on with, bit for bit: alone, copies, shards, copies of shards, and back."""

import errno
import hashlib
import json
import random
import shutil

import pytest
import torch
import torch.distributed.fsdp  # before the tests fork, or each process would import it for itself
from checkpointed import evil_pickle, hidden, same
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F
from worlds import in_worlds

from daybreak import checkpoint, files
from daybreak.checkpoint import CheckpointProblem, tensorfile
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.optimizers import make_optimizer

SHAPE = GPTConfig(
    vocab_size=61, context_length=4, n_layer=2, n_head=1, d_model=6
)  # 6 rows on 4 ranks: 2, 2, 2 and none; 4 on 3: 2, 2, none
LAYOUTS = {
    "alone": 1,
    "copies of 2": 2,
    "shards of 2": 2,
    "shards of 3": 3,
    "shards of 4": 4,
    "2 copies of 2 shards": 4,
    "4 copies of 1": 4,
}


class Divided:
    """The tiny GPT and its optimizer in a layout of so many ranks."""

    def __init__(self, layout, seed=0, optimizer="adamw"):
        self.model = build(SHAPE, seed)
        if "shard" in layout or "of 1" in layout:
            size = LAYOUTS[layout]
            shape = {"2 copies of 2 shards": (2, 2), "4 copies of 1": (4, 1)}.get(layout, (size,))
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards")[-len(shape) :])
            for block in self.model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
            for part in (self.model, *self.model.blocks):
                part.set_force_sum_reduction_for_comms(True)
                part.set_gradient_divide_factor(1.0)
        self.optimizer = make_optimizer(optimizer, self.model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2

    def step(self, seed):
        """A step on gradients that depend on the seed and the parameters' names only."""
        for name, parameter in self.model.named_parameters():
            generator = torch.Generator().manual_seed(seed + len(name))
            gradient = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()

    def digests(self):
        """Of every weight and moment, whole, a checksum."""
        tensors = dict(self.model.state_dict())
        for name, parameter in self.model.named_parameters():
            tensors |= {f"{key}/{name}": value for key, value in self.optimizer.state[parameter].items()}
        whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}
        return {name: hashlib.sha256(t.detach().contiguous().numpy().tobytes()).hexdigest() for name, t in whole.items()}


def write(world, folder, layout, optimizer="adamw"):
    made = Divided(layout, optimizer=optimizer)
    for seed in range(2):
        made.step(seed)
    torch.manual_seed(world.rank)
    random.seed(world.rank)
    checkpoint.save(folder, step=7, tokens=70, model=made.model, optimizer=made.optimizer, state={"word": "dawn"}, world=world)
    return made.digests(), (torch.rand(2).tolist(), random.random())


def read(world, folder, out, layout, optimizer="adamw"):
    made = Divided(layout, seed=9, optimizer=optimizer)
    made.step(5)  # what is there already has to go
    torch.manual_seed(1)
    restored = checkpoint.restore(folder, made.model, made.optimizer, world, seed=3)
    drawn = torch.rand(2).tolist(), random.random()
    digests = made.digests()
    checkpoint.save(out, step=7, tokens=70, model=made.model, optimizer=made.optimizer, state=restored.state, world=world)
    made.step(6)  # the restored state is one that the optimizer can go on with
    return digests, drawn, (restored.step, restored.tokens, restored.state, restored.layout, restored.draws), made.digests()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """By layout: the folder of a run that was saved in it, and per rank what it held and was about to draw. To be read only."""
    made = {}
    for layout, size in LAYOUTS.items():
        folder = tmp_path_factory.mktemp("saved") / "run"
        made[layout] = folder, in_worlds(size, write, folder, layout)
    return made


def tensors_of(folder):
    return checkpoint.read_model(checkpoint.found(folder)[-1])


# --- from every layout to every layout ---------------------------------------------------------------------------------------


CHANGES = [(before, after) for before in LAYOUTS for after in LAYOUTS if after == "alone" or before in ("alone", "shards of 3")]
CHANGES += [("copies of 2", "shards of 2"), ("shards of 2", "copies of 2"), ("2 copies of 2 shards", "shards of 3")]
CHANGES += [("shards of 2", "shards of 2"), ("2 copies of 2 shards", "2 copies of 2 shards")]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_weights_and_moments_survive_any_change_of_layout(saved, tmp_path, before, after):
    folder, answers = saved[before]
    expected = answers[0][0]
    told = in_worlds(LAYOUTS[after], read, folder, tmp_path / "run", after)
    for digests, _, (step, tokens, state, _, _), _ in told:
        assert digests == expected
        assert (step, tokens, state) == (7, 70, {"word": "dawn"})
    assert all(rank[3] == told[0][3] for rank in told)
    assert same(tensors_of(tmp_path / "run"), tensors_of(folder))
    draws = told[0][2][4]
    if LAYOUTS[before] == LAYOUTS[after]:
        assert draws == "as saved"
        assert [rank[1] for rank in told] == [rank[1] for rank in answers]
    else:
        assert f"saved by {LAYOUTS[before]} ranks, restored by {LAYOUTS[after]}" in draws
        assert len({str(rank[1]) for rank in told}) == LAYOUTS[after]  # each rank its own


def test_the_layouts_agree_on_what_they_hold(saved):
    held = [answers[0][0] for _, answers in saved.values()]
    assert all(digests.keys() == held[0].keys() for digests in held)
    assert all(rank[0] == answers[0][0] for _, answers in saved.values() for rank in answers)


def test_the_layout_is_told(saved):
    for layout, (folder, _) in saved.items():
        state = json.loads((checkpoint.found(folder)[0] / "state.json").read_text())
        shards = {"shards of 2": 2, "shards of 3": 3, "shards of 4": 4, "2 copies of 2 shards": 2}.get(layout, 1)
        assert state["layout"] == {"ranks": LAYOUTS[layout], "shards": shards}


@pytest.mark.parametrize("before", ["copies of 2", "shards of 2"])
def test_another_optimizer_takes_the_moments_over(tmp_path, before):
    answers = in_worlds(2, write, tmp_path / "before", before, "adamw-plain")
    for layout in ("alone", "shards of 3"):
        told = in_worlds(LAYOUTS[layout], read, tmp_path / "before", tmp_path / layout, layout, "adamw")
        assert told[0][0] == answers[0][0]


@pytest.mark.parametrize("name", ["muon", "normuon", "lion", "momentum"])
@pytest.mark.parametrize(
    ("before", "after"), [("copies of 2", "shards of 3"), ("shards of 3", "alone"), ("2 copies of 2 shards", "shards of 2")]
)
def test_every_optimizer_s_state_survives_a_change_of_layout(tmp_path, name, before, after):
    answers = in_worlds(LAYOUTS[before], write, tmp_path / "before", before, name)
    told = in_worlds(LAYOUTS[after], read, tmp_path / "before", tmp_path / "after", after, name)
    assert all(rank[0] == answers[0][0] for rank in told)
    assert all(rank[3] == told[0][3] for rank in told)
    state = "exp_avg" if name == "lion" else "momentum_buffer"
    assert f"{state}/blocks.0.mlp.up.weight" in answers[0][0]
    assert ("second_moment/blocks.0.mlp.up.weight" in answers[0][0]) is (name == "normuon")


def test_random_state_begun_anew_depends_on_seed_step_and_rank_only(saved, tmp_path):
    folder = saved["alone"][0]
    draws = [[rank[1] for rank in in_worlds(2, read, folder, tmp_path / str(turn), "copies of 2")] for turn in range(2)]
    assert draws[0] == draws[1]


# --- the files ---------------------------------------------------------------------------------------------------------------


def sizes(folder, kind):
    return [path.stat().st_size for path in sorted(checkpoint.found(folder)[0].glob(f"{kind}-*"))]


def test_all_ranks_write_about_as_much(saved):
    for layout in ("copies of 2", "shards of 2", "4 copies of 1"):
        written = [sum(pair) for pair in zip(sizes(saved[layout][0], "model"), sizes(saved[layout][0], "optimizer"), strict=True)]
        assert len(written) == LAYOUTS[layout]
        assert max(written) < 2 * min(written)


def test_copies_of_shards_are_written_once(saved):
    folder, _ = saved["2 copies of 2 shards"]
    assert len(sizes(folder, "model")) == 2
    index = json.loads((checkpoint.found(folder)[0] / "index.json").read_text())
    assert [piece[1:] for piece in index["model"]["token_embedding.weight"]["pieces"]] == [[0, 32], [32, 32]]
    assert index["random"] == [f"optimizer-0000{rank}-of-00004.safetensors" for rank in (1, 2, 3, 4)]


def test_a_rank_without_rows_writes_none(saved):
    folder, _ = saved["shards of 4"]
    index = json.loads((checkpoint.found(folder)[0] / "index.json").read_text())
    assert [piece[1:] for piece in index["model"]["blocks.0.mlp.down.weight"]["pieces"]] == [[0, 2], [2, 2], [4, 2]]


def test_one_flipped_bit_or_a_cut_anywhere_is_found(saved, tmp_path):
    """A hundred bits and every file cut, over the files of two layouts."""
    draw = random.Random(0)
    for layout in ("shards of 3", "2 copies of 2 shards"):
        folder = shutil.copytree(saved[layout][0], tmp_path / layout) / "checkpoints" / "step-000000007"
        assert checkpoint.problems(folder) == []
        whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
        damages = [(path, draw.randrange(8 * len(content))) for path, content in whole.items() for _ in range(50 // len(whole) + 1)]
        for path, bit in damages:
            damaged = bytearray(whole[path])
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            assert len(checkpoint.problems(folder)) == 1, (path, bit)
            path.write_bytes(whole[path])
        for path, content in whole.items():
            path.write_bytes(content[: draw.randrange(len(content))])
            assert len(checkpoint.problems(folder)) == 1, path
            path.unlink()
            assert len(checkpoint.problems(folder)) == 1, path
            path.write_bytes(content)
        assert checkpoint.problems(folder) == []


# --- in a world of several ---------------------------------------------------------------------------------------------------


def verify(world, folder):
    return checkpoint.problems(folder, world)


def newest(world, folder):
    made = Divided("shards of 2")
    restored = checkpoint.restore(folder, made.model, made.optimizer, world)
    return restored.step, list(restored.rejected)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "optimizer-00001-of-00002.safetensors", "state.json"])
def test_all_ranks_hear_of_damage_and_take_the_same_checkpoint(saved, tmp_path, name):
    run = shutil.copytree(saved["shards of 2"][0], tmp_path / "run")
    good, bad = run / "checkpoints" / "step-000000007", run / "checkpoints" / "step-000000008"
    manifest = json.loads((good / "manifest.json").read_text())
    shutil.copytree(good, bad)
    del manifest["checksum"]
    manifest["folder"] = bad.name
    (bad / "manifest.json").write_text(json.dumps({**manifest, "checksum": files.json_sha256(manifest)}))
    assert in_worlds(2, verify, bad) == [[], []]
    content = bytearray((bad / name).read_bytes())
    content[-2] ^= 1
    (bad / name).write_bytes(content)
    (bad / ".metadata").write_bytes(evil_pickle(tmp_path / "ran"))
    expected = [f"{name}: its bytes changed (sha256 differs from the manifest)", ".metadata: not in the manifest"]
    assert in_worlds(2, verify, bad) == [expected, expected]
    assert in_worlds(2, newest, run) == [(7, [f"step-000000008: {'; '.join(expected)}"])] * 2
    assert not (tmp_path / "ran").exists()


def failing(world, folder):
    made = Divided("shards of 2")
    made.step(0)
    saver = checkpoint.Saver(folder, world)
    saver.begin(1, 10, made.model, made.optimizer, {})
    saver.finish()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole, told = tensorfile.HostCopy.write, []
    if world.rank == 1:
        tensorfile.HostCopy.write = full
    saver.begin(2, 20, made.model, made.optimizer, {})
    try:
        saver.finish()
    except CheckpointProblem as problem:
        told.append(str(problem))
    left = hidden(folder)
    world.wait()
    tensorfile.HostCopy.write = whole
    saver.begin(3, 30, made.model, made.optimizer, {})
    return told, left, saver.finish().step


def test_a_failure_on_one_rank_is_told_on_all_and_the_next_save_works(tmp_path):
    answers = in_worlds(2, failing, tmp_path / "run")
    assert answers[0] == answers[1]
    [told], left, step = answers[0]
    assert "step-000000002: could not be written (rank 1: " in told
    assert "No space left on device" in told
    assert (left, step) == ([], 3)
    assert [path.name for path in checkpoint.found(tmp_path / "run")] == ["step-000000001", "step-000000003"]


def beside_training(world, folder):
    """Saves while steps are taken; publishes when all ranks are done, as a story does."""
    made = Divided("shards of 2")
    made.step(0)
    at_begin = made.digests()
    saver, saved = checkpoint.Saver(folder, world), None
    saver.begin(1, 10, made.model, made.optimizer, {})
    for seed in range(1, 200):
        made.step(seed)
        (not_done,) = world.highest(int(not saver.done_here))
        if saver.busy and not not_done:
            saved = saver.publish()
            break
    assert made.digests() != at_begin
    again = Divided("shards of 2", seed=4)
    restored = checkpoint.restore(folder, again.model, again.optimizer, world)
    return saved.step, restored.step, again.digests() == at_begin


def test_what_is_saved_is_the_state_at_the_moment_of_begin(tmp_path):
    assert in_worlds(2, beside_training, tmp_path / "run") == [(1, 1, True)] * 2


def alien(world, folder):
    made = Divided("shards of 2")
    made.step(0)
    for parameter in made.model.parameters():
        made.optimizer.state[parameter]["exp_avg"] = made.optimizer.state[parameter]["exp_avg"].to_local()
    try:
        checkpoint.save(folder, step=1, tokens=1, model=made.model, optimizer=made.optimizer, state={}, world=world)
    except CheckpointProblem as problem:
        return str(problem)


def test_a_moment_that_is_not_divided_as_its_parameter_is_refused(tmp_path):
    answers = in_worlds(2, alien, tmp_path / "run")
    assert all("wanted it divided among the ranks as its parameter is, came a plain tensor" in told for told in answers)


def after_looking(world, folder):
    """FSDP may leave the root's parameters whole after a forward pass without a backward one."""
    made = Divided("shards of 2")
    made.step(0)
    before = made.digests()
    with torch.no_grad():
        F.cross_entropy(made.model(torch.arange(4)[None]).flatten(0, 1), torch.arange(4))
    checkpoint.save(folder, step=1, tokens=1, model=made.model, optimizer=made.optimizer, state={}, world=world)
    again = Divided("shards of 2", seed=4)
    checkpoint.restore(folder, again.model, again.optimizer, world)
    return again.digests() == before


def test_saving_after_an_evaluation_saves_the_shards(tmp_path):
    assert in_worlds(2, after_looking, tmp_path / "run") == [True, True]
