"""What runs are set beside: what others published, and what we measured ourselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daybreak.report.references import Reference


def references() -> list[Reference]:
    """All reference curves and levels."""
    from daybreak.evaluation import published
    from daybreak.model.config import SIZES
    from daybreak.model.flops import parameter_count
    from daybreak.report.references import Reference, measured

    def size(model: str) -> int:
        family, _, name = model.partition(".")
        return parameter_count(SIZES[family][name])

    found = measured()
    for run in published.RUNS:
        points = [point for point in run.points if point.val_loss is not None]
        if points:
            found.append(
                Reference(
                    run.name,
                    run.dataset,
                    "gpt2",
                    size(run.model),
                    tuple(point.tokens for point in points),
                    tuple(point.val_loss for point in points if point.val_loss is not None),
                    run.source,
                    differs=run.differs,
                )
            )
    for row in published.ROWS:
        if row.metric == "val_loss" and row.protocol == "validation":
            found.append(Reference(f"OpenAI's {row.model}", row.task, "gpt2", row.parameters, (), (row.value,), row.source))
    accuracies = {row.model: row for row in reversed(published.rows("hellaswag", "completion", "acc_norm"))}  # the first of each counts
    for model, row in accuracies.items():
        found.append(
            Reference(f"OpenAI's {model}", "hellaswag", "gpt2", row.parameters, (), (row.value,), row.source, quantity="hellaswag")
        )
    return found
