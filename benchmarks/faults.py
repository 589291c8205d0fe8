"""The long proofs that a run cannot be lost: killed, damaged, out of space, or handed something evil.

    python benchmarks/faults.py [--note "what else the machine was doing"]      all of it, half an hour on two cores
    python benchmarks/faults.py --quick                                         a taste of each; writes no results

1. kill -9      100 times, at random moments of training (alone, and in two processes under torchrun) and of preparing data. Every run
                goes on until it ends, with the weights, moments, losses and files of the one that nobody disturbed, bit for bit.
2. damage       1,000 single bits flipped and 200 files cut, in checkpoints of one process and of two, and in data. All are named.
3. full disks   20 times, in five ways. The run fails by name, its checkpoints verify, and with space it ends bit for bit the same.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_damage import Found, damage_checkpoints, damage_data, plant
from fault_disk import Full, fill_disks
from fault_kills import Tally, kill_preparing, kill_training, together
from fault_runs import prepare_text
from record import bar, record

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much of it."""

    alone: tuple[int, ...] = (38, 38)
    """Kills of a process that trains alone, in so many lanes."""
    fsdp: int = 5
    ddp: int = 5
    preparing: int = 14
    steps: int = 160
    text_bytes: int = 12_000_000
    flips: tuple[int, int, int] = (350, 350, 300)
    """In checkpoints of one process, of two, and in data."""
    cuts: tuple[int, int, int] = (70, 70, 60)
    disks: int = 20

    @property
    def kills(self) -> int:
        return sum(self.alone) + self.fsdp + self.ddp + self.preparing


QUICK = Size(alone=(2,), fsdp=0, ddp=0, preparing=2, steps=40, text_bytes=4_000_000, flips=(60, 60, 60), cuts=(20, 20, 20), disks=5)


def prove(folder: Path, size: Size, seed: int) -> tuple[list[Row], list[Row], list[str]]:
    """Everything; the bars, the rows, and all that is wrong in words."""

    def draw(proof: str) -> random.Random:
        return random.Random(f"{seed}:{proof}")

    data = prepare_text(folder)
    tallies = kill(folder, data, size, draw)
    found: list[Found] = [
        _timed("damage", damage_checkpoints, folder / run / "straight", kind, flips, cuts, draw(kind))
        for run, kind, flips, cuts in (
            ("alone-0", "checkpoints of one process", size.flips[0], size.cuts[0]),
            ("fsdp", "checkpoints of two processes", size.flips[1], size.cuts[1]),
        )
    ]
    found.append(_timed("damage", damage_data, data, size.flips[2], size.cuts[2], draw("data")))
    full: Full = _timed("full disks", fill_disks, folder / "disks", data, size.disks, draw("disks"))
    planted, evil = plant(folder / "alone-0" / "straight", data, folder / "mark")
    wrong = [problem for tally in tallies for problem in tally.wrong] + [problem for one in found for problem in one.undetected]
    bars = [
        bar("kills with SIGKILL at random moments", sum(tally.kills for tally in tallies), f">= {size.kills}"),
        bar("of them with an end that differs from the undisturbed run's by a bit", sum(len(tally.wrong) for tally in tallies), "<= 0"),
        bar("single bits flipped", sum(one.flips for one in found), f">= {sum(size.flips)}"),
        bar("files cut", sum(one.truncations for one in found), f">= {sum(size.cuts)}"),
        bar("of both not detected, or not by name", sum(len(one.undetected) for one in found), "<= 0"),
        bar("saves on a full disk", full.times, f">= {size.disks}"),
        bar("of them with something lost, or not told by name", len(full.wrong), "<= 0"),
        bar("pickles in the place of files", planted, ">= 40"),
        bar("of them run, or not rejected by name", len(evil), "<= 0"),
    ]
    rows = [*map(_killed, tallies), *map(_damaged, found), _filled(full), {"proof": "pickles", "times": planted, "wrong": evil}]
    return bars, rows, [*wrong, *full.wrong, *evil]


def kill(folder: Path, data: Path, size: Size, draw: Callable[[str], random.Random]) -> list[Tally]:
    """All the kills, two processes at a time."""
    train: list[tuple[str, int, int, str | None]]
    train = [(f"alone-{lane}", kills, size.steps, None) for lane, kills in enumerate(size.alone)]
    train += [("fsdp", size.fsdp, 40, "fsdp")]  # without kills its undisturbed run is needed all the same, for its checkpoints
    train += [("ddp", size.ddp, 40, "ddp")] if size.ddp else []
    lanes = []
    with ThreadPoolExecutor(2) as pool:  # threads that wait for processes
        for name, kills, steps, layout in train:
            how = {"steps": steps, "layout": layout, "per_run": 8 if layout is None else 3}
            lanes.append(pool.submit(_timed, name, kill_training, folder / name, data, kills, draw(name), **how))
        how = {"size": size.text_bytes, "per_run": 4}
        lanes.append(pool.submit(_timed, "preparing", kill_preparing, folder / "preparing", size.preparing, draw("preparing"), **how))
    return together([lane.result() for lane in lanes])


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
    bars, rows, wrong = prove(folder, QUICK if asked.quick else Size(), asked.seed)
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
