"""The tables of docs/reproduce-gpt2.md and docs/reproduce-gpt3.md, from the published figures, the recipes and the planner.

    python benchmarks/reproduction_tables.py          writes them into the documents, between `<!-- table NAME -->` and `<!-- end -->`

tests/test_reproduction_docs.py fails where a document says something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from daybreak import devices, planning, recipes
from daybreak.evaluation import published
from daybreak.model.config import SIZES
from daybreak.model.flops import parameter_count

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENTS = (DOCS / "reproduce-gpt2.md", DOCS / "reproduce-gpt3.md")
ABSENT = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(model: str, task: str, protocol: str, metric: str) -> str:
    """The first published row, with its standard error."""
    row = next((row for row in published.rows(task, protocol, metric) if row.model == model), None)
    if row is None:
        return ABSENT
    digits = 4 if metric.startswith("acc") else 2
    value = f"{row.value:.{digits}f}" if metric != "val_loss" else f"{row.value:g}"
    return value if row.stderr is None else f"{value} ± {row.stderr:.{digits}f}"


def models(family: str) -> list[str]:
    """The names of a family's recipes, by size."""
    return [f"{family}.{size}" for size in SIZES[family]]


def figures_of(family: str, columns: dict[str, tuple[str, str, str]]) -> str:
    """Published figures: a row for each size, a column for each (task, protocol, metric)."""
    return table(["", *columns], ([model, *(figure(model, *wanted) for wanted in columns.values())] for model in models(family)))


def gpt2_hellaswag() -> str:
    """OpenAI's weights on HellaSwag, in both ways."""
    ways = [(f"`{name}` {metric}", ("hellaswag", name, metric)) for name in ("completion", "harness") for metric in ("acc", "acc_norm")]
    return figures_of("gpt2", dict(ways))


def gpt2_others() -> str:
    """The paper's LAMBADA and WikiText beside what others measured on the released weights."""
    return figures_of(
        "gpt2",
        {
            "LAMBADA acc, paper": ("lambada", "paper", "acc"),
            "LAMBADA acc, harness": ("lambada", "harness", "acc"),
            "LAMBADA perplexity, paper": ("lambada", "paper", "perplexity"),
            "LAMBADA perplexity, harness": ("lambada", "harness", "perplexity"),
            "WikiText-2, paper": ("wikitext2", "paper", "perplexity"),
            "WikiText-103, paper": ("wikitext103", "paper", "perplexity"),
            "WikiText-2 by words, harness": ("wikitext2", "harness", "word_perplexity"),
        },
    )


def gpt2_losses() -> str:
    """OpenAI's weights on the texts that reproductions train on."""
    texts = {"FineWeb": "fineweb", "FineWeb-Edu": "fineweb-edu", "OpenWebText": "openwebtext"}
    return figures_of("gpt2", {title: (name, "validation", "val_loss") for title, name in texts.items()})


def gpt3_figures() -> str:
    """The GPT-3 paper's zero-shot figures."""
    columns = {"HellaSwag acc": "hellaswag", "LAMBADA acc": "lambada", "StoryCloze acc": "storycloze"}
    wanted = {title: (task, "paper", "acc") for title, task in columns.items()}
    return figures_of("gpt3", {**wanted, "LAMBADA perplexity": ("lambada", "paper", "perplexity")})


def gpt2_curves() -> str:
    """Validation loss over tokens, from the logs of published runs."""
    rows = [
        [run.model, run.name, run.dataset, ", ".join(f"{point.val_loss:.4f} at {point.tokens / 1e9:.2f}B" for point in run.points)]
        for run in published.RUNS
        if len(run.points) > 1
    ]
    return table(["size", "run", "text", "validation loss at tokens"], rows)


def gpt2_runs() -> str:
    """Where published runs ended, and what they took."""
    rows = [
        [
            run.model,
            run.name + (f" ({run.differs})" if run.differs else ""),
            run.dataset,
            f"{run.last.tokens / 1e9:.1f}B",
            ABSENT if run.last.val_loss is None else f"{run.last.val_loss:.4g}",
            ABSENT if run.last.hellaswag is None else f"{run.last.hellaswag:.4g}",
            run.hardware or ABSENT,
            ABSENT if run.hours is None else f"{run.hours:.1f}",
            ABSENT if run.dollars is None else f"{run.dollars:,.0f}",
            run.source + (" (second-hand)" if run.secondary else ""),
        ]
        for run in published.RUNS
    ]
    return table(["size", "run", "text", "tokens", "loss", "HellaSwag acc_norm", "devices", "hours", "dollars", "source"], rows)


def planned(model: str, gpus: str) -> str:
    """Time and cost, or why there is none."""
    settings = recipes.recipe_settings(model)
    count, device = devices.parse(gpus)
    made = planning.plan(settings, planning.Fleet(count, device))
    if not made.fits:
        return "too small"
    if settings.train.batch_tokens // settings.model.context_length % count:
        return ABSENT
    hours = made.seconds / 3600
    return f"{f'{hours:.1f} h' if hours < 48 else f'{hours / 24:.1f} days'}, ${made.cost:,.0f}"


def plans(family: str, fleets: Sequence[str]) -> str:
    """What the planner says for each size."""
    return table(
        ["", *(f"`--gpus {gpus}`" for gpus in fleets)], ([model, *(planned(model, gpus) for gpus in fleets)] for model in models(family))
    )


def recipe(family: str) -> str:
    """The settings that differ between the sizes."""
    head = ["", "parameters", "n_layer", "n_head", "d_model", "context_length", "tokens a step", "growing over", "learning rate", "tokens"]
    rows = []
    for model in models(family):
        settings = recipes.recipe_settings(model)
        shape, train = settings.model, settings.train
        rows.append(
            [
                f"`{model}`",
                f"{parameter_count(shape):,}",
                *(str(value) for value in (shape.n_layer, shape.n_head, shape.d_model, shape.context_length)),
                f"{train.batch_tokens:,}",
                f"{train.batch_ramp_tokens / 1e9:.0f}B" if train.batch_ramp_tokens else ABSENT,
                f"{train.learning_rate:g}",
                f"{train.train_tokens / 1e9:.0f}B",
            ]
        )
    return table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "gpt2-recipe": lambda: recipe("gpt2"),
    "gpt2-plan": lambda: plans("gpt2", ("1xa100", "8xa100", "1xh100", "8xh100")),
    "gpt2-curves": gpt2_curves,
    "gpt2-runs": gpt2_runs,
    "gpt2-hellaswag": gpt2_hellaswag,
    "gpt2-others": gpt2_others,
    "gpt2-losses": gpt2_losses,
    "gpt3-recipe": lambda: recipe("gpt3"),
    "gpt3-plan": lambda: plans("gpt3", ("1xh100", "8xh100", "64xh100", "512xh100")),
    "gpt3-figures": gpt3_figures,
}

MARKED = re.compile(r"<!-- table ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def filled(text: str) -> str:
    """A document with every table between its marks as it should be."""
    return MARKED.sub(lambda found: f"<!-- table {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->", text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
