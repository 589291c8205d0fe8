"""The model card of a finished run, written beside its weights."""

from __future__ import annotations

from pathlib import Path


def write_card(folder: Path) -> Path | None:
    """Writes RUN_DIR/model/README.md from what the run recorded; None where there is no model."""
    from daybreak import files
    from daybreak.cli.report import read_records
    from daybreak.report.card import markdown
    from daybreak.report.record import summary

    described = folder / "model" / "config.json"
    if not described.is_file():
        return None
    (record,) = read_records([folder])
    opens = files.read_json(described).get("model_type") == "gpt2"
    card = folder / "model" / "README.md"
    files.write_text(card, markdown(summary(record), transformers=opens))
    return card
