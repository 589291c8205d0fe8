"""The recipes: their names, and that they say what the papers say."""

from __future__ import annotations

import math

import pytest

from daybreak import config, metrics
from daybreak.config import ConfigError
from daybreak.data.steps import Steps
from daybreak.learning import learning_rates
from daybreak.opening import is_finished
from daybreak.recipes import ALIASES, RECIPES, gpt2, gpt3, modern, recipe_settings
from daybreak.story import run

GPT2 = ("gpt2.124m", "gpt2.355m", "gpt2.774m", "gpt2.1558m")
GPT3 = ("gpt3.125m", "gpt3.350m", "gpt3.760m", "gpt3.1.3b", "gpt3.2.7b", "gpt3.6.7b", "gpt3.13b", "gpt3.175b")


def grown(settings):
    plan = settings.train
    return Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)


def test_every_published_size_has_a_recipe_that_can_work():
    assert {*GPT2, *GPT3, "demo"} <= set(RECIPES)
    assert {name: config.check(make()) for name, make in RECIPES.items() if config.check(make())} == {}
    assert {name: make().recipe for name, make in RECIPES.items()} == {name: name for name in RECIPES}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("gpt3.small", "gpt3.125m"),
        ("gpt3.xl", "gpt3.1.3b"),
        ("gpt2.xl", "gpt2.1558m"),
        ("gpt2.1.5b", "gpt2.1558m"),
        ("GPT3.13B", "gpt3.13b"),
    ],
)
def test_a_recipe_has_the_names_that_people_use(alias, name):
    assert recipe_settings(alias) == RECIPES[name]()


def test_aliases_lead_to_recipes_and_hide_none():
    assert set(ALIASES.values()) <= set(RECIPES)
    assert not set(ALIASES) & set(RECIPES)


@pytest.mark.parametrize(("wrong", "near"), [("gpt3.xll", "gpt3.xl"), ("gpt2.125m", "gpt2.124m"), ("gpt3.175", "gpt3.175b")])
def test_a_wrong_name_is_told_the_nearest(wrong, near):
    with pytest.raises(ConfigError, match=f"{wrong}: no such recipe; did you mean {near}\\?"):
        recipe_settings(wrong)


@pytest.mark.parametrize("name", GPT3)
def test_gpt3_s_schedule_at_golden_points(name):
    """Paper, table 2.1 and appendix B."""
    peak = {"125m": 6e-4, "350m": 3e-4, "760m": 2.5e-4, "1.3b": 2e-4, "2.7b": 1.6e-4, "6.7b": 1.2e-4, "13b": 1e-4, "175b": 0.6e-4}[name[5:]]
    batch = {"125m": 0.5, "350m": 0.5, "760m": 0.5, "1.3b": 1, "2.7b": 1, "6.7b": 2, "13b": 2, "175b": 3.2}[name[5:]] * 1e6
    settings = recipe_settings(name)
    schedule, steps, plan = learning_rates(settings), grown(settings), settings.train
    golden = {
        187_500_000: peak / 2,
        375_000_000: peak,
        (375_000_000 + 260_000_000_000) // 2: 0.55 * peak,
        375_000_000 + (260_000_000_000 - 375_000_000) // 4: (0.1 + 0.45 * (1 + math.sqrt(0.5))) * peak,
        260_000_000_000: 0.1 * peak,
        280_000_000_000: 0.1 * peak,
        300_000_000_000: 0.1 * peak,
    }
    assert {tokens: schedule(tokens) for tokens in golden} == pytest.approx(golden)
    assert steps.batch(0) == 32_768
    assert 4e9 <= plan.batch_ramp_tokens <= 12e9
    last = steps.count(plan.train_tokens) - 1
    assert steps.batch(last) == pytest.approx(batch, rel=0.05)
    assert steps.before(last) < 300e9 <= steps.before(last + 1)
    assert (plan.beta1, plan.beta2, plan.epsilon, plan.weight_decay, plan.grad_clip) == (0.9, 0.95, 1e-8, 0.1, 1.0)
    assert settings.model.context_length == 2048


def test_the_lecture_s_run_step_by_step():
    """build-nanogpt, `get_lr`, written here from its description: linear over 715 steps, then half a cosine to a tenth at step 19,073."""

    def lecture(step):
        if step < 715:
            return 6e-4 * (step + 1) / 715
        return 6e-5 + 5.4e-4 * 0.5 * (1 + math.cos(math.pi * (step - 715) / (19_073 - 715)))

    settings = recipe_settings("gpt2.124m")
    schedule, steps = learning_rates(settings), grown(settings)
    assert steps.count(settings.train.train_tokens) == 19_073
    rates = [schedule(steps.before(step + 1)) for step in range(19_073)]
    assert rates[:715] == pytest.approx([lecture(step) for step in range(715)])
    # Ours counts the step's own tokens on the cosine too, so it is one step ahead of the lecture's there and arrives at the floor.
    assert rates[715:] == pytest.approx([lecture(step + 1) for step in range(715, 19_073)])
    assert rates[-1] == pytest.approx(6e-5)


