"""The model card: what is known stands in it and nothing else; as Markdown it says what it says; `transformers` does not mind it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import made_events

from daybreak import config, files
from daybreak.cli.card import write_card
from daybreak.report import card, prose
from daybreak.report.page import page
from daybreak.report.prose import Code, Heading, Items, Paragraph, Rows
from daybreak.report.record import RunRecord, summary
from daybreak.settings import Settings

DATA = {
    "sources": [{"source": "/home/somebody/texts/novels.txt"}, {"source": "hf:wikitext"}],
    "documents": 1234,
    "duplicates": 5,
    "tokenizer": {"name": "bpe"},
    "train": {"tokens": 50_000_000, "text_bytes": 200_000_000},
    "val": {"tokens": 500_000, "text_bytes": 2_000_000},
    "fingerprint": "abc",
}
TASKS = {
    "event": "tasks",
    "step": 400,
    "tokens": 400 * 524_288,
    "tasks": {"hellaswag": {"protocol": "completion", "n": 1000, "metrics": {"acc_norm": {"value": 0.2955, "stderr": 0.0144, "n": 1000}}}},
}
PUBLISHED = [
    {
        "task": "hellaswag",
        "protocol": protocol,
        "metric": "acc_norm",
        "model": "gpt2.124m",
        "parameters": 124_439_808,
        "value": value,
        "stderr": 0.0045,
    }
    for protocol, value in (("completion", 0.2955), ("harness", 0.3114))
]


def record(*edits: str, end: bool = True, **changes: Any) -> RunRecord:
    events = made_events(end=end)
    at = len(events) - 1
    facts = {
        "parameters": 124_439_808,
        "flops_per_token": 855_000_000,
        "device": "an H100",
        "precision": "bf16",
        "devices": 8,
        "torch": "2.13",
    }
    made = RunRecord(
        "dawn", config.to_dict(config.edit(Settings(), edits)), [*events[:at], TASKS, *events[at:]], DATA, facts, published=PUBLISHED
    )
    return dataclasses.replace(made, **changes)


def text(*edits: str, transformers: bool = True, **changes: Any) -> str:
    return card.markdown(summary(record(*edits, **changes)), transformers=transformers)


def test_what_is_known_stands_in_it() -> None:
    told = text()
    for part in (
        "# dawn\n",
        "A language model with 124 million parameters, trained from scratch with daybreak on 210 million tokens of novels.txt and hf:",
        "| parameters | 124,439,808 |",
        "12 layers, 12 heads, 768 wide, 1,024 tokens of context, 50,257 ids",
        "| architecture | GPT-2's |",
        "| recipe | `gpt2.124m` |",
        "| documents | 1,234 |",
        "| exact copies left out | 5 |",
        "| passes over the text | 4.19 |",
        "8 x an H100, bf16",
        "| compute | 1.79 × 10¹⁷ FLOP",
        "| hellaswag | completion | acc\\_norm | 0.2955 ± 0.0144 | 1,000 | gpt2.124m 0.2955 ± 0.0045 |",
        "It has read its text 4.2 times over",
        "It was not examined for bias",
        'AutoModelForCausalLM.from_pretrained("MODEL_DIR")',
    ):
        assert part in told, part
    assert "0.3114" not in told  # another protocol's
    assert "/home/somebody" not in told


def test_the_licence_is_left_to_its_author_unless_set() -> None:
    assert text().startswith("---\n# license: for whoever publishes")
    assert text("card.license=apache-2.0", "card.language=en").startswith(
        '---\nlicense: "apache-2.0"\nlanguage: "en"\nlibrary_name: transformers\n'
    )
    front = text("card.license=a: b # [c]").split("---")[1]
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(front) == {
        "license": "a: b # [c]",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["daybreak", "gpt2"],
    }


def test_a_model_that_transformers_does_not_know() -> None:
    told = text("model.dropout=0.1", "model.attention_pattern=dense,banded", transformers=False)
    assert "GPT-2's but for `dropout=0.1`, `attention_pattern=dense,banded`" in told
    assert "library_name: daybreak" in told
    assert "read by daybreak only" in told
    assert "AutoModel" not in told


def test_a_run_of_which_little_is_known() -> None:
    told = card.markdown(summary(RunRecord("bare", {}, [], None, {})), transformers=False)
    assert "Nothing is recorded about the text" in told
    assert "It was not evaluated on tasks." in told
    assert "What it writes" not in told


def test_the_report_ends_with_the_cards_of_finished_runs() -> None:
    told = page([record()])
    assert '<section id="card"' in told
    assert "<details><summary>the card</summary>" in told
    assert "It was not examined for bias" in told
    assert '<section id="card"' not in page([record(end=False)])
    assert "the card of dawn" in page([record(), record(name="dusk")])


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@given(words, words)
def test_texts_change_nothing_around_them(source: str, sample: str) -> None:
    data = {**DATA, "sources": [{"source": f"x{source}"}]}
    events = [*made_events(steps=20), {"event": "sample", "step": 20, "tokens": 1, "prompt": "", "text": f"```{sample}\n# a heading\n````"}]
    told = summary(record(data=data, events=events))
    made = card.markdown(told, transformers=True)
    assert [line for line in made.splitlines() if line.startswith("## ")] == [
        line for line in text().splitlines() if line.startswith("## ")
    ]
    assert "<script" not in card.section([told]).lower().replace("&lt;script", "")


def test_blocks_as_markdown_and_html() -> None:
    told = [
        Heading("A & b"),
        Paragraph("One *two* `three_4` <five>."),
        Items(("six", "`7`")),
        Rows(("a", "b"), (("1|2", "_3_"),)),
        Code("x = '```'", "python"),
    ]
    assert prose.markdown(told) == (
        "## A & b\n\nOne \\*two\\* `three_4` \\<five\\>.\n\n- six\n- `7`\n\n| a | b |\n|---|---|\n| 1\\|2 | \\_3\\_ |\n\n"
        "````python\nx = '```'\n````\n"
    )
    made = prose.html(told)
    assert "<h3>A &amp; b</h3>" in made
    assert "One *two* <code>three_4</code> &lt;five&gt;." in made
    assert re.search(r'<th scope="row">1\|2</th><td>_3_</td>', made)


def test_the_card_lies_beside_the_model_and_is_in_nobodys_way(run_dir: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    before = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    written = write_card(run)
    assert written == run / "model" / "README.md"
    told = written.read_text(encoding="utf-8")
    assert "# run\n" in told
    assert "library_name: transformers" in told
    assert "_It was" not in told
    assert {path.name: path.read_bytes() for path in (run / "model").iterdir() if path.name != "README.md"} == before
    transformers = pytest.importorskip("transformers")
    assert transformers.AutoModelForCausalLM.from_pretrained(run / "model").config.n_layer == 2
    files.write_json(run / "model" / "config.json", {**files.read_json(run / "model" / "config.json"), "model_type": "daybreak"})
    write_card(run)
    assert "library_name: daybreak" in written.read_text(encoding="utf-8")
    (run / "model" / "config.json").unlink()
    assert write_card(run) is None
