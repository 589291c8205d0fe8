"""The Slurm script, with stand-ins for Slurm's commands: every task becomes a rank, and the words of the command line arrive."""

import os
import re
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "docs" / "train.sbatch"

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1 2 3; do SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) "$@"; done
"""
PYTHON = """#!/bin/bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT $DAYBREAK_REQUEUE"
printf '[%s]' "$@"; echo
"""
SCONTROL = """#!/bin/bash
[[ "$*" == "show hostnames n[7-8]" ]] && for number in {7..8}; do echo n$number; sleep 0.1; done
"""


def test_every_task_becomes_a_rank(tmp_path):
    for name, text in {"srun": SRUN, "python": PYTHON, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "40017", "SLURM_JOB_NODELIST": "n[7-8]", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["gpt2.124m", "--out", "runs/a run", "sample.prompts=The sun,A model"]
    done = subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    said = "[-m][daybreak][train]" + "".join(f"[{word}]" for word in words)
    assert done.stdout.splitlines() == [line for rank in range(4) for line in (f"{rank} {rank % 2} 4 2 n7 20017 1", said)]


def test_it_asks_slurm_for_the_signal_that_the_run_listens_to():
    asked = re.findall(r"^#SBATCH (--\S+)", SCRIPT.read_text(), re.MULTILINE)
    assert {"--signal=USR1@90", "--requeue", "--open-mode=append"} <= set(asked)
