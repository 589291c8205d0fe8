"""The long proofs that a run cannot be lost: killed, damaged, out of space, or handed something evil.

    python benchmarks/faults.py [--note "what else the machine was doing"]      all of it, half an hour on two cores
    python benchmarks/faults.py --quick                                         a taste of each; writes no results

1. kill -9      100 times, at random moments of training (alone, and in two processes under torchrun) and of preparing data. Every run
                goes on until it ends, with the weights, moments, losses and files of the one that nobody disturbed, bit for bit.
2. damage       1,000 single bits flipped and 200 files cut, in checkpoints of one process and of two, and in data. All are named.
3. full disks   20 times, in four ways. The run fails by name, its checkpoints verify, and with space it ends bit for bit the same.
4. pickles      in the place of every file that is read. None runs, all are rejected by name.

The same seed draws the same moments; what a process is doing then depends on the machine. Linux only: processes are looked for in
/proc. All files are in a temporary folder and gone afterwards, unless a proof fails. What saving costs is measured by checkpoints.py.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fault_damage import Found, damage_checkpoints, damage_data, plant
from fault_disk import Full, fill_disks
from fault_kills import Tally, kill_preparing, kill_training
from fault_runs import prepare_text
from record import bar, record

Row = dict[str, Any]
FULL = {"alone": 76, "ddp": 5, "fsdp": 5, "prepare": 14, "flips": (350, 350, 300), "cuts": (70, 70, 60), "disks": 20, "steps": 240}
QUICK = {"alone": 2, "ddp": 0, "fsdp": 0, "prepare": 2, "flips": (60, 60, 60), "cuts": (20, 20, 20), "disks": 4, "steps": 40}


def prove(folder: Path, size: dict[str, Any], seed: int) -> tuple[list[Row], list[Row], list[str]]:
    """Everything; the bars, the rows, and all that is wrong in words."""

    def draw(proof: str) -> random.Random:
        return random.Random(f"{seed}:{proof}")

    data = prepare_text(folder)
    large = 1 if size is FULL else 3  # less text and fewer steps for a taste
    kills: list[Tally] = [
        _timed("preparing", kill_preparing, folder / "preparing", size["prepare"], draw("preparing"), size=12_000_000 // large, per_run=4)
    ]
    for layout, per_run in ((None, 8), ("ddp", 3), ("fsdp", 3)):
        name = layout or "alone"
        if name == "ddp" and not size[name]:
            continue  # of fsdp the undisturbed run is needed, for its checkpoints
        steps = size["steps"] if layout is None else max(40, size["steps"] // 2)
        there = folder / name
        kills.append(_timed(name, kill_training, there, data, size[name], draw(name), steps=steps, layout=layout, per_run=per_run))
    found: list[Found] = [
        _timed("damage", damage_checkpoints, folder / run / "straight", kind, flips, cuts, draw(kind))
        for run, kind, flips, cuts in (
            ("alone", "checkpoints of one process", size["flips"][0], size["cuts"][0]),
            ("fsdp", "checkpoints of two processes", size["flips"][1], size["cuts"][1]),
        )
    ]
    found.append(_timed("damage", damage_data, data, size["flips"][2], size["cuts"][2], draw("data")))
    full: Full = _timed("full disks", fill_disks, folder / "disks", data, size["disks"], draw("disks"))
    planted, evil = plant(folder / "alone" / "straight", data, folder / "mark")
    wrong = [problem for tally in kills for problem in tally.wrong] + [problem for one in found for problem in one.undetected]
    bars = [
        bar("kills with SIGKILL at random moments", sum(tally.kills for tally in kills), f">= {100 if size is FULL else 4}"),
        bar("of them followed by an end that is not that of the undisturbed run, bit for bit", sum(len(t.wrong) for t in kills), "<= 0"),
        bar("single bits flipped", sum(one.flips for one in found), f">= {sum(size['flips'])}"),
        bar("files cut", sum(one.truncations for one in found), f">= {sum(size['cuts'])}"),
        bar("of both not detected, or not by name", sum(len(one.undetected) for one in found), "<= 0"),
        bar("saves on a full disk", full.times, f">= {size['disks']}"),
        bar("of them with something lost, or not told by name", len(full.wrong), "<= 0"),
        bar("pickles in the place of files", planted, ">= 40"),
        bar("of them run, or not rejected by name", len(evil), "<= 0"),
    ]
    rows = [*map(_killed, kills), *map(_damaged, found), _filled(full), {"proof": "pickles", "times": planted, "wrong": evil}]
    return bars, rows, [*wrong, *full.wrong, *evil]


def _timed(name: str, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    started = time.monotonic()
    answer = work(*arguments, **named)
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return answer


def _killed(tally: Tally) -> Row:
    row = {"proof": f"kill -9: {tally.kind}", "times": tally.kills, "runs": tally.runs, "during": dict(tally.during.most_common())}
    return {**row, "steps_taken_again": tally.lost_steps, "seconds": round(tally.seconds, 1), "wrong": tally.wrong}


def _damaged(found: Found) -> Row:
    row = {"proof": f"damage: {found.kind}", "times": found.tried, "flips": found.flips, "truncations": found.truncations}
    told = {"noticed_at_start": dict(found.at_start), "noticed_only_by_verify": dict(found.only_by_verify)}
    return {**row, "detected": found.detected, **told, "wrong": found.undetected}


def _filled(full: Full) -> Row:
    disk = "a file system of its own" if full.mounted else "limits on the size of files alone"
    told = {"ways": dict(full.ways), "said": dict(full.said), "steps_taken_again": full.lost_steps}
    return {"proof": "full disks", "times": full.times, "disk": disk, **told, "wrong": full.wrong}


def table(rows: Sequence[Row]) -> str:
    """The rows for people, in Markdown."""
    lines = ["| proof | times | wrong | of these |", "|---|---|---|---|"]
    for row in rows:
        told = row.get("during") or row.get("ways") or {}
        if "detected" in row:
            told = {"noticed when opened": sum(row["noticed_at_start"].values())}
            told |= {"only by verifying": sum(row["noticed_only_by_verify"].values())}
        parts = "; ".join(f"{times} {what}" for what, times in told.items())
        lines.append(f"| {row['proof']} | {row['times']} | {len(row['wrong'])} | {parts} |")
    return "\n".join(lines)


def main() -> int:
    """Proves; 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a taste of each, without results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    folder, started = Path(tempfile.mkdtemp()), time.monotonic()
    bars, rows, wrong = prove(folder, QUICK if asked.quick else FULL, asked.seed)
    about = {"seed": asked.seed, "seconds": round(time.monotonic() - started), "load": os.getloadavg()[2], "cores": os.cpu_count()}
    if asked.quick:
        for row in bars:
            print(f"{'met   ' if row['ok'] else 'MISSED'}  {row['bar']}: {row['value']} (wanted {row['want']})")
    else:
        record("faults", bars, [*rows, {**about, "note": asked.note}])
    print(f"\n{table(rows)}\n\n{about['seconds']} s")
    for problem in wrong:
        print(f"wrong: {problem}")
    if wrong:
        print(f"the files are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(not all(row["ok"] for row in bars))


if __name__ == "__main__":
    sys.exit(main())
