"""Compilation is kept from run to run, and its time is told apart."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from daybreak import compiling, files


def test_what_is_compiled_lies_in_our_cache_unless_somebody_named_another(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compiling.keep()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(files.cache_folder() / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    compiling.keep()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def test_what_a_killed_compiler_left_half_written_is_taken_away(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    folder, library = tmp_path / "compiled", Path(torch._C.__file__).read_bytes()
    contents = {"whole.main.so": library, "empty.main.so": b"", "short.main.so": library[: len(library) // 2], "head.main.so": library[:50]}
    contents |= {"blank.main.so": bytes(5000), "other.main.so": b"another system's", "source.cpp": b"int main;", "nothing.cpp": b""}
    contents |= {"written.main.so": b""}
    for name, content in contents.items():
        files.write_bytes(folder / "ab" / name, content)
    files.write_bytes(folder / "locks" / "gone.lock", b"")
    with files.locked(folder / "locks" / "written.lock"):  # somebody compiles it now
        compiling.keep()
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"whole.main.so", "other.main.so", "source.cpp", "written.main.so", "gone.lock"}


def test_a_file_that_another_process_takes_away_meanwhile_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("DAYBREAK_CACHE", str(tmp_path))
    gone, written = (tmp_path / "compiled" / "ab" / name for name in ("gone.so", "written.so"))
    looks = []

    def is_torn(path):
        """As it looks at first; before the second look another process has mended both."""
        looks.append(path)
        if looks.count(path) == 1:
            return True
        if path == gone:
            gone.unlink()
        return bool(path.stat().st_size == 0)

    for path in (gone, written):
        files.write_bytes(path, b"by now a library")
    monkeypatch.setattr(compiling, "is_torn", is_torn)
    compiling.keep()
    assert looks.count(gone) == looks.count(written) == 2
    assert written.is_file()


def test_the_cache_of_somebody_else_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    files.write_bytes(tmp_path / "ab" / "empty.so", b"")
    compiling.keep()
    assert (tmp_path / "ab" / "empty.so").is_file()


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
