"""The texts of a parquet file: one column, row group by row group, in little memory, from wherever the file can be opened.

Legend: a piece is the share `unit.shard` of `unit.shards` of the file's row groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from daybreak.data.documents import SourceProblem, Unit

BUFFER_BYTES = 4_000_000
"""Read from a column at once: a row group of gigabytes costs no more memory than a small one."""
BATCH_ROWS = 256
"""Turned into Python's strings at once."""


def texts(file: Any, unit: Unit, start: int = 0) -> Iterator[str | None]:
    """The text column of a piece from row `start` of the piece, a row's without text as None. `file`: a path, or an open file.

    Raises SourceProblem if there is no such column or no text in it, and whatever pyarrow or the file raise.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER_BYTES) as opened:
        schema = opened.schema_arrow
        if unit.text_field not in schema.names:
            raise SourceProblem(no_column(unit, schema.names))
        groups = opened.num_row_groups
        row = 0
        for group in range(groups * unit.shard // unit.shards, groups * (unit.shard + 1) // unit.shards):
            rows = opened.metadata.row_group(group).num_rows
            if row + rows > start:
                skipped = max(0, start - row)
                for batch in opened.iter_batches(BATCH_ROWS, row_groups=[group], columns=[unit.text_field]):
                    for text in batch.column(0)[skipped:].to_pylist():
                        if not isinstance(text, str | None):
                            kind = schema.field(unit.text_field).type
                            raise SourceProblem(
                                f"{unit.name}: wanted text in column {unit.text_field!r}, came {kind}; choose another with --text-field"
                            )
                        yield text
                    skipped = max(0, skipped - len(batch))
            row += rows


def no_column(unit: Unit, names: list[str]) -> str:
    """What to say if the column that should hold the text is not there."""
    return f"{unit.name}: wanted a column {unit.text_field!r}, it has {', '.join(names) or 'none'}; choose one with --text-field"
