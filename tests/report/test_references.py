"""What others published, set beside a run only where that is fair, and the sentence about it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_run

from daybreak.cli.references import references
from daybreak.evaluation import published
from daybreak.report.curves import Curve
from daybreak.report.page import page
from daybreak.report.record import sources, summary
from daybreak.report.references import Reference, comparable, measured, sentence, text_of

SMALL = 124_439_808
LEVEL = Reference("GPT-2", "fineweb", "gpt2", SMALL, (), (3.42,), "a notebook")
LINE = Reference("llm.c", "fineweb", "gpt2", SMALL, (1e9, 4e9, 1e10), (4.0, 3.6, 3.3), "a log")


def curve(*points: tuple[float, float]) -> Curve:
    tokens, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    return Curve(tokens / 1e6, tokens, tokens / 1e5, values)


def manifest(source: str, tokenizer: str = "gpt2", size: int = 50257) -> dict[str, Any]:
    return {"sources": [{"source": source}], "tokenizer": {"name": tokenizer, "vocab_size": size}}


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (["hf:HuggingFaceFW/fineweb-edu:sample-10BT"], "fineweb-edu"),
        (["edu_fineweb10B"], "fineweb-edu"),
        (["fineweb"], "fineweb"),
        (["hf:Skylion007/openwebtext"], "openwebtext"),
        (["python:docs"], "python:docs"),
        (["my python:docs.txt"], None),
        (["fineweb", "wikitext-2"], None),
        (["diary.txt"], None),
        ([], None),
    ],
)
def test_a_text_is_known_by_its_name(named: list[str], text: str | None) -> None:
    assert text_of(named) == text


def test_only_what_is_alike_is_compared() -> None:
    other_size = dataclasses.replace(LINE, parameters=3.5e8)
    known = [LEVEL, LINE, other_size, dataclasses.replace(LINE, text="openwebtext")]
    data = manifest("hf:HuggingFaceFW/fineweb")
    assert comparable(known, data, sources(data), SMALL) == [LINE, LEVEL]
    assert comparable(known, data, sources(data), 1.3e8) == [LINE, LEVEL]
    assert comparable(known, data, sources(data), None) == []
    for unlike in (manifest("fineweb", "bpe", 4096), manifest("diary.txt")):
        assert comparable(known, unlike, sources(unlike), SMALL) == []
    assert comparable(known, None, [], SMALL) == []


def test_where_a_run_stands_in_words() -> None:
    halfway = math.exp((math.log(1e9) + math.log(4e9)) / 2)
    assert LINE.at(halfway) == pytest.approx(3.8)
    assert [LINE.at(5e8), LINE.at(1e11), LEVEL.at(1)] == [None, None, 3.42]
    assert (
        sentence(curve((1e8, 5.0), (halfway, 3.78)), [LINE])
        == "3.780 where the curve ends, 0.02 below the reference at this token count (llm.c on fineweb: 3.800)."
    )
    assert sentence(curve((1e9, 4.001)), [LINE]).startswith("4.001 where the curve ends, level with the reference at this token count")
    assert sentence(curve((1e9, 4.5)), [LEVEL]) == "4.500 where the curve ends, 1.08 above the reference (GPT-2 on fineweb: 3.420)."
    ended = "3.200 where the curve ends, 0.10 below where llm.c on fineweb ended, after 10.0 billion tokens."
    assert sentence(curve((3e10, 3.2)), [LINE]) == ended
    assert sentence(curve((1e6, 9.0)), [LINE]) == ""
    assert sentence(curve((1e9, 4.0)), []) == ""


def test_what_was_published_is_known_to_the_last_point() -> None:
    known = references()
    for run in published.RUNS:
        points = [point for point in run.points if point.val_loss is not None]
        same = [one for one in known if (one.name, one.source) == (run.name, run.source)]
        assert len(same) == bool(points)
        if points:
            assert list(zip(same[0].tokens, same[0].values, strict=True)) == [(point.tokens, point.val_loss) for point in points]
    levels = {(one.name, one.text): one.values[0] for one in known if one.is_level and one.quantity == "val_loss"}
    assert levels["OpenAI's gpt2.124m", "fineweb"] == 3.424958
    assert [one.values[0] for one in known if one.quantity == "hellaswag" and one.name.endswith("gpt2.124m")] == [0.2955]
    assert all(one.source for one in known)


def test_the_page_draws_and_tells_them() -> None:
    run = dataclasses.replace(made_run(steps=400, every=20), references=references())
    told = summary(run)
    assert [one.name for one in told.references if one.quantity == "val_loss"][-1] == "OpenAI's gpt2.124m"
    assert told.standing.replace("'", "&#x27;") in page([run])
    data = json.loads(page([run]).split('id="run-data">')[1].split("</script>")[0])
    assert {one["text"] for one in data["references"]} == {"fineweb-edu", "hellaswag"}
    other = dataclasses.replace(run, name="b", data=manifest("diary.txt"))
    assert json.loads(page([run, other]).split('id="run-data">')[1].split("</script>")[0])["references"] == []


def test_our_own_curves_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"curves": [{**dataclasses.asdict(LINE), "tokens": list(LINE.tokens), "values": list(LINE.values)}]}))
    assert measured(path) == [LINE]
    assert all(one.tokens and len(one.tokens) == len(one.values) for one in measured())
    for damaged in ("{", '{"curves": [{"name": "x"}]}', "[]"):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"references\.json: wanted reference curves"):
            measured(path)
