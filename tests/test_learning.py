"""How a run learns, by its settings: what may be laid out anew on the way, what trains it, and how long."""

import pytest
import torch
from tiny import tiny_settings

from daybreak import checkpoint, config, metrics, opening
from daybreak.config import ConfigError
from daybreak.learning import SCHEDULES, learning_rates, optimizer_for, same_so_far
from daybreak.model.init import build
from daybreak.settings import Settings
from daybreak.story import run
from daybreak.training.optimizers import OPTIMIZERS
from daybreak.training.parallel import Alone

WSD = ("train.schedule=wsd", "train.final_learning_rate=0", "train.decay_share=0.4")


def steps_of(out):
    rows = metrics.as_one_run(metrics.read(out / "metrics.jsonl"))
    return [(row["step"], row["loss"], row["grad_norm"], row["learning_rate"]) for row in rows if row["event"] == "step"]


def test_every_name_that_the_settings_know_is_in_its_table():
    rows = {row.path: row.wanted for row in config.describe(Settings())}
    assert rows["train.optimizer"] == "one of " + ", ".join(OPTIMIZERS)
    assert rows["train.schedule"] == "one of " + ", ".join(SCHEDULES)


def test_the_muons_have_a_learning_rate_of_their_own(data_dir):
    settings = tiny_settings(
        data_dir, "train.optimizer=muon", "train.embedding_scale=3", "train.muon_learning_rate=0.05", "model.vocab_size=64"
    )
    gpt = build(settings.model, 0)
    optimizer = optimizer_for(settings, gpt, "fp32", Alone())
    names = {id(parameter): name for name, parameter in gpt.named_parameters()}
    rates = {names[id(p)]: group["lr_scale"] * 1e-2 for group in optimizer.param_groups for p in group["params"]}
    assert rates["blocks.0.mlp.up.weight"] == pytest.approx(0.05)
    assert rates["token_embedding.weight"] == pytest.approx(0.03)
    assert rates["norm.weight"] == pytest.approx(0.01)


def change(settings, width, optimizer):
    """How far a few steps move what the last block and the head put out, on average."""
    edits = [f"model.d_model={width}", f"model.n_head={width // 16}", f"train.optimizer={optimizer}", "train.learning_rate=3e-3"]
    settings = config.edit(settings, [*edits, "train.muon_learning_rate=3e-2"])
    gpt = build(settings.model, 0)
    optimizer = optimizer_for(settings, gpt, "fp32", Alone())
    tokens = torch.randint(64, (8, 16), generator=torch.Generator().manual_seed(0))
    outs = []
    hook = gpt.blocks[-1].mlp.register_forward_hook(lambda module, given, out: outs.append(out.detach()))
    for _ in range(4):
        logits = gpt(tokens)
        outs.append(logits.detach())
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        for group in optimizer.param_groups:
            group["lr"] = group["lr_scale"] * settings.train.learning_rate
        optimizer.step()
        optimizer.zero_grad()
    hook.remove()
    return [float((outs[last] - outs[first]).abs().mean()) for first, last in ((0, -2), (1, -1))]


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_a_wider_model_moves_as_far_with_a_base_and_much_farther_without(data_dir, optimizer):
    """muP's coordinate check, from 32 to 256 channels: eight times the width."""
    modern = ("model.tied_head=false", "model.position=rotary", "model.norm=rmsnorm", "model.token_init_std=1", "model.head_init_std=0.01")
    plain = tiny_settings(data_dir, *modern, "model.vocab_size=64")
    growth = {}
    for base in ("none", "32"):
        settings = config.edit(plain, [f"model.width_base={base}"])
        narrow, wide = (change(settings, width, optimizer) for width in (32, 256))
        growth[base] = [after / before for before, after in zip(narrow, wide, strict=True)]
    assert all(0.4 < times < 2.5 for times in growth["32"]), growth
    assert growth["none"][1] > 3, growth  # of the logits


def test_what_cannot_be_carried_to_another_width_is_told(data_dir):
    settings = tiny_settings(data_dir)
    for edits, told in (
        (["model.width_base=16"], "model.width_base: wanted none beside a tied head"),
        (
            ["model.width_base=16", "model.tied_head=false", "train.optimizer=nesterov"],
            "train.optimizer: wanted one whose steps do not follow",
        ),
        (["model.width_base=0", "model.tied_head=false"], "model.width_base: wanted at least 1 or none, came 0"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.edit(settings, edits)
        [problem] = caught.value.problems
        assert problem.startswith(told)


def test_the_rates_of_a_wider_model_and_its_decay(data_dir):
    modern = ("model.tied_head=false", "model.width_base=16", "model.vocab_size=64", "train.weight_decay=0.1")
    expected = {  # (lr_scale, lr_scale x weight_decay) of a matrix, the head, the embedding and a gain
        "adamw": [(0.5, 0.1), (0.5, 0.1), (1.0, 0.1), (1.0, 0.0)],
        "muon": [(2.0, 0.2), (0.5, 0.0), (1.0, 0.0), (1.0, 0.0)],
    }
    for name, rows in expected.items():
        settings = tiny_settings(data_dir, *modern, f"train.optimizer={name}", "train.muon_learning_rate=0.02")
        gpt = build(settings.model, 0)
        groups = optimizer_for(settings, gpt, "fp32", Alone()).param_groups
        given = {id(p): (group["lr_scale"], group["lr_scale"] * group["weight_decay"]) for group in groups for p in group["params"]}
        weights = (gpt.blocks[0].mlp.up.weight, gpt.head.weight, gpt.token_embedding.weight, gpt.norm.weight)
        assert [given[id(weight)] for weight in weights] == [pytest.approx(row) for row in rows], name


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not name.endswith("-plain")])
def test_a_run_with_any_optimizer_that_is_stopped_ends_with_the_same_bits(data_dir, tmp_path, name):
    edits = (f"train.optimizer={name}", "train.momentum_warmup=4", "train.learning_rate=1e-3", "train.train_tokens=384")
    run(tiny_settings(data_dir, *edits), tmp_path / "straight")
    run(tiny_settings(data_dir, *edits, "train.stop_tokens=192"), tmp_path / "stopped")
    run(tiny_settings(data_dir, *edits), tmp_path / "stopped")
    assert steps_of(tmp_path / "stopped") == steps_of(tmp_path / "straight")
    for file in ("model.safetensors", "optimizer.safetensors"):
        kept = [(tmp_path / which / "checkpoints" / "step-000000006" / file).read_bytes() for which in ("straight", "stopped")]
        assert kept[0] == kept[1], file


