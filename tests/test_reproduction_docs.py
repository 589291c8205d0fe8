"""The pages on reproducing GPT-2 and GPT-3 say what the published figures, the recipes and the planner say."""

import re

import pytest

from benchmarks.reproduction_tables import DOCUMENTS, MARKED, TABLES, figure, filled, table
from daybreak import config, recipes
from daybreak.evaluation import published

NAMES = [path.name for path in DOCUMENTS]


@pytest.fixture(params=DOCUMENTS, ids=NAMES)
def text(request):
    return request.param.read_text(encoding="utf-8")


def test_every_table_is_as_its_sources_have_it(text):
    for name, inside in MARKED.findall(text):
        assert inside.strip("\n") == TABLES[name](), f"{name}: mend it with `python benchmarks/reproduction_tables.py`"
    assert filled(text) == text


def test_every_table_is_shown_once():
    shown = [name for path in DOCUMENTS for name, _ in MARKED.findall(path.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(TABLES)


def test_figures_outside_the_tables_are_published_ones(text):
    prose = MARKED.sub("", text)
    known = {f"{row.value:g}" for row in published.ROWS} | {
        f"{point.val_loss:g}" for run in published.RUNS for point in run.points if point.val_loss
    }
    assert set(re.findall(r"\b[0-4]\.\d{3,}\b", prose)) <= known


def test_settings_that_are_named_are_there(text):
    settings = recipes.recipe_settings("gpt3.125m")
    for edit in re.findall(r"\b(?:data|model|train)\.\w+=[^\s`]+", text):
        config.edit(settings, [edit])
    for path in re.findall(r"`((?:data|model|train|machine)\.\w+)`", text):
        assert path in {row.path for row in config.describe(settings)}


def test_edits_that_are_named_together_make_a_run(text):
    for edits in re.findall(r"`((?:train\.\w+=\S+ )+train\.\w+=[^\s`]+)`", text):
        assert config.check(config.edit(recipes.recipe_settings("gpt3.125m"), edits.split())) == []


def test_a_changed_figure_would_be_noticed(text):
    name = MARKED.findall(text)[-1][0]
    assert filled(text.replace(TABLES[name](), TABLES[name]().replace("1", "7", 1))) == text


def test_tables_are_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert figure("gpt2.124m", "hellaswag", "completion", "acc_norm").startswith("0.2955 ± 0.0046")
    assert figure("gpt2.124m", "nothing", "completion", "acc_norm") == "–"
