"""The quickest attention is found by trying, once, and never at the price of a wrong result."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from daybreak import machine
from daybreak.model import fastest
from daybreak.model.attention import automatic, plain
from daybreak.model.fastest import Shape, best, choose

CPU = torch.device("cpu")
LARGE = Shape(CPU, torch.float32, B=16, H=12, T=1024, D=64)
SECONDS = {automatic: 0.04, fastest.KERNELS["fused"]: 0.05, plain: 0.06, fastest.KERNELS["triangle"]: 0.03}


class Clock:
    """Answers with the seconds above, and counts how often it was asked."""

    def __init__(self, seconds=SECONDS):
        self.seconds, self.asked = seconds, 0

    def __call__(self, shape, kernel):
        self.asked += 1
        answer = self.seconds[kernel]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_quickest_is_taken_and_remembered(tmp_path):
    clock = Clock()
    assert choose(LARGE, clock, tmp_path) == "triangle"
    asked = clock.asked
    assert asked > 0
    assert choose(LARGE, clock, tmp_path) == "triangle"
    assert choose(replace(LARGE, B=17), clock, tmp_path) == "triangle"  # of the same class
    assert clock.asked == asked
    row = json.loads((tmp_path / "attention.json").read_text())[LARGE.key]
    assert row["milliseconds"] == {"rule": 40.0, "fused": 50.0, "plain": 60.0, "triangle": 30.0}


@pytest.mark.parametrize("change", [{"T": 2048}, {"dtype": torch.bfloat16}, {"band": 256}, {"compiled": True}, {"H": 6}, {"B": 1}])
def test_another_shape_is_another_question(change):
    assert replace(LARGE, **change).key != LARGE.key


def test_two_shapes_are_remembered_beside_each_other(tmp_path):
    other = replace(LARGE, T=2048)
    assert (choose(LARGE, Clock(), tmp_path), choose(other, Clock({**SECONDS, automatic: 0.01}), tmp_path)) == ("triangle", "rule")
    silent = Clock({})
    assert (choose(LARGE, silent, tmp_path), choose(other, silent, tmp_path)) == ("triangle", "rule")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"%s": 3}',
        b'{"%s": {"kernel": "gone", "undisturbed": true}}',
        b'{"%s": {"kernel": "plain"}}',
    ],
)
def test_a_broken_cache_is_none(tmp_path, content):
    (tmp_path / "attention.json").write_bytes(content.replace(b"%s", LARGE.key.encode()))
    assert choose(LARGE, Clock(), tmp_path) == "triangle"
    assert choose(LARGE, Clock({}), tmp_path) == "triangle"  # and is whole again


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("")
    assert choose(LARGE, Clock(), tmp_path / "file") == "triangle"


def test_kernels_that_fail_are_no_candidates(tmp_path):
    failing = {automatic: 0.04, plain: 0.06, fastest.KERNELS["fused"]: RuntimeError("no"), fastest.KERNELS["triangle"]: RuntimeError("no")}
    assert choose(LARGE, Clock(failing), tmp_path) == "rule"
    assert choose(LARGE, Clock(dict.fromkeys(SECONDS, RuntimeError("none"))), tmp_path / "other") == "rule"


def test_what_was_found_without_the_rule_or_beside_others_is_not_kept(tmp_path, monkeypatch):
    """A compiler that fails for a moment, or a busy machine, must not settle what every later run computes with."""
    assert choose(LARGE, Clock({**SECONDS, automatic: RuntimeError("a torn file")}), tmp_path) == "rule"
    monkeypatch.setattr(machine.Company, "leaves_room", lambda company: False)
    assert choose(LARGE, Clock(), tmp_path) == "rule"
    monkeypatch.undo()
    assert choose(LARGE, Clock(), tmp_path) == "triangle"


def test_the_rule_stays_where_nothing_is_clearly_quicker():
    assert best({"rule": 1.0, "fused": 0.96}) == "rule"
    assert best({"rule": 1.0, "fused": 0.94}) == "fused"
    assert best({"rule": 1.0}) == best({}) == "rule"


def test_small_shapes_and_those_who_ask_for_it_are_spared_the_trial(tmp_path, monkeypatch):
    nobody = Clock({})
    assert choose(Shape(CPU, torch.float32, 4, 2, 16, 16), nobody, tmp_path) == "rule"
    monkeypatch.setenv("DAYBREAK_MEASURE", "0")
    assert choose(LARGE, nobody, tmp_path) == "rule"
    assert not list(tmp_path.iterdir())


def test_the_clock_is_a_real_one(tmp_path):
    """Every candidate for a CPU computes forward and backward, dense and banded."""
    shape = Shape(CPU, torch.float32, 1, 2, 256, 16)
    for band in (None, 32):
        banded = replace(shape, band=band)
        taken, _ = fastest._race(banded, fastest._time, rounds=1)
        assert set(taken) == set(fastest.candidates(banded))
        assert min(taken.values()) > 0


@pytest.mark.parametrize("names", [("rule", "rule"), ("triangle", "blocked"), ("plain", "fused"), ("fused", "plain")])
@pytest.mark.parametrize(("T", "band", "dropout"), [(32, None, 0.0), (32, 8, 0.0), (20, 8, 0.0), (1, None, 0.0)])
def test_what_is_chosen_computes_the_same(names, T, band, dropout):
    torch.manual_seed(0)
    queries = torch.randn(2, 2, T, 8, dtype=torch.float64)
    keys, values = torch.randn(2, 2, 2, 32, 8, dtype=torch.float64)
    chosen = fastest.kernel(dict(zip(("dense", "banded"), names, strict=True)), 32)
    torch.testing.assert_close(chosen(queries, keys, values, dropout, band), plain(queries, keys, values, dropout, band))


def test_with_dropout_the_rule_holds(monkeypatch):
    seen = []
    monkeypatch.setattr(fastest, "automatic", lambda *given: seen.append(given[3]))
    q = torch.zeros(1, 1, 8, 8)
    fastest.kernel({"dense": "triangle", "banded": "blocked"}, 8)(q, q, q, 0.5, None)
    assert seen == [0.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("band", [None, 256])
def test_every_candidate_for_a_gpu_runs(band):
    shape = Shape(torch.device("cuda"), torch.bfloat16, 2, 4, 1024, 64, band)
    assert set(fastest._race(shape, fastest._time, rounds=1)[0]) == set(fastest.candidates(shape))
