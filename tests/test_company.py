"""Who else computes on the machine while something is timed."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from daybreak import machine


@pytest.mark.parametrize(("others", "room"), [(0.0, True), (0.2, True), (0.4, False), (1.0, False)])
def test_processors_that_others_take_leave_no_room(monkeypatch, others, room):
    """Two seconds on as many processors as there are threads, of which others take so many."""
    now = [100.0]
    monkeypatch.setattr(machine.os, "cpu_count", torch.get_num_threads)
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(machine, "time", clock)  # the module's alone: a server of other tests waits by the true one in a thread of its own
    monkeypatch.setattr(machine, "_others_seconds", lambda: 50.0 + others * (now[0] - 100.0))
    company = machine.Company()
    now[0] += 0.05
    assert company.leaves_room()  # too short to tell
    now[0] += 2.0
    assert company.leaves_room() is room


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in this way what processors do")
def test_this_process_is_no_company_to_itself():
    """What it takes itself does not count: a spin of half a second adds little to what others are said to have taken."""
    before, began, spun = machine._others_seconds(), time.monotonic(), time.process_time() + 0.5
    while time.process_time() < spun:
        pass
    others, took = machine._others_seconds() - before, time.monotonic() - began
    assert before > 0
    assert -0.2 <= others <= os.cpu_count() * took - 0.5 + 0.2
