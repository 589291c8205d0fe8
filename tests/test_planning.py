"""The planner: known runs by their figures, laws that any plan keeps, and what it says where something does not fit or divide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak import config, devices, planning
from daybreak.model.config import GPTConfig
from daybreak.planning import Fleet, plan
from daybreak.recipes import recipe_settings
from daybreak.settings import Settings


def fleet(written: str, utilisation: float = 0.4, price: float | None = None) -> Fleet:
    return Fleet(*devices.parse(written), utilisation, price)


def of(recipe: str, *edits: str) -> Settings:
    return config.edit(recipe_settings(recipe), edits)


CONSTANT = ("train.batch_start_tokens=none", "train.batch_ramp_tokens=0")


# --- Known runs ---


def test_124m_on_one_a100() -> None:
    made = plan(of("gpt2.124m"), fleet("a100"))
    assert (made.parameters, made.steps, made.tokens) == (124_439_808, 19_073, 19_073 * 524_288)
    assert made.placement.layout == "single"
    assert not made.placement.recompute
    assert made.placement.micro_batch == 64
    assert made.placement.memory.states == 16 * 124_475_904
    by_muon = plan(of("gpt2.124m", "train.optimizer=muon"), fleet("a100"))
    assert by_muon.placement.memory.states == 16 * 124_475_904 - 4 * 12 * 12 * 768**2
    assert made.fits
    assert made.fewest_devices == 1
    assert made.notes == ()
    assert made.seconds == pytest.approx(0.8551e9 * 1e10 / (312e12 * 0.4), rel=1e-3)  # by hand: 19 hours
    assert made.tokens_per_second == pytest.approx(145_900, rel=1e-3)
    assert made.cost == pytest.approx(19.03 * 1.50, rel=1e-3)


def test_a_budget_of_time_ends_the_plan_where_it_ends_the_run() -> None:
    hour = plan(of("gpt2.124m", "train.budget_seconds=3600"), fleet("a100"))
    assert hour.seconds == pytest.approx(3600, rel=0.001)  # to the nearest whole step
    assert hour.tokens == hour.steps * 524_288
    assert len(hour.notes) == 1
    assert hour.notes[0].startswith("train.budget_seconds = 3600 ends the run before its 9,999,745,024 tokens")
    assert plan(of("gpt2.124m", "train.budget_seconds=1e6"), fleet("a100")) == plan(of("gpt2.124m"), fleet("a100"))
    assert plan(of("gpt2.124m", "train.budget_seconds=3600")).tokens == 19_073 * 524_288  # nobody knows how fast it will be


def test_124m_on_eight_a100_beside_a_published_run() -> None:
    """llm.c, scripts/run_gpt2_124M.sh: 10B tokens in 94 minutes on eight A100 at $14 an hour, with MFU near 0.6."""
    made = plan(of("gpt2.124m"), fleet("8xa100", utilisation=0.6, price=14 / 8))
    assert made.placement.layout == "ddp"
    assert made.placement.micro_batch == 64
    assert made.seconds == pytest.approx(94.3 * 60, rel=0.02)
    assert made.cost == pytest.approx(22, rel=0.05)
    one = plan(of("gpt2.124m", "train.micro_batch=64"), fleet("a100"))
    assert made.placement.memory == one.placement.memory


def test_gpt3_on_1024_a100() -> None:
    made = plan(of("gpt3.175b"), fleet("1024xa100"))
    assert made.parameters == 174_604_259_328
    assert made.flops_6n == pytest.approx(3.14e23, rel=2e-3)  # the paper's table D.1
    assert made.flops == pytest.approx(3.2e23, rel=2e-3)
    assert 300_000_000_000 <= made.tokens < 300_000_000_000 + 3_145_728
    assert made.placement.layout == "fsdp"
    assert made.placement.recompute
    assert made.placement.micro_batch == 1
    assert made.placement.memory.states == pytest.approx(16 * 174.6e9 / 1024, rel=1e-3)
    assert 96 * 2048 * 12288 * 4 < made.placement.memory.activations < 1.2 * 96 * 2048 * 12288 * 4
    assert made.placement.memory.total == pytest.approx(32.4e9, rel=2e-3)
    assert made.fits
    assert made.fewest_devices == 67
    assert made.seconds == pytest.approx(3.197e23 / (1024 * 312e12 * 0.4), rel=1e-3)
    assert made.seconds == pytest.approx(29.0 * 86400, rel=2e-3)
    assert made.cost == pytest.approx(29.0 * 24 * 1024 * 1.50, rel=2e-3)
    assert "1,536 sequences does not divide evenly among 1,024 devices" in made.notes[0]
    assert "768 or 1,536 devices would do, or train.batch_tokens=2_097_152 or 4_194_304" in made.notes[0]


def test_without_devices_it_is_one_sequence_on_one_device() -> None:
    made = plan(of("gpt2.124m"))
    assert (made.seconds, made.cost, made.tokens_per_second, made.fits, made.fewest_devices) == (None,) * 5
    assert made.placement.micro_batch == 1
    assert made.placement.memory.total > 16 * made.parameters
    assert plan(of("gpt2.124m", "train.micro_batch=4")).placement.micro_batch == 4


def test_a_run_that_stops_on_its_way_is_shorter() -> None:
    whole, part = plan(of("gpt3.125m")), plan(of("gpt3.125m", "train.stop_tokens=1B"))
    assert part.tokens < 1.001e9 < whole.tokens
    assert plan(of("gpt3.125m", "train.stop_tokens=1T")).tokens == whole.tokens


def test_the_batch_that_grows_takes_more_steps_for_the_same_tokens() -> None:
    grows, constant = plan(of("gpt3.125m")), plan(of("gpt3.125m", "train.batch_start_tokens=none", "train.batch_ramp_tokens=0"))
    assert grows.steps > constant.steps == -(-300_000_000_000 // 524_288)


# --- Where something stands in the way ---


def test_what_does_not_fit_one_device_is_sharded_over_more() -> None:
    one, eight = (plan(of("gpt3.6.7b"), fleet(f"{count}xa100")) for count in (1, 8))
    assert not one.fits
    assert "does not fit" in one.notes[0]
    assert f"at least {one.fewest_devices} of them, sharded, or devices with more memory" in one.notes[0]
    assert eight.fits
    assert eight.placement.layout == "fsdp"


@pytest.mark.parametrize("recipe", ["gpt2.1558m", "gpt3.6.7b", "gpt3.13b", "gpt3.175b"])
@pytest.mark.parametrize("name", ["a100", "rtx4090", "h200"])
def test_the_fewest_devices_hold_it_and_one_less_does_not(recipe: str, name: str) -> None:
    fewest = plan(of(recipe), fleet(name)).fewest_devices
    if fewest is None:
        assert (recipe, name) == ("gpt3.175b", "rtx4090")
        return
    assert plan(of(recipe, "train.micro_batch=1"), fleet(f"{fewest}x{name}")).fits
    assert fewest == 1 or not plan(of(recipe, "train.micro_batch=1"), fleet(f"{fewest - 1}x{name}")).fits


def test_what_no_number_of_devices_holds_is_said() -> None:
    made = plan(of("gpt3.175b"), fleet("4096xt4"))
    assert made.fits is False
    assert made.fewest_devices is None
    assert made.notes[0].endswith("no number of them would do; take a device with more memory")
    assert made.seconds is not None


def test_a_context_too_long_for_any_number_is_said_to_be() -> None:
    made = plan(of("gpt2.124m", "model.context_length=262144", "train.micro_batch=1"), fleet("8xt4"))
    assert made.notes[0].endswith("take a device with more memory, or set model.context_length lower")


def test_a_layout_of_ones_own_is_kept() -> None:
    wanted = {
        layout: plan(of("gpt3.1.3b", f"machine.parallel={layout}"), fleet("16xa100")).placement
        for layout in ("auto", "ddp", "fsdp", "hsdp")
    }
    assert {layout: placed.layout for layout, placed in wanted.items()} == {"auto": "ddp", "ddp": "ddp", "fsdp": "fsdp", "hsdp": "hsdp"}
    states = {layout: placed.memory.states for layout, placed in wanted.items()}
    assert states["ddp"] == pytest.approx(8 * states["hsdp"]) == pytest.approx(16 * states["fsdp"])
    assert plan(of("gpt2.124m", "machine.recompute=true"), fleet("a100")).placement.recompute
    crowded = plan(of("gpt3.6.7b", "machine.parallel=ddp"), fleet("16xa100"))
    assert not crowded.fits
    assert crowded.notes[0].endswith("machine.parallel=fsdp fits")


def test_the_edits_place_the_model_as_planned() -> None:
    for recipe, devices_wanted in (("gpt2.124m", "h100"), ("gpt2.1558m", "8xrtx4090"), ("gpt3.13b", "16xa100"), ("gpt3.175b", "768xa100")):
        made = plan(of(recipe), fleet(devices_wanted))
        assert plan(
            of(recipe, "train.batch_start_tokens=none", "train.batch_ramp_tokens=0", *made.edits), fleet(devices_wanted)
        ).placement == (made.placement)


def test_devices_without_bf16_cannot_divide_a_model_in_it() -> None:
    old = plan(of("gpt2.1558m"), fleet("8xv100"))
    assert old.placement.layout == "fsdp"
    assert any("has no bf16" in note for note in old.notes)


def test_gradients_are_whole_between_micro_batches_only_where_they_are_small() -> None:
    small, large = (
        plan(of(name, "machine.parallel=fsdp"), fleet("64xa100")).placement.memory.weights for name in ("gpt3.1.3b", "gpt3.13b")
    )
    assert small > 4 * 1.3e9
    assert large < 4 * 12.8e9


def test_a_micro_batch_of_ones_own_is_kept_and_told_if_it_is_too_large() -> None:
    made = plan(of("gpt2.1558m", "train.micro_batch=256"), fleet("h100"))
    assert made.placement.micro_batch == 256
    assert not made.fits
    assert "train.micro_batch=1 fits" in made.notes[0]
    assert plan(of("gpt2.1558m", "train.micro_batch=1"), fleet("h100")).fits


def test_blocks_are_computed_again_where_nothing_else_helps() -> None:
    edits = ("model.context_length=16384", "train.batch_tokens=524288", "train.micro_batch=1")
    made = plan(of("gpt2.355m", *edits), fleet("l4"))
    assert made.fits
    assert made.placement.recompute
    assert not plan(of("gpt2.355m", *edits), fleet("a100")).placement.recompute


def test_micro_batches_of_ones_own_must_divide_among_the_devices() -> None:
    made = plan(of("gpt2.124m", "train.micro_batch=8"), fleet("7xa100"))
    assert "64 micro-batches of 8 sequences does not divide evenly among 7 devices" in made.notes[0]
    assert "4 or 8 devices would do, or train.batch_tokens=516_096 or 573_440" in made.notes[0]


def test_the_first_batch_of_one_that_grows_must_divide_too() -> None:
    made = plan(of("gpt3.125m"), fleet("32xa100"))
    assert "the first batch, of 16 sequences, does not divide evenly among 32 devices" in made.notes[0]
    start = made.notes[0].partition("train.batch_start_tokens=")[2].split()[0]
    mended = plan(of("gpt3.125m", f"train.batch_start_tokens={start}"), fleet("32xa100"))
    assert not [note for note in mended.notes if "divide" in note]
    assert not [note for note in plan(of("gpt3.125m"), fleet("16xa100")).notes if "divide" in note]


def test_what_is_advised_divides() -> None:
    for count in (3, 7, 100, 511, 513, 1024):
        note = plan(of("gpt2.124m"), fleet(f"{count}xa100")).notes[0]
        for written in note.partition("train.batch_tokens=")[2].split(" or "):
            mended = plan(of("gpt2.124m", f"train.batch_tokens={written}"), fleet(f"{count}xa100"))
            assert not [note for note in mended.notes if "divide" in note]


def test_a_huge_batch_takes_no_longer_to_plan() -> None:
    made = plan(of("gpt2.124m", "model.context_length=1", "train.batch_tokens=1e12", "train.train_tokens=1e12"), fleet("7xa100"))
    assert made.steps == 1
    assert "divide" in made.notes[0]


def test_full_precision_and_a_small_model_are_told_to_be_slower() -> None:
    assert "machine.precision=fp32" in " ".join(plan(of("gpt2.124m", "machine.precision=fp32"), fleet("a100")).notes)
    small = of("demo", "model.vocab_size=8192")
    assert "fills no such device" in " ".join(plan(small, fleet("a100")).notes)
    assert "fills no such device" not in " ".join(plan(small, fleet("a100", utilisation=0.05)).notes)


@pytest.mark.parametrize(
    ("utilisation", "price", "fields"),
    [
        (0.4, None, []),
        (1.0, 0.0, []),
        (0.0, None, ["utilisation"]),
        (1.01, None, ["utilisation"]),
        (float("nan"), float("nan"), ["utilisation", "price"]),
        (float("inf"), -1.0, ["utilisation", "price"]),
        (0.4, float("inf"), ["price"]),
    ],
)
def test_what_cannot_be_assumed(utilisation: float, price: float | None, fields: list[str]) -> None:
    assert [field for field, _ in fleet("a100", utilisation, price).problems()] == fields


# --- Laws ---

shapes = st.builds(
    lambda layers, heads, size, context: GPTConfig(
        vocab_size=50257, n_layer=layers, n_head=heads, d_model=heads * size, context_length=context
    ),
    st.integers(1, 96),
    st.integers(1, 64),
    st.integers(8, 128),
    st.integers(16, 2048),
)


def some_run(shape: GPTConfig, sequences: int, micro_batch: int | None) -> Settings:
    batch = sequences * (micro_batch or 1) * shape.context_length
    edits = [f"train.batch_tokens={batch}", f"train.micro_batch={micro_batch or 'none'}", "train.train_tokens=1B"]
    return config.edit(Settings(model=shape), edits)


@given(
    shape=shapes, count=st.integers(1, 2048), more=st.integers(0, 2048), micro_batch=st.integers(1, 8), name=st.sampled_from(["a100", "t4"])
)
def test_more_devices_take_no_more_memory_of_each_and_no_more_time(
    shape: GPTConfig, count: int, more: int, micro_batch: int, name: str
) -> None:
    settings = some_run(shape, 64, micro_batch)
    few, many = (plan(settings, fleet(f"{number}x{name}")) for number in (count, count + more))
    assert many.seconds <= few.seconds
    assert many.tokens_per_second >= few.tokens_per_second
    assert many.fits or not few.fits or count == 1  # a sharded model gathers its blocks, which one device alone need not
    assert many.cost == pytest.approx(few.cost)
    if few.placement.layout == many.placement.layout == "fsdp" and few.placement.recompute == many.placement.recompute:
        assert many.placement.memory.total <= few.placement.memory.total


@given(shape=shapes, sequences=st.integers(1, 512), count=st.sampled_from([1, 2, 8, 64]), name=st.sampled_from(["h200", "a100", "rtx4090"]))
def test_the_micro_batch_divides_a_devices_share_and_a_larger_one_would_not_fit(
    shape: GPTConfig, sequences: int, count: int, name: str
) -> None:
    made = plan(some_run(shape, sequences, None), fleet(f"{count}x{name}"))
    placed = made.placement
    room = planning.USABLE * devices.parse(name)[1].memory_bytes
    assert made.fits == (placed.memory.total <= room)
    if sequences % count:
        assert placed.micro_batch == 1
        assert any("does not divide" in note for note in made.notes)
    else:
        share = sequences // count
        assert share % placed.micro_batch == 0
        most = max(1, planning.MICRO_BATCH_TOKENS // shape.context_length)
        larger = [size for size in range(placed.micro_batch + 1, min(most, share) + 1) if share % size == 0]
        if made.fits and larger:
            bigger = plan(some_run(shape, sequences // larger[0], larger[0]), fleet(f"{count}x{name}")).placement
            same = (bigger.layout, bigger.recompute) == (placed.layout, placed.recompute)
            assert not same or bigger.memory.total > room


@given(shape=shapes, micro_batch=st.integers(1, 16))
def test_memory_is_the_sum_of_its_parts_and_every_parameter_costs_16_bytes(shape: GPTConfig, micro_batch: int) -> None:
    made = plan(some_run(shape, 1, micro_batch))
    memory = made.placement.memory
    assert memory.total == memory.states + memory.weights + memory.activations + memory.logits
    assert 16 * made.parameters <= memory.states <= 16 * (made.parameters + 63 * shape.d_model)
