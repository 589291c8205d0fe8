"""Settings: read by their types, checked all at once, frozen, saved and read back, each with its sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak import config
from daybreak.config import ConfigError
from daybreak.files import FileProblem
from daybreak.inference.sampling import Sampling
from daybreak.model.config import GPTConfig
from daybreak.recipes import RECIPES, gpt2, recipe_settings
from daybreak.settings import (
    CheckpointSettings,
    DataSettings,
    EvalSettings,
    MachineSettings,
    SampleSettings,
    Settings,
    TrainSettings,
)


@dataclass(frozen=True)
class Inner:
    """A part."""

    rate: float = 0.5
    """How fast."""
    names: tuple[str, ...] = ("a",)
    """Whom to call."""
    sizes: tuple[int, ...] = ()
    """How large."""
    kind: Literal["plain", "fused"] = "plain"
    """Which
    one."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.rate < 0:
            yield "rate", f"wanted 0 or more, came {self.rate}"


@dataclass(frozen=True)
class Outer:
    """A whole."""

    count: int = 3
    """How many."""
    limit: int | None = None
    """At most; none has no end."""
    on: bool = False
    """Whether."""
    inner: Inner = field(default_factory=Inner)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.limit is not None and self.limit < self.count:
            yield "limit", f"wanted at least count = {self.count}, came {self.limit}"


def problems_of(*edits: str, settings: Any = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.edit(settings or Outer(), edits)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    ("written", "hint", "value"),
    [
        ("300e9", int, 300_000_000_000),
        ("300B", int, 300_000_000_000),
        ("300_000_000_000", int, 300_000_000_000),
        ("1_000", int, 1000),
        ("0.5M", int, 500_000),
        ("2k", int, 2000),
        ("1.5e3", int, 1500),
        ("1T", int, 10**12),
        ("-3", int, -3),
        ("9007199254740993", int, 2**53 + 1),
        ("1_000.5", float, 1000.5),
        ("1.8e-3", float, 0.0018),
        ("3B", float, 3e9),
        ("1.5K", float, 1500.0),
        ("-.5", float, -0.5),
        ("none", int | None, None),
        ("None", int | None, None),
        ("null", float | None, None),
        ("12", int | None, 12),
        ("none", str, "none"),
        ("", str, ""),
        ("a=b", str, "a=b"),
        *((word, bool, True) for word in ("true", "True", "yes", "on", "1")),
        *((word, bool, False) for word in ("false", "FALSE", "no", "off", "0")),
        ("a, b,c", tuple[str, ...], ("a", "b", "c")),
        ("", tuple[str, ...], ()),
        ("1K,2", tuple[int, ...], (1000, 2)),
        ("bf16", Literal["fp32", "bf16"], "bf16"),
    ],
)
def test_values_are_read_by_their_type(written: str, hint: Any, value: Any) -> None:
    came = config.parse(written, hint)
    assert came == value
    assert type(came) is type(value)


