"""What each protocol puts before a model, from items in the official files' own form."""

import pytest
from evaluation.tasks import HELLASWAG, write_lines

from daybreak.evaluation.items import TaskProblem, document
from daybreak.evaluation.protocols import PROTOCOLS, articles, detokenised


def read(name, path):
    return PROTOCOLS[name].read(path)


def test_hellaswag_as_build_nanogpt_reads_it(tmp_path):
    items, form = read("hellaswag", write_lines(tmp_path / "h.jsonl", HELLASWAG))
    assert form == ""
    assert [item.id for item in items] == ["24", "3510"]
    assert items[0].context == "A man is sitting on a roof. he"
    assert items[0].continuations[1] == " is ripping level tiles off."
    assert (items[0].label, items[1].label) == (3, 0)
    assert items[1].context == HELLASWAG[1]["ctx"]
    assert items[1].continuations == (" [substeps] of rents.", " a plan [title] Ask others.", " nothing", "  it down")


def test_hellaswag_as_the_harness_reads_it(tmp_path):
    items, form = read("hellaswag:harness", write_lines(tmp_path / "h.jsonl", HELLASWAG))
    assert form == ""
    assert items[0].context == "Roof shingle removal: A man is sitting on a roof. He"
    assert items[0].continuations[0] == " is using wrap to wrap a pair of skis."
    assert items[0].sizes == tuple(len(ending) for ending in HELLASWAG[0]["endings"])
    # Brackets go, double spaces become one in a single pass, only [title] becomes a full stop, the rest of ctx_b becomes small.
    assert items[1].context == "Finance and Business: How to make a cafe. Choose a place. Look around Then write"
    assert items[1].continuations == ("  of rents.", " a plan. Ask others.", " nothing", " it down")
    assert items[1].sizes == (10, 19, 7, 7)


def test_the_cleaned_form_is_taken_and_told(tmp_path):
    row = {"ind": 0, "activity_label": "Canoeing", "ctx": "Two women. the man", "endings": ["a", "b"], "label": 1, "preprocessed": True}
    path = write_lines(tmp_path / "h.jsonl", [row])
    (item,), form = read("hellaswag", path)
    assert (item.context, form) == ("Two women. the man", "not the official file: its text was cleaned before")
    (item,), form = read("hellaswag:harness", path)
    assert item.context == "Canoeing: Two women. the man"
    assert "begins with a small letter" in form


def test_lambada(tmp_path):
    rows = [{"text": "It was the  end of\nthe day"}, {"context": "It was the", "continuation": "end"}, {"text": "alone"}]
    items, form = read("lambada", write_lines(tmp_path / "l.jsonl", rows))
    assert form == ""
    assert [(item.context, item.continuations) for item in items] == [
        ("It was the  end of\nthe", (" day",)),
        ("It was the", (" end",)),
        ("", (" alone",)),
    ]


PAGE = (
    " \n = Robert Boulter = \n \n Robert Boulter is an English film , television ( and ) actor . \n\n"
    ' = = Career = = \n \n He had " a role " in 2 @,@ 000 . \n'
)


def test_wikitext(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(PAGE + " = Second = \n x \n", encoding="utf-8")
    items, form = read("wikitext", path)
    assert form == ""
    first, second = articles(path.read_text())
    assert first.startswith(" = Robert")
    assert second == " = Second = \n x \n"
    assert items[0].continuations == (detokenised(first),)
    assert items[0].sizes == (len(first.split()) + 2, len(first.encode()))  # the empty words before and behind, as the harness has them
    path.write_text(PAGE.replace("Boulter", "<unk>"), encoding="utf-8")
    assert "tokenised form" in read("wikitext", path)[1]


SIGNS = " He had ( a ) role , in 2 @,@ 000 @-@ 1 ; \" so \" : at 5 ° C \n it [ is ] Boulter 's N ! { x } s ' N end"


def test_detokenising():
    assert detokenised(SIGNS) == " He had (a) role, in 2,000-1; \"so\": at 5°C\nit [is] Boulter's N! {x} s' 1 end"


def test_the_harness_reads_the_same(tmp_path):
    """Its own functions, where it is installed."""
    wikitext = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext", reason="lm-eval is not installed")
    hellaswag = pytest.importorskip("lm_eval.tasks.hellaswag.utils", reason="lm-eval is not installed")
    for page in (SIGNS, *articles(PAGE)):
        assert detokenised(page) == wikitext.wikitext_detokenizer({"page": page})
        counted = wikitext.process_results({"page": page}, [0.0])
        assert document("", page).sizes == (counted["word_perplexity"][1], counted["bits_per_byte"][1])

    class Rows(list):  # type: ignore[type-arg]
        def map(self, function):
            return [function(row) for row in self]

    items, _ = read("hellaswag:harness", write_lines(tmp_path / "h.jsonl", HELLASWAG))
    for item, row in zip(items, hellaswag.process_docs(Rows(HELLASWAG)), strict=True):
        assert (item.context, list(item.continuations), item.label) == (row["query"], [f" {text}" for text in row["choices"]], row["gold"])
        assert list(item.sizes) == [len(text) for text in row["choices"]]


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("hellaswag", {"ctx": "a", "endings": ["b", "c"]}, ["h.jsonl:2: label: wanted the number of the right ending"]),
        ("hellaswag", {"endings": ["b", "c"], "label": 0}, ["h.jsonl:2: ctx: wanted text, came nothing"]),
        ("hellaswag:harness", {**HELLASWAG[0], "activity_label": None}, ["h.jsonl:2: activity_label: wanted text, came None"]),
        ("hellaswag:harness", {"activity_label": "a", "ctx": "a b", "endings": ["b", "c"], "label": 0}, ["h.jsonl:2: ctx_a"]),
        ("lambada", {"context": "a"}, ["h.jsonl:2: continuation: wanted text, came nothing"]),
    ],
)
def test_wrong_rows(tmp_path, name, row, words):
    good = HELLASWAG[0] if name.startswith("hellaswag") else {"text": "a b"}
    with pytest.raises(TaskProblem) as told:
        read(name, write_lines(tmp_path / "h.jsonl", [good, row]))
    assert all(word in str(told.value) for word in words), told.value
