"""Sources: every kind read, every oddity counted, every damage named in one line."""

import gzip
import io
import json
import os
import pickle
import sys
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from daybreak.data import pieces
from daybreak.data.sources import SourceProblem, Unit, documents, read, units


def texts(*sources, **options):
    return [document.text for document in documents([str(source) for source in sources], **options)]


def problem(*sources, **options):
    with pytest.raises(SourceProblem) as caught:
        texts(*sources, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def packed(path, content):
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_and_jsonl_are_read_packed_or_not(tmp_path, suffix):
    book = packed(tmp_path / f"book.txt{suffix}", "One book.\r\nTwo lines, ü.\n".encode())
    web = packed(tmp_path / f"web.jsonl{suffix}", jsonl({"text": "a"}, {"text": "b\nc"}) + b"\n\n" + b'{"text": "no line end"}')
    assert texts(book, web) == ["One book.\r\nTwo lines, ü.\n", "a", "b\nc", "no line end"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_files_may_have_many_members(tmp_path, suffix):
    path = tmp_path / f"two.jsonl{suffix}"
    first, second = packed(path, jsonl({"text": "a"})).read_bytes(), packed(path, jsonl({"text": "b"})).read_bytes()
    path.write_bytes(first + second)
    assert texts(path) == ["a", "b"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["book.txt", "web.jsonl"])
def test_cut_or_damaged_packed_files_are_named(tmp_path, suffix, name):
    path = packed(tmp_path / f"{name}{suffix}", jsonl(*({"text": os.urandom(40).hex()} for _ in range(200))))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in problem(path)
    path.write_bytes(b"no such format" + whole)
    assert "damaged" in problem(path)
    assert str(path) in problem(path)


def test_a_byte_order_mark_goes_and_bad_bytes_are_repaired(tmp_path):
    skips = Counter()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (tmp_path / "b.txt").write_bytes(b"bad \xff byte")
    (tmp_path / "c.txt").write_text("wide", encoding="utf-16")
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "half \\ud83d"}\n{"text": "pair \\ud83d\\ude00"}\n\xff\n')
    assert texts(tmp_path, skips=skips) == ["marked", "bad � byte", "wide", "half �", "pair \U0001f600"]
    assert skips == {"repaired": 3, "bad JSON line": 1}


def test_what_is_left_out_is_counted(tmp_path):
    skips = Counter()
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n\t\n")
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": ""}, {"text": 3}, {"body": "x"}, [1], {"text": "kept"}) + b"{oops\n")
    (tmp_path / "data.txt").write_bytes(b"a\0b")
    (tmp_path / "picture.png").write_bytes(b"png")
    (tmp_path / ".hidden").write_bytes(b"hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.txt").write_bytes(b"hidden")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert texts(tmp_path, skips=skips) == ["kept"]
    assert skips == {"empty": 3, "bad JSON line": 1, "no text field": 3, "binary": 1, "not text": 1, "hidden": 2, "broken link": 1}


def test_a_folder_is_read_in_sorted_order_and_all_the_way_down(tmp_path):
    for name in ("b/2.txt", "b/1.md", "a.txt", "c/d/e.py", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["LICENSE", "a.txt", "b/1.md", "b/2.txt", "c/d/e.py"]
    found = units(str(tmp_path), outside=tmp_path / "b")
    assert [Path(unit.path).name for unit in found] == ["LICENSE", "a.txt", "e.py"]


def test_a_file_is_read_whatever_it_is_called(tmp_path):
    (tmp_path / "corpus.dat").write_text("text")
    assert texts(tmp_path / "corpus.dat") == ["text"]


def test_another_field_may_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl({"content": "x"}))
    assert texts(tmp_path / "a.jsonl", text_field="content") == ["x"]
    message = problem(tmp_path / "a.jsonl")
    assert "'text'" in message
    assert "content" in message
    assert "--text-field" in message


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"a\0b")
    assert "binary" in problem(tmp_path / "data.bin")
    (tmp_path / "prose.jsonl").write_text("once upon\na time\n")
    assert "no line of 2 is JSON" in problem(tmp_path / "prose.jsonl")
    (tmp_path / "list.json").write_text("[]")
    assert ".jsonl" in problem(tmp_path / "list.json")
    (tmp_path / "pictures").mkdir()
    assert "no file" in problem(tmp_path / "pictures")


def test_a_missing_path_suggests_its_neighbour(tmp_path):
    (tmp_path / "shakespeare.txt").write_text("x")
    assert "did you mean" in problem(tmp_path / "shakespear.txt")
    assert "shakespeare.txt?" in problem(tmp_path / "shakespear.txt")
    assert "found nothing there" in problem(tmp_path / "no" / "where")
    assert "python:docs" in problem("python:doc")
    assert "python:docs" in problem("python-docs")
    assert "hf:NAME" in problem("hf:")


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is readable to root")
def test_what_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("x")
    path.chmod(0)
    assert "permission" in problem(path).lower()


def test_a_failing_disk_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x")
    [unit] = units(str(path))
    path.unlink()
    with pytest.raises(SourceProblem, match="cannot be read"):
        list(read(unit, Counter()))


def test_standard_input_is_one_document(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("typed ü\n".encode())))
    assert texts("-") == ["typed ü\n"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\0")))
    assert "binary" in problem("-")


@given(lines=st.lists(st.text(max_size=20).filter(lambda text: text.strip()), max_size=30), cut=st.integers(1, 50))
def test_lines_survive_any_cut_of_the_bytes(tmp_path_factory, lines, cut):
    from daybreak.data.readers import _lines

    raw = b"\n".join(json.dumps(line).encode() for line in lines)
    pieces = [raw[i : i + cut] for i in range(0, len(raw), cut)]
    assert [json.loads(line) for line in _lines(pieces) if line] == lines


def test_units_travel_to_other_processes(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    [unit] = units(str(tmp_path / "a.txt"))
    assert unit.size == 1
    assert pickle.loads(pickle.dumps(unit)) == unit  # noqa: S301
    assert [document.name for document in read(unit, Counter())] == [str(tmp_path / "a.txt")]


# --- parquet ---


def test_parquet_is_read_by_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "", "two"], "id": [1, 2, 3, 4]}), path, row_group_size=2)
    skips = Counter()
    assert texts(path, skips=skips) == ["one", "two"]
    assert skips == {"no text field": 1, "empty": 1}
    assert "it has text, id" in problem(path, text_field="body")
    assert "int64" in problem(path, text_field="id")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "damaged" in problem(path)
    path.write_bytes(whole[:4] + bytes(len(whole) - 200) + whole[-196:])
    assert str(path) in problem(path)


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'daybreak[parquet]'" in problem(tmp_path / "a.parquet")


