"""The race of optimizers: how a sweep climbs, what is the same for all, and the whole of it on the command line."""

import json
import math

import pytest
from tiny import tiny_settings, tiny_words

from daybreak import machine, opening
from daybreak.cli import main
from daybreak.racing import RACERS, Heat, climb, entered, heat, placing, race
from daybreak.racing_plot import smoothed
from daybreak.training.optimizers import OPTIMIZERS


def bowl(best):
    """Losses that are lowest at a rate, and infinite from sixteen times that."""
    return lambda rate: Heat("made-up", rate, math.log2(rate / best) ** 2 if rate < 16 * best else math.inf, ((1, 1.0),), 1.0)


@pytest.mark.parametrize(
    ("best", "tries", "rates"),
    [
        (1.0, 9, [1, 2, 0.5]),
        (4.0, 9, [1, 2, 4, 8]),
        (0.25, 9, [1, 2, 0.5, 0.25, 0.125]),
        (1 / 64, 9, [1, 0.5, 0.25, 0.125, 1 / 16, 1 / 32, 1 / 64, 1 / 128]),
        (64.0, 3, [1, 2, 4]),
        (1.0, 1, [1]),
    ],
)
def test_a_sweep_goes_where_it_gets_better_until_it_does_not(best, tries, rates):
    heats = list(climb(1.0, bowl(best), tries))
    assert [ride.learning_rate for ride in heats] == rates
    [placed] = placing(heats)
    assert placed.at_edge is not (min(rates) < best < max(rates))


def test_all_that_differ_are_raced():
    assert set(RACERS) == {name for name in OPTIMIZERS if not name.endswith("-plain")}
    assert RACERS[0] == "adamw"


def test_they_start_alike_and_see_the_same_batches(data_dir):
    settings, data, device, precision, _ = opening.resolve(tiny_settings(data_dir, "train.train_tokens=128"))
    first = {
        name: heat(entered(settings, name, 1e-3, 2e-3), data, device, precision, 1e-3).curve[0] for name in ("adamw", "muon", "momentum")
    }
    assert len(set(first.values())) == 1  # of the first step's loss, which no optimizer has touched


def test_the_muons_leave_the_rest_to_the_best_adamw(data_dir):
    settings = tiny_settings(data_dir)
    for_muon, for_sgd = entered(settings, "muon", 0.04, 2e-3).train, entered(settings, "sgd", 0.4, 2e-3).train
    assert (for_muon.muon_learning_rate, for_muon.learning_rate, for_muon.weight_decay) == (0.04, 2e-3, 0.1)
    assert (for_sgd.learning_rate, for_sgd.weight_decay) == (0.4, 0.0)


def test_the_same_race_has_the_same_result(data_dir):
    settings, data, device, precision, _ = opening.resolve(tiny_settings(data_dir, "train.train_tokens=192"))
    results = [
        [(ride.learning_rate, ride.curve, ride.val_loss) for ride in race(settings, data, device, precision, ["lion"], 2)] for _ in "ab"
    ]
    assert results[0] == results[1]
    assert machine.choose_device("cpu") == device


def test_on_the_command_line(data_dir, tmp_path, capsys):
    words = [*tiny_words(data_dir), "train.train_tokens=192"]
    assert (
        main(["bench", "optimizers", "demo", *words, "--only", "adamw,muon", "--tries", "2", "--out", str(tmp_path / "race"), "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert {row["optimizer"] for row in found["rows"]} == {"adamw", "muon"}
    assert all(len(row["tried"]) == 2 and row["at_edge"] for row in found["rows"])
    assert [row["val_loss"] for row in found["rows"]] == sorted(row["val_loss"] for row in found["rows"])
    assert json.loads((tmp_path / "race" / "race.json").read_text()) == found
    pytest.importorskip("matplotlib")
    assert (tmp_path / "race" / "race.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "adamw,muno"], "--only: muno: no such optimizer; there are adamw, "),
        (["--only", ","], "--only: wanted some of adamw, "),
        (["--tries", "0"], "--tries: wanted at least 1, came 0"),
        (["--out", __file__], "--out: wanted a folder, came the file "),
    ],
)
def test_a_wrong_request_is_told_in_one_line(data_dir, capsys, words, told):
    assert main(["bench", "optimizers", "demo", *tiny_words(data_dir), *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"error: {told}" in lines[0]


def test_smoothing_keeps_a_constant_and_the_order():
    assert smoothed([(step, 2.0) for step in range(100)]) == [(step, pytest.approx(2.0)) for step in range(100)]
    assert [tokens for tokens, _ in smoothed([(1, 3.0), (2, 1.0)])] == [1, 2]
