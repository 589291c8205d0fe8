"""Datasets on Hugging Face, with local files and libraries of the same interface in its place: each row once, whatever the line does."""

import sys
import types
from collections import Counter

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from daybreak.data import hub, pieces, reading
from daybreak.data.manifest import load_manifest
from daybreak.data.prepare import prepare
from daybreak.data.sources import SourceProblem, documents, read, units

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def texts(source, **options):
    return [document.text for document in documents([source], **options)]


def problem(source, **options):
    with pytest.raises(SourceProblem) as caught:
        texts(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


class Rows:
    """A streamed dataset of three shards."""

    n_shards = 3
    column_names = ("text", "id")
    info = types.SimpleNamespace(splits={"train": types.SimpleNamespace(num_bytes=300)})

    def __init__(self, rows, failing=False):
        self.rows, self.failing = rows, failing

    def shard(self, num_shards, index):
        return Rows(self.rows[index::num_shards], self.failing)

    def __iter__(self):
        yield from self.rows
        if self.failing:
            raise ConnectionError("the line\nwent dead")


class Line(LocalFileSystem):
    """A file system beyond a line that breaks: `break_after` so many reads, `times` times."""

    protocol = "line"
    cachable = False
    break_after = 0
    times = 0
    reads = 0

    def open(self, path, mode="rb", **options):
        file = super().open(path, mode, **options)
        plain = file.f.read

        def failing(*size):
            Line.reads += 1
            if Line.times and Line.reads > Line.break_after:
                Line.reads, Line.times = 0, Line.times - 1
                raise ConnectionResetError("the line\nwent dead")
            return plain(*size)

        return _Reading(file, failing)


class _Reading:
    def __init__(self, file, read):
        self._file, self.read = file, read

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


@pytest.fixture
def line():
    fsspec.register_implementation("line", Line, clobber=True)
    Line.reads = Line.times = 0
    yield Line
    Line.times = 0


def write_dataset(folder):
    """Two parquet files of 300 and 200 rows, which it returns."""
    folder.mkdir()
    rows = [f"row {number} " + "word " * 40 for number in range(500)]
    for name, part in (("a", rows[:300]), ("b", rows[300:])):
        table = pyarrow.table({"id": list(range(len(part))), "text": part})
        parquet.write_table(table, folder / f"{name}.parquet", row_group_size=60)
    return rows


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Those files, and an interface that says so."""
    rows = write_dataset(tmp_path / "hub")
    files = [f"line://{tmp_path}/hub/{name}.parquet" for name in "ab"]
    state = types.SimpleNamespace(asked=[], failing=False, files=files, rows=rows)

    def load_dataset_builder(name, config, *, revision):
        state.asked.append((name, config, revision))
        if name == "nobody/closed":
            raise ValueError("unknown config\nsecond line")
        files = {"train": state.files} if name == "some/parquet" else {"train": ["x.jsonl"]} if name == "some/set" else None
        return types.SimpleNamespace(config=types.SimpleNamespace(data_files=files))

    def load_dataset(name, config, *, split, streaming, revision):
        assert streaming
        state.asked.append((name, config, split, revision))
        return Rows([{"text": f"row {i}"} for i in range(6)] + [{"text": None}], state.failing)

    class HfApi:
        def dataset_info(self, name):
            if name == "nobody/nothing":
                raise ValueError("404\nnot found")
            return types.SimpleNamespace(sha="abc123")

    library = types.SimpleNamespace(load_dataset=load_dataset, load_dataset_builder=load_dataset_builder)
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    monkeypatch.setattr(hub, "PAUSE", 0.0)
    return state


def test_a_parquet_dataset_is_read_file_by_file_at_one_revision(dataset, line):
    found = units("hf:some/parquet:config")
    assert [(unit.kind, unit.path, unit.stamp, unit.name) for unit in found] == [
        ("hub", file, "abc123", f"hf:some/parquet:config: {name}.parquet") for file, name in zip(dataset.files, "ab", strict=True)
    ]
    assert all(unit.size > 1000 for unit in found)
    assert texts("hf:some/parquet:config") == dataset.rows
    assert set(dataset.asked) == {("some/parquet", "config", "abc123")}
    assert "it has id, text" in problem("hf:some/parquet", text_field="body")
    assert "wanted text in column 'id', came int64" in problem("hf:some/parquet", text_field="id")


def test_pieces_of_a_file_elsewhere_hold_each_row_once(dataset, line, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 700)
    cut = [piece for unit in units("hf:some/parquet") for piece in pieces.pieces(unit)]
    assert len(cut) > 4
    assert [document.text for piece in cut for document in read(piece, Counter())] == dataset.rows


@pytest.mark.parametrize("after", range(1, 40, 3))
def test_a_line_that_breaks_loses_and_repeats_no_row(dataset, line, after, monkeypatch):
    found = units("hf:some/parquet")
    line.break_after, line.times, line.reads = after, 20, 0
    monkeypatch.setattr(hub, "ATTEMPTS", 30)
    assert [document.text for unit in found for document in read(unit, Counter())] == dataset.rows


def test_a_line_that_stays_dead_is_told_and_what_is_done_is_kept(dataset, line, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "grouped", lambda units: [[unit] for unit in units])
    source, out = "hf:some/parquet", tmp_path / "data"
    options = {"tokenizer": "bytes", "workers": 1}
    for _ in prepare([source], tmp_path / "whole", **options):
        pass
    story = prepare([source], out, **options)
    while (progress := next(story)).stage != "read" or not progress.done:
        pass
    line.break_after, line.times, line.reads = 0, 1000, 0  # the first file is read
    with pytest.raises(SourceProblem, match=rf"b\.parquet: .*after {hub.ATTEMPTS} attempts \(the line went dead\).*kept"):
        list(story)
    line.times = 0
    assert (out / ".prepare" / "read" / "part-000000.json").exists()
    for _ in prepare([source], out, **options):
        pass
    assert load_manifest(out).fingerprint == load_manifest(tmp_path / "whole").fingerprint
    assert load_manifest(out).sources[0]["files"] == 2
    assert load_manifest(out).sources[0]["revision"] == "abc123"


def test_another_kind_of_dataset_is_one_unit_per_shard(dataset):
    found = units("hf:some/set:config")
    assert [(unit.kind, unit.shard, unit.shards, unit.size, unit.stamp) for unit in found] == [
        ("hf", i, 3, 100, "abc123") for i in range(3)
    ]
    skips = Counter()
    assert sorted(texts("hf:some/set:config:train", skips=skips)) == [f"row {i}" for i in range(6)]
    assert skips == {"no text field": 1}
    assert set(dataset.asked) == {("some/set", "config", "abc123"), ("some/set", "config", "train", "abc123")}


def test_what_the_hub_has_not_is_named(dataset):
    assert "404 not found" in problem("hf:nobody/nothing")
    assert "unknown config second line" in problem("hf:nobody/closed")
    assert "it has text, id" in problem("hf:some/set", text_field="body")
    assert "hf:NAME:CONFIG" in problem("hf:a:b:c:d")
    dataset.failing = True
    assert "reading stopped at row" in problem("hf:some/set")


def test_the_hub_without_its_library_says_what_to_install(monkeypatch, dataset):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'daybreak[hf]'" in problem("hf:some/set")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'daybreak[hf]'" in problem("hf:some/set")


def test_the_library_itself_names_the_files_of_a_dataset(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    rows = write_dataset(tmp_path / "hub")
    monkeypatch.setattr(hub, "_revision", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    assert [unit.kind for unit in units("hf:hub")] == ["hub", "hub"]
    assert texts("hf:hub") == rows
