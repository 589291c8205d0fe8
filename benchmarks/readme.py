"""Runs the commands of the README as a new user would, and checks what they promise. Part of `.ci/run`.

    python benchmarks/readme.py

`make demo` runs as it stands: it must end within eight minutes after the installation, in under 4 GB, at least 15 % below what
`xz -9` needs for the same validation text. The block for one's own text runs in a new folder, on this project's documentation and
with a shorter training.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import bar, record

HOME = Path(__file__).parents[1]
SHORTER = ["train.train_tokens=64K", "train.warmup_tokens=8K", "eval.every_tokens=32K"]


def main() -> int:
    """Runs both blocks; 1 if a command fails or a bar is missed, but for the time: a busy machine is no failure of the code."""
    blocks = re.findall(r"```sh\n(.*?)```", (HOME / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    demo = next(block for block in blocks if "make demo" in block)
    own_text = next(block for block in blocks if "data prepare my_folder/" in block)
    assert "make test" in demo, "the README's first block has both commands"
    bars, row = run_demo()
    run_own_text(own_text)
    record("readme", bars, [row])
    return 0 if all(row["ok"] for row in bars if not row["bar"].startswith("seconds")) else 1


def run_demo() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sets up, then runs the demo from nothing."""
    subprocess.run(["make", "setup"], cwd=HOME, check=True)
    for folder in ("data/demo", "runs/demo"):
        shutil.rmtree(HOME / folder, ignore_errors=True)
    started = time.monotonic()
    subprocess.run(["make", "demo"], cwd=HOME, check=True)
    seconds = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    events = [json.loads(line) for line in (HOME / "runs/demo/metrics.jsonl").read_text().splitlines()]
    end = events[-1]
    steps = [event for event in events if event["event"] == "step"]
    row = {
        "seconds_after_installation": round(seconds, 1),
        "seconds_of_training": round(steps[-1]["time"] - steps[0]["time"], 1),
        "peak_memory_gb": round(memory / 1e9, 2),
        "tokens": end["tokens"],
        "val_loss": end["val_loss"],
        "bits_per_byte": end["bits_per_byte"],
        **end["compressors"],
        "samples": [event["prompt"] + event["text"] for event in events if event["event"] == "sample"][-4:],
    }
    bars = [
        bar("seconds from the end of the installation to the report", seconds, "<= 480"),
        bar("peak memory in GB", memory / 1e9, "< 4"),
        bar("bits per byte as a share of xz -9", end["bits_per_byte"] / end["compressors"]["xz -9"], "<= 0.85"),
    ]
    return bars, row


def run_own_text(block: str) -> None:
    """Runs the commands for one's own text; each must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HOME / "docs", Path(folder) / "my_folder")
        for number, source in enumerate(sorted((HOME / "daybreak").rglob("*.py"))):
            shutil.copy(source, Path(folder) / "my_folder" / f"{number:03d}.txt")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        for line in block.strip().splitlines():
            command = line + (" " + " ".join(SHORTER) if line.startswith("daybreak train") else "")
            print(f"$ {command}", flush=True)
            if line.startswith("daybreak serve"):
                serve_and_stop(command, Path(folder), environment)
            else:
                subprocess.run(["bash", "-c", command], cwd=folder, check=True, env=environment)


def serve_and_stop(command: str, folder: Path, environment: dict[str, str]) -> None:
    """A server runs until it is told to stop: it must say where it is, and end well."""
    server = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    said = next((line for line in server.stderr if "http://" in line), "")
    print(said, end="", flush=True)
    server.terminate()
    server.communicate(timeout=60)
    assert said, f"wanted {command} to say where it serves"
    assert server.returncode == 0, f"wanted {command} to end with 0, came {server.returncode}"


if __name__ == "__main__":
    sys.exit(main())