# --- GPT-3's recipe, small enough to watch -----------------------------------------------------------------------------------

SCALED_DOWN = [
    "model.vocab_size=none",
    "model.context_length=32",
    "model.n_layer=2",
    "model.n_head=2",
    "model.d_model=32",
    "model.attention_band=8",
    "train.train_tokens=30_000",
    "train.decay_tokens=26_000",
    "train.warmup_tokens=1_500",
    "train.batch_tokens=512",
    "train.batch_start_tokens=64",
    "train.batch_ramp_tokens=6_000",
    "eval.every_tokens=10_000",
    "eval.tokens=512",
    "sample.every_tokens=20_000",
    "sample.max_tokens=8",
    "machine.device=cpu",
    "machine.precision=fp32",
    "machine.threads=1",
]


def the_papers_run(peak):
    """(tokens after the step, learning rate) of each step, from the paper's words alone."""
    rows, tokens = [], 0
    while tokens < 30_000:
        straight_line = 64 + (512 - 64) * min(1, tokens / 6_000)
        tokens += 64 * math.floor(straight_line / 64)
        if tokens <= 1_500:
            rate = peak * tokens / 1_500
        elif tokens <= 26_000:
            rate = 0.1 * peak + 0.9 * peak * (1 + math.cos(math.pi * (tokens - 1_500) / (26_000 - 1_500))) / 2
        else:
            rate = 0.1 * peak
        rows.append((tokens, rate))
    return rows


def taken(out):
    steps = [event for event in metrics.as_one_run(metrics.read(out / "metrics.jsonl")) if event["event"] == "step"]
    return [(event["tokens"], event["learning_rate"]) for event in steps], [event["loss"] for event in steps]


def test_gpt3_scaled_down_goes_through_ramp_warm_up_cosine_and_tail(data_dir, tmp_path):
    settings = config.edit(recipe_settings("gpt3.125m"), [*SCALED_DOWN, f"data.dir={data_dir}"])
    assert run(settings, tmp_path / "whole")["event"] == "end"
    steps, losses = taken(tmp_path / "whole")
    golden = the_papers_run(6e-4)
    assert [tokens for tokens, _ in steps] == [tokens for tokens, _ in golden]
    assert [rate for _, rate in steps] == pytest.approx([rate for _, rate in golden])
    sizes = [after - before for (before, _), (after, _) in zip([(0, 0), *golden], golden, strict=False)]
    assert sorted(set(sizes)) == [64 * level for level in range(1, 9)]  # it did grow through every level
    assert golden[-2][1] == golden[-1][1] == pytest.approx(6e-5)  # and there is a tail

    # Stopped on the ramp and again on the cosine, and sent on each time, it is the same run.
    for stop in ("2_000", "9_000", "none"):
        part = config.edit(settings, [f"train.stop_tokens={stop}"])
        last = run(part, tmp_path / "parts")
        assert last["event"] == "end"
        assert last["tokens"] >= (30_000 if stop == "none" else int(stop))
        assert is_finished(tmp_path / "parts", part)
        assert is_finished(tmp_path / "parts", settings) == (stop == "none")
    assert taken(tmp_path / "parts") == (steps, losses)


@pytest.mark.parametrize("name", modern.SIZES)
def test_the_modern_recipe_has_the_papers_shapes_and_no_more_tokens(name):
    family = gpt3 if name in gpt3.SIZES else gpt2
    faithful, settings = family.size(name), modern.size(name)
    assert not config.check(settings)
    assert (settings.model.n_layer, settings.model.d_model) == (faithful.model.n_layer, faithful.model.d_model)
    assert settings.model.head_size == 128 or faithful.model.d_model == 1600  # which 128 does not divide
    assert settings.train.train_tokens <= faithful.train.train_tokens
    assert settings.train.train_tokens % settings.train.batch_tokens == 0


def test_the_modern_124m_has_the_simple_presets_rates():
    """train_gpt_simple.py: embedding 0.7, head 0.004, the rest 0.015, Muon 0.025; 1.70B tokens."""
    plan = recipe_settings("modern.124m").train
    assert plan.learning_rate * plan.head_scale == pytest.approx(0.004)
    assert plan.learning_rate * plan.embedding_scale == pytest.approx(0.7)
    assert plan.learning_rate * plan.vector_scale == pytest.approx(0.015)
    assert plan.muon_learning_rate == 0.025
    assert plan.train_tokens == pytest.approx(1.7e9, rel=0.02)


def test_the_tuned_recipe_changes_the_rate_and_its_schedule_alone():
    changed = {row[0] for row in config.differences(recipe_settings("gpt2.124m-tuned"), recipe_settings("gpt2.124m"))}
    names = "learning_rate schedule final_learning_rate train_tokens warmup_tokens"
    assert changed == {"recipe", *(f"train.{name}" for name in names.split())}
    assert recipe_settings("gpt2.small-tuned") == recipe_settings("gpt2.124m-tuned")
