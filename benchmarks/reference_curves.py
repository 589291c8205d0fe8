"""Makes a finished run of ours a reference curve, which reports and the live page then draw behind runs like it.

    python benchmarks/reference_curves.py runs/demo --name "daybreak demo"

Writes daybreak/report/static/references.json; a curve of the same name is replaced. A run serves if its text is one that others can have
(daybreak/report/references.py lists them), and if it trained to its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from daybreak import files
from daybreak.cli.report import read_records
from daybreak.report.comparison import validation
from daybreak.report.record import sources, summary
from daybreak.report.references import MEASURED, Reference, measured, text_of, tokenizer_name

MOST_POINTS = 40


def reference(folder: Path, name: str) -> Reference:
    """The run's validation curve. Raises ValueError where it cannot be one for others."""
    [record] = read_records([folder])
    run, data = summary(record), record.data or {}
    text, tokenizer = text_of(sources(data)), tokenizer_name(data.get("tokenizer"))
    if text is None or tokenizer is None:
        raise ValueError(f"{folder}: wanted a text that is known by name, came {', '.join(sources(data)) or 'none'}")
    if run.state != "finished" or run.parameters is None:
        raise ValueError(f"{folder}: wanted a finished run, this one is {run.state}")
    curve = validation(run)
    stride = max(1, -(-len(curve) // MOST_POINTS))
    kept = sorted({*range(0, len(curve), stride), len(curve) - 1})
    values = tuple(round(value, 5) for value in curve.values[kept].tolist())
    made = f"benchmarks/reference_curves.py, one run on {run.device or 'an unnamed device'}"
    return Reference(name, text, tokenizer, int(run.parameters), tuple(int(x) for x in curve.tokens[kept].tolist()), values, made)


def main() -> None:
    """Adds one curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    wanted = parser.parse_args()
    made = reference(wanted.run, wanted.name)
    curves = [one for one in measured() if one.name != made.name] + [made]
    rows = ",\n".join(json.dumps(dataclasses.asdict(one)) for one in curves)
    files.write_text(MEASURED, f'{{"curves": [\n{rows}\n]}}\n')
    print(f"{made.name}: {len(made.tokens)} points on {made.text} with {made.tokenizer}, the last {made.values[-1]} -> {MEASURED}")


if __name__ == "__main__":
    main()
