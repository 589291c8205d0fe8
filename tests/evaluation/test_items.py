"""The JSONL form that anyone can write: every field, and every way to get it wrong."""

import json
import re
from pathlib import Path

import pytest

from daybreak.evaluation.items import TaskProblem, behind, choice, completion, document, read_items


def lines(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_three_forms(tmp_path):
    kind, items = read_items(
        lines(
            tmp_path,
            {"context": "a", "endings": ["b", "cd"], "label": 1, "id": "x"},
            "",
            {"context": "", "endings": ["b", "c"], "label": "0"},
        )
    )
    assert kind == "choice"
    assert [(item.id, item.context, item.continuations, item.label, item.sizes) for item in items] == [
        ("x", "a", (" b", " cd"), 1, (1, 2)),
        ("1", "", ("b", "c"), 0, (1, 1)),
    ]
    assert read_items(lines(tmp_path, {"context": "The sun", "target": "rises"})) == ("completion", [completion("0", "The sun", "rises")])
    assert read_items(lines(tmp_path, {"text": "é b"})) == ("document", [document("0", "é b")])
    assert document("0", " a\nb ").sizes == (4, 5)  # as the harness counts: the empty words at both ends too
    assert document("0", "a @-@ b", "a-b").sizes == (3, 7)


@pytest.mark.parametrize(
    ("context", "text", "joined"), [("a", "b", " b"), ("a ", "b", "b"), ("a\n", "b", "b"), ("a", "\tb", "\tb"), ("", "b", "b")]
)
def test_the_space_between(context, text, joined):
    assert behind(context, text) == joined


def test_digests_tell_texts_apart_and_not_names():
    first = choice("1", "a", ["b", "c"], 0)
    assert first.digest == choice("2", "a", ["b", "c"], 0).digest
    others = [choice("1", "a", ["b", "c"], 1), choice("1", "a", ["b", "d"], 0), choice("1", "A", ["b", "c"], 0), completion("1", "a", "b")]
    assert len({item.digest for item in [first, *others]}) == 5
    assert re.fullmatch("[0-9a-f]{16}", first.digest)


GOOD = {"context": "a", "endings": ["b", "c"], "label": 0}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["mine.jsonl", "found no line"]),
        ([GOOD, "{'a': 1}"], ["mine.jsonl:2", "wanted a JSON object", "mend the line"]),
        ([GOOD, [1]], ["mine.jsonl:2", "came list"]),
        ([{"question": "a"}], ["mine.jsonl:1", "wanted context, endings and label", "came 'question'"]),
        ([{"context": "a", "ending": ["b", "c"], "label": 0}], ["mine.jsonl:1", "did you mean endings?"]),
        ([GOOD, {"text": "a"}], ["mine.jsonl:2", "as in the lines before", "came a document"]),
        ([{**GOOD, "label": 2}], ["mine.jsonl:1: label: wanted the number of the right ending, 0 to 1, came 2"]),
        ([{**GOOD, "label": True}], ["label: wanted", "came True"]),
        ([{**GOOD, "label": None}], ["label: wanted", "came None"]),
        ([{**GOOD, "endings": ["b"]}], ["endings: wanted a list of two or more texts, came ['b']"]),
        ([{**GOOD, "endings": ["b", ""]}], ["endings: wanted"]),
        ([{**GOOD, "endings": "b" * 100}], ["endings: wanted", "..."]),
        ([{**GOOD, "context": 5}], ["context: wanted text, came 5"]),
        ([{"context": "a", "target": ""}], ["target: wanted text with something in it"]),
        ([{"text": 1}], ["text: wanted text, came 1"]),
    ],
)
def test_wrong_files_are_told_in_one_line(tmp_path, rows, words):
    with pytest.raises(TaskProblem) as told:
        read_items(lines(tmp_path, *rows))
    assert "\n" not in str(told.value)
    assert all(word in str(told.value) for word in words), told.value


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TaskProblem, match="No such file"):
        read_items(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(TaskProblem, match="no UTF-8"):
        read_items(tmp_path / "latin.jsonl")
