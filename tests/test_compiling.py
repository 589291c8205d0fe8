"""Compilation is kept from run to run, and its time is told apart."""

from __future__ import annotations

import os
import time

import torch

from daybreak import compiling, files


def test_what_is_compiled_lies_in_our_cache_unless_somebody_named_another(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compiling.keep()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(files.cache_folder() / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    compiling.keep()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def slow(graph, inputs):
    """A compiler that takes its time and changes nothing."""
    time.sleep(0.2)
    return graph.forward


def test_the_stopwatch_counts_compiling_and_nothing_else():
    torch.compiler.reset()
    called = torch.compile(lambda x: x.sin() + 1, backend=slow, dynamic=False)
    with compiling.Stopwatch() as stopwatch:
        time.sleep(0.2)
        assert stopwatch.seconds == 0.0
        called(torch.zeros(3))
        once = stopwatch.seconds
        assert once >= 0.2
        called(torch.zeros(3))
        assert stopwatch.seconds == once
        called(torch.zeros(4))  # another shape
        assert stopwatch.seconds >= once + 0.2
    after = stopwatch.seconds
    torch.compiler.reset()
    called(torch.zeros(3))
    assert stopwatch.seconds == after


def test_a_stopwatch_that_is_off_counts_nothing():
    torch.compiler.reset()
    with compiling.Stopwatch(on=False) as stopwatch:
        torch.compile(lambda x: x.cos(), backend=slow)(torch.zeros(3))
    assert stopwatch.seconds == 0.0