@pytest.mark.parametrize(
    ("written", "hint", "told"),
    [
        ("1.5", int, "wanted an integer, came '1.5'"),
        ("0.0001K", int, "wanted an integer, came '0.0001K'"),
        ("many", int, "wanted an integer, came 'many'"),
        ("", int, "wanted an integer, came ''"),
        ("none", int, "wanted an integer, came 'none'"),
        ("1e999", int, "wanted an integer, came '1e999'"),
        ("_", int, "wanted an integer, came '_'"),
        ("K", int, "wanted an integer, came 'K'"),
        ("0x10", int, "wanted an integer, came '0x10'"),
        ("nan", float, "wanted a number, came 'nan'"),
        ("inf", float, "wanted a number, came 'inf'"),
        ("1,5", float, "wanted a number, came '1,5'"),
        ("x", float | None, "wanted a number or none, came 'x'"),
        ("maybe", bool, "wanted true or false, came 'maybe'"),
        ("2", bool, "wanted true or false, came '2'"),
        ("1,b", tuple[int, ...], "wanted a list of integers separated by commas, came '1,b'"),
        ("bf61", Literal["fp32", "bf16"], "wanted one of fp32, bf16, came 'bf61'; did you mean bf16?"),
        ("BF16", Literal["fp32", "bf16"], "wanted one of fp32, bf16, came 'BF16'"),
    ],
)
def test_what_cannot_be_read_says_what_was_wanted_and_what_came(written: str, hint: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        config.parse(written, hint)
    assert str(caught.value) == told


@given(st.integers(-(2**80), 2**80))
def test_every_integer_is_read_exactly(number: int) -> None:
    assert config.parse(str(number), int) == number
    assert config.parse(f"{number:_}", int) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_exactly(number: float) -> None:
    assert config.parse(repr(number), float) == number


@given(st.text())
def test_any_text_is_read_or_refused_with_a_sentence(written: str) -> None:
    for hint in (int, float, bool, int | None, tuple[int, ...], Literal["a", "b"]):
        try:
            config.parse(written, hint)
        except ValueError as error:
            assert str(error).startswith("wanted ")  # noqa: PT017


def test_an_edit_leaves_the_original_as_it_was() -> None:
    before = Outer()
    after = config.edit(before, ["count=1K", "inner.names=x,y", "inner.rate=2", "limit=5e3", "on=yes"])
    assert after == Outer(1000, 5000, True, Inner(2.0, ("x", "y")))
    assert before == Outer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.count = 1  # type: ignore[misc]
    assert config.edit(before, []) is not None
    assert config.edit(before, ["count=1", "count=2"]).count == 2  # as in a shell, the last word counts


def test_an_edit_keeps_all_that_stands_after_the_first_equals_sign() -> None:
    assert config.edit(Outer(), [" inner.names = a=b "]).inner.names == ("a=b",)


def test_all_errors_are_told_at_once() -> None:
    assert problems_of("cuont=1", "inner.rate=-1", "limit=x", "inner.kind=fusd", "on", "inner.nothing=1", "zzz") == [
        "cuont: no such setting; did you mean count?",
        "limit: wanted an integer or none, came 'x'",
        "inner.kind: wanted one of plain, fused, came 'fusd'; did you mean fused?",
        "on: wanted path=value, such as inner.rate=..., came no '='; did you mean on=VALUE?",
        "inner.nothing: no such setting; `daybreak plan RECIPE` lists all",
        "zzz: wanted path=value, such as inner.rate=..., came no '='",
        "inner.rate: wanted 0 or more, came -1.0",
    ]


@pytest.mark.parametrize(
    ("edit", "meant"),
    [
        ("rate=1", "inner.rate"),
        ("iner.rate=1", "inner.rate"),
        ("outer.inner.sizes=1", "inner.sizes"),
        ("limmit=1", "limit"),
        ("nmaes=1", "inner.names"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(edit: str, meant: str) -> None:
    assert problems_of(edit) == [f"{edit.partition('=')[0]}: no such setting; did you mean {meant}?"]


def test_a_group_is_no_setting() -> None:
    assert "inner: no such setting" in problems_of("inner=3")[0]


def test_parts_are_checked_against_each_other() -> None:
    assert problems_of("limit=2") == ["limit: wanted at least count = 3, came 2"]
    assert config.edit(Outer(), ["limit=2", "count=1"]).limit == 2


def test_every_setting_is_described_with_its_path_type_value_and_sentence() -> None:
    rows = config.describe(Outer(on=True))
    assert [(row.path, row.wanted, row.value, row.sentence) for row in rows] == [
        ("count", "an integer", 3, "How many."),
        ("limit", "an integer or none", None, "At most; none has no end."),
        ("on", "true or false", True, "Whether."),
        ("inner.rate", "a number", 0.5, "How fast."),
        ("inner.names", "a list of texts separated by commas", ("a",), "Whom to call."),
        ("inner.sizes", "a list of integers separated by commas", (), "How large."),
        ("inner.kind", "one of plain, fused", "plain", "Which one."),
    ]


@pytest.mark.parametrize("settings", [Settings(), Sampling(), *(make() for make in RECIPES.values())], ids=lambda s: type(s).__name__)
def test_every_real_setting_has_its_sentence(settings: Any) -> None:
    rows = config.describe(settings)
    assert len({row.path for row in rows}) == len(rows) > 2
    for row in rows:
        assert row.sentence.endswith("."), row
        assert row.sentence[0].isupper() or row.sentence.split()[0].rstrip(",") in row.wanted + str(row.value) + "adamw auto", row
        assert not row.wanted.startswith("<"), row


# --- JSON ---

names = st.text(max_size=8)
inners = st.builds(
    Inner,
    rate=st.floats(0, 1e300),
    names=st.lists(names, max_size=3).map(tuple),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    kind=st.sampled_from(["plain", "fused"]),
)
outers = st.builds(Outer, count=st.integers(), limit=st.none(), on=st.booleans(), inner=inners)


@given(outers)
def test_settings_survive_json(settings: Outer) -> None:
    assert config.from_dict(Outer, json.loads(json.dumps(config.to_dict(settings)))) == settings


@given(outers, outers)
def test_differences_are_what_differs(one: Outer, other: Outer) -> None:
    differing = config.differences(one, other)
    assert (differing == []) == (one == other)
    there = {row.path: row.value for row in config.describe(other)}
    assert all(there[path] == theirs != ours for path, ours, theirs in differing)
    assert [(path, ours, theirs) for path, theirs, ours in config.differences(other, one)] == differing


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_survives_json_and_is_without_problems(recipe: str) -> None:
    settings = recipe_settings(recipe)
    assert settings.recipe == recipe
    assert config.check(settings) == []
    assert config.from_dict(Settings, json.loads(json.dumps(config.to_dict(settings)))) == settings


def test_missing_fields_take_their_defaults() -> None:
    assert config.from_dict(Outer, {"inner": {"rate": 1}}) == Outer(inner=Inner(rate=1.0))
    assert type(config.from_dict(Outer, {"inner": {"rate": 1}}).inner.rate) is float


def test_unknown_keys_and_wrong_types_are_told_all_at_once() -> None:
    values = {
        "cuont": 1,
        "count": "3",
        "on": 1,
        "limit": True,
        "inner": {"names": "a", "rate": None, "sizes": [1, "2"], "kind": "x", "tpyo": 1},
    }
    with pytest.raises(ConfigError) as caught:
        config.from_dict(Outer, values)
    assert sorted(caught.value.problems) == [
        "count: wanted an integer, came '3'",
        "cuont: no such setting; did you mean count?",
        "inner.kind: wanted one of plain, fused, came 'x'",
        "inner.names: wanted a list of texts separated by commas, came 'a'",
        "inner.rate: wanted a number, came None",
        "inner.sizes: wanted a list of integers separated by commas, came [1, '2']",
        "inner.tpyo: no such setting",
        "limit: wanted an integer or none, came True",
        "on: wanted true or false, came 1",
    ]


@pytest.mark.parametrize("values", [[], "text", 3, None])
def test_other_json_is_no_settings(values: Any) -> None:
    with pytest.raises(ConfigError, match=f"settings: wanted a group of settings, came {values!r}".replace("[", r"\[")):
        config.from_dict(Outer, values)
    with pytest.raises(ConfigError, match="inner: wanted a group of settings, came 4"):
        config.from_dict(Outer, {"inner": 4})


def test_a_file_of_settings_is_named_in_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"count": "x", "oops": 1}))
    with pytest.raises(ConfigError) as caught:
        config.load(Outer, path)
    assert sorted(caught.value.problems) == [f"{path}: count: wanted an integer, came 'x'", f"{path}: oops: no such setting"]
    path.write_text(json.dumps({"limit": 1}))
    with pytest.raises(ConfigError, match="limit: wanted at least count"):
        config.load(Outer, path)
    path.write_text("{}")
    assert config.load(Outer, path) == Outer()
    path.unlink()
    with pytest.raises(FileProblem, match=r"settings\.json: wanted a JSON file, found nothing there"):
        config.load(Outer, path)


# --- The real settings: one row for each thing that can be wrong ---


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (TrainSettings(train_tokens=0), "train_tokens: wanted at least 1, came 0"),
        (TrainSettings(batch_tokens=0), "batch_tokens: wanted at least 1, came 0"),
        (TrainSettings(micro_batch=0), "micro_batch: wanted at least 1 or none, came 0"),
        (TrainSettings(learning_rate=0), "learning_rate: wanted more than 0, came 0"),
        (TrainSettings(epsilon=0), "epsilon: wanted more than 0, came 0"),
        (TrainSettings(weight_decay=-1), "weight_decay: wanted 0 or more, came -1"),
        (TrainSettings(grad_clip=-1), "grad_clip: wanted 0 or more, came -1"),
        (TrainSettings(warmup_tokens=-1), "warmup_tokens: wanted 0 or more, came -1"),
        (TrainSettings(seed=-1), "seed: wanted 0 or more and less than 2^63, came -1"),
        (TrainSettings(seed=2**63), "seed: wanted 0 or more and less than 2^63, came 9223372036854775808"),
        (TrainSettings(final_learning_rate=1.1), "final_learning_rate: wanted a share of learning_rate from 0 to 1, came 1.1"),
        (TrainSettings(beta1=1), "beta1: wanted 0 or more and less than 1, came 1"),
        (TrainSettings(beta2=-0.1), "beta2: wanted 0 or more and less than 1, came -0.1"),
        (
            TrainSettings(train_tokens=1000, warmup_tokens=1001),
            "warmup_tokens: wanted at most train_tokens = 1,000, came 1,001; set it lower, such as 50",
        ),
        (
            TrainSettings(decay_tokens=100, warmup_tokens=101),
            "warmup_tokens: wanted at most decay_tokens = 100, came 101; set it lower, such as 5",
        ),
        (EvalSettings(every_tokens=0), "every_tokens: wanted at least 1, came 0"),
        (EvalSettings(tokens=0), "tokens: wanted at least 1, came 0"),
        (EvalSettings(final_tokens=0), "final_tokens: wanted at least 1, came 0"),
        (SampleSettings(every_tokens=0), "every_tokens: wanted at least 1, came 0"),
        (SampleSettings(max_tokens=0), "max_tokens: wanted at least 1, came 0"),
        (SampleSettings(temperature=-1), "temperature: wanted 0 or more, came -1"),
        (SampleSettings(top_k=0), "top_k: wanted at least 1 or none, came 0"),
        (CheckpointSettings(every_seconds=0), "every_seconds: wanted more than 0, came 0"),
        (CheckpointSettings(keep=0), "keep: wanted at least 2, as one may not survive its disk, came 0"),
        *(
            (MachineSettings(device=name), f"device: wanted auto, cpu, cuda, cuda:N or mps, came '{name}'")
            for name in ("tpu", "cpu:1", "cuda:", "cuda:x", "CPU", "", "cuda:0:1")
        ),
        (MachineSettings(threads=0), "threads: wanted at least 1 or none, came 0"),
        *(
            (GPTConfig(**{name: 0}), f"{name}: wanted at least 1, came 0")  # type: ignore[arg-type]
            for name in ("context_length", "n_layer", "n_head", "d_model")
        ),
        (GPTConfig(vocab_size=1), "vocab_size: wanted at least 2 or none, came 1"),
        (GPTConfig(d_model=770), "d_model: wanted a multiple of n_head = 12, came 770; the nearest are 768 and 780"),
        (GPTConfig(d_model=5), "d_model: wanted a multiple of n_head = 12, came 5; the nearest are 12"),
        (GPTConfig(dropout=1.0), "dropout: wanted 0 or more and less than 1, came 1.0"),
        (GPTConfig(dropout=-0.1), "dropout: wanted 0 or more and less than 1, came -0.1"),
        *(
            (GPTConfig(**{name: 0.0}), f"{name}: wanted more than 0, came 0.0")  # type: ignore[arg-type]
            for name in ("layer_norm_epsilon", "init_std", "position_init_std")
        ),
        (
            Settings(train=TrainSettings(batch_tokens=1500)),
            "train.batch_tokens: wanted a multiple of 1,024 (context_length 1024 x micro_batch 1), came 1,500; nearest 1,024 and 2,048",
        ),
        (
            Settings(train=TrainSettings(batch_tokens=4096, micro_batch=3)),
            "train.batch_tokens: wanted a multiple of 3,072 (context_length 1024 x micro_batch 3), came 4,096; nearest 3,072 and 6,144",
        ),
        (Settings(train=TrainSettings(beta1=2)), "train.beta1: wanted 0 or more and less than 1, came 2"),
        (Sampling(temperature=float("nan")), "temperature: wanted 0 or more, came nan"),
        (Sampling(temperature=float("inf")), "temperature: wanted 0 or more, came inf"),
        (Sampling(top_k=0), "top_k: wanted at least 1 or none, came 0"),
        (Sampling(top_p=0), "top_p: wanted more than 0 and at most 1, or none, came 0"),
        (Sampling(top_p=1.5), "top_p: wanted more than 0 and at most 1, or none, came 1.5"),
    ],
)
def test_every_wrong_value_is_told_alone(settings: Any, told: str) -> None:
    assert config.check(settings) == [told]