def test_zst_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "pip install zstandard" in problem(tmp_path / "a.txt.zst")


# --- large files in pieces ---


@settings(max_examples=60)
@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(str.strip), min_size=1, max_size=30),
    size=st.integers(1, 400),
    crlf=st.booleans(),
    closed=st.booleans(),
)
def test_the_pieces_of_a_file_hold_each_line_once(tmp_path_factory, lines, size, crlf, closed):
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    end = b"\r\n" if crlf else b"\n"
    path.write_bytes(end.join(json.dumps({"text": line}, ensure_ascii=False).encode() for line in lines) + end * closed)
    [unit] = units(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", size)
        cut = pieces.pieces(unit)
    assert sum(piece.size for piece in cut) == unit.size
    assert [document.text for piece in cut for document in read(piece, Counter())] == lines


def test_a_piece_without_the_field_is_no_mistake(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl({"text": "here"}, *({"other": 1} for _ in range(50))))
    monkeypatch.setattr(pieces, "PIECE_BYTES", 100)
    skips = Counter()
    [unit] = units(str(path))
    assert [document.text for piece in pieces.pieces(unit) for document in read(piece, skips)] == ["here"]
    assert skips == {"no text field": 50}
    path.write_bytes(jsonl(*({"other": 1} for _ in range(50)), {"text": "late"}))
    with pytest.raises(SourceProblem, match="--text-field"):
        list(read(pieces.pieces(units(str(path))[0])[0], Counter()))


def test_what_is_packed_or_one_document_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10)
    for name in ("a.jsonl.zst", "a.parquet.gz", "book.txt"):
        unit = Unit("text" if name.endswith("txt") else "jsonl", name, name, 1000)
        assert pieces.pieces(unit) == [unit]


def test_parquet_is_cut_at_its_row_groups(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = [f"row {number}" for number in range(100)]
    parquet.write_table(pyarrow.table({"text": rows}), path, row_group_size=7)
    [unit] = units(str(path))
    for size in (unit.size, unit.size // 4, unit.size // 40):
        monkeypatch.setattr(pieces, "PIECE_BYTES", size)
        cut = pieces.pieces(unit)
        assert len(cut) >= unit.size // size
        assert [document.text for piece in cut for document in read(piece, Counter())] == rows


def test_small_units_go_together_and_large_corpora_make_no_more_parts():
    def size(group):
        return sum(unit.size for unit in group)

    small = [Unit("text", f"{number}.txt", "", 1_000) for number in range(25_000)]
    groups = pieces.grouped(small)
    assert [unit.path.rpartition("/")[2] for group in groups for unit in group] == [unit.path for unit in small]
    assert max(map(len, groups)) <= pieces.MOST_UNITS
    assert max(map(size, groups)) <= 1_000_000
    large = [Unit("hub", f"hf://{number}.parquet", "", 2_000_000_000) for number in range(500)]
    groups = pieces.grouped(large)
    assert len(groups) <= 2 * pieces.MOST_PARTS
    assert sum(map(size, groups)) == 500 * 2_000_000_000


def test_real_text_in_shared_data_is_read():
    path = Path(__file__).parents[2].parent / "shared" / "data" / "tinyshakespeare"
    if not path.is_dir():
        pytest.skip("shared/data/tinyshakespeare is not beside the checkout")
    assert any("First Citizen" in text[:100] for text in texts(path))


def test_a_unit_says_what_it_is():
    assert Unit("text", "a", "a") == Unit("text", "a", "a")
