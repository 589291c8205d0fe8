"""How long a person waits before anything happens: `import daybreak`, `daybreak --help` and the largest plan, each in fresh processes.

python benchmarks/startup.py
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time

from record import bar, record

ROUNDS = 9
PLAN = ("plan", "gpt3.175b", "--gpus", "1024xa100")


def import_seconds() -> float:
    """What `python -X importtime` says of `import daybreak`, all its imports included."""
    command = [sys.executable, "-X", "importtime", "-c", "import daybreak, sys; assert 'torch' not in sys.modules"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return int(re.findall(r"\|\s+(\d+) \| daybreak$", told, re.MULTILINE)[-1]) / 1e6


def command_seconds(*words: str) -> float:
    """Wall-clock time of a `daybreak` command, Python's own start included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "daybreak", *words], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measures them in turns and records the medians."""
    rows = [
        {"import_seconds": import_seconds(), "help_seconds": command_seconds("--help"), "plan_seconds": command_seconds(*PLAN)}
        for _ in range(ROUNDS)
    ]
    record(
        "startup",
        [
            bar("seconds of `import daybreak`, without torch", statistics.median(row["import_seconds"] for row in rows), "< 0.15"),
            bar("seconds of `daybreak --help`", statistics.median(row["help_seconds"] for row in rows), "< 0.5"),
            bar(f"seconds of `daybreak {' '.join(PLAN)}`", statistics.median(row["plan_seconds"] for row in rows), "< 2.0"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