@pytest.mark.parametrize(
    "settings",
    [
        TrainSettings(warmup_tokens=0, grad_clip=0, weight_decay=0, beta1=0, beta2=0, final_learning_rate=0, seed=2**63 - 1),
        TrainSettings(warmup_tokens=100, train_tokens=100),
        EvalSettings(final_tokens=None),
        SampleSettings(temperature=0, top_k=None, prompts=()),
        MachineSettings(device="cuda:1"),
        DataSettings(),
        GPTConfig(vocab_size=None, dropout=0.999),
    ],
)
def test_the_borders_are_allowed(settings: Any) -> None:
    assert config.check(settings) == []


def test_problems_of_parts_that_are_wrong_themselves_are_not_told_twice() -> None:
    assert problems_of("model.context_length=0", "train.batch_tokens=7", settings=Settings()) == [
        "model.context_length: wanted at least 1, came 0"
    ]


def test_a_wrong_recipe_or_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^gpt2.124: no such recipe; did you mean gpt2.124m\? There are demo, demo-gpt2, gpt2.124m"):
        recipe_settings("gpt2.124")
    with pytest.raises(ConfigError, match=r"^zzzz: no such recipe; there are demo"):
        recipe_settings("zzzz")
    with pytest.raises(ConfigError, match=r"^runs/zzzz: no such recipe, and no run's folder; there are demo"):
        recipe_settings("runs/zzzz")
    with pytest.raises(ConfigError, match=r"^125m: no such size of gpt2; did you mean 124m\? There are 124m, 355m"):
        gpt2.size("125m")