def test_a_stable_run_is_sent_on_and_ends_as_one_that_was_that_long_from_the_start(data_dir, tmp_path):
    run(tiny_settings(data_dir, *WSD), tmp_path / "straight")
    out = tmp_path / "sent"
    run(tiny_settings(data_dir, *WSD, "train.train_tokens=64_000", "train.stop_tokens=320"), out)
    run(tiny_settings(data_dir, *WSD), out)
    assert steps_of(out) == steps_of(tmp_path / "straight")
    newest = [checkpoint.found(folder)[-1] / "model.safetensors" for folder in (out, tmp_path / "straight")]
    assert newest[0].read_bytes() == newest[1].read_bytes()
    assert opening.is_finished(out, tiny_settings(data_dir, *WSD))


def test_one_that_decays_is_not_sent_on(data_dir, tmp_path):
    out = tmp_path / "run"
    run(tiny_settings(data_dir, *WSD, "train.stop_tokens=512"), out)
    with pytest.raises(ConfigError) as caught:
        run(tiny_settings(data_dir, *WSD, "train.train_tokens=1280", "train.seed=3"), out)
    assert len(caught.value.problems) == 2
    assert "train.train_tokens: wanted 640 as" in caught.value.problems[0]
    assert "came 1280, and it would have changed the learning rate of the 8 steps taken; keep it, or" in caught.value.problems[0]
    assert "steps taken" not in caught.value.problems[1]


@pytest.mark.parametrize(
    ("begun", "now", "done", "same"),
    [
        (WSD, ["train.train_tokens=6400"], 6, True),
        (WSD, ["train.train_tokens=6400"], 7, False),  # the decay has begun with the seventh
        (WSD, ["train.train_tokens=448"], 4, True),
        (WSD, ["train.train_tokens=448"], 6, False),
        (WSD, ["train.schedule=wsd-sqrt"], 6, True),
        (WSD, ["train.decay_share=0.1"], 6, True),
        (WSD, ["train.schedule=cosine"], 2, True),  # they only warmed up
        (WSD, ["train.schedule=cosine"], 3, False),
        ((), ["train.train_tokens=6400"], 3, False),
        (("train.decay_tokens=320",), ["train.train_tokens=6400"], 10, True),  # as GPT-3's, which goes on at its floor
        (("train.budget_seconds=9",), ["train.train_tokens=6400"], 1, False),
    ],
)
def test_what_was_learned_with_a_rate_keeps_it(data_dir, begun, now, done, same):
    before = tiny_settings(data_dir, *begun)
    assert same_so_far(config.edit(before, now), before, done) is same


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_ends_at_its_floor_with_the_last_step(data_dir, name):
    settings = tiny_settings(data_dir, f"train.schedule={name}", "train.train_tokens=650")  # eleven steps of 64
    rates = [learning_rates(settings)(64 * step) for step in range(1, 12)]
    assert max(rates) == rates[1] == pytest.approx(1e-2)
    assert rates[-2] > rates[-1] == pytest.approx(1e-3)


def test_a_run_ends_with_its_budget_and_knows_that_it_has(data_dir, tmp_path, monkeypatch):
    import daybreak.training.clock

    moments = iter(range(10_000))
    monkeypatch.setattr(daybreak.training.clock.Clock.__init__, "__defaults__", (None, lambda: float(next(moments))))
    settings = tiny_settings(data_dir, "train.budget_seconds=5", "train.train_tokens=64_000", "train.final_learning_rate=0")
    end = run(settings, tmp_path / "run")
    rates = [rate for *_, rate in steps_of(tmp_path / "run")]
    assert end["budget_seconds"] == 5
    assert 3 <= end["step"] == len(rates) <= 7
    assert rates[-1] < 0.2 * max(rates)
    assert opening.is_finished(tmp_path / "run", settings)
    assert not opening.is_finished(tmp_path / "run", config.edit(settings, ["train.budget_seconds=50"]))
