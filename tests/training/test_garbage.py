"""Garbage is collected where a run pauses, and Python's collector is left as it was found."""

from __future__ import annotations

import contextlib
import gc

import pytest

from daybreak.training import garbage


class Node:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self):
        self.me = self


@contextlib.contextmanager
def counted():
    """The collections that begin meanwhile."""
    found = []

    def note(phase, info):
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def test_nothing_is_collected_but_where_it_is_asked_for():
    with garbage.kept() as collect, counted() as found:
        for _ in range(50_000):
            Node()
        collect(False)
        assert found == []
        assert gc.get_freeze_count() > 0
        collect(True)
        assert found == [2]


def test_cycles_do_not_fill_the_memory_of_a_run_that_never_pauses(monkeypatch):
    monkeypatch.setattr(garbage, "_MOST", 1000)
    with garbage.kept() as collect, counted() as found:
        collect(False)
        assert found == []
        kept = [Node() for _ in range(2000)]
        collect(False)
        assert found == [2]
        assert len(kept) == 2000


@pytest.mark.parametrize("on", [True, False])
def test_afterwards_all_is_as_it_was_whatever_happened(on):
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with contextlib.suppress(KeyError), garbage.kept():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is on
        assert gc.get_freeze_count() == 0
    finally:
        (gc.enable if was else gc.disable)()
