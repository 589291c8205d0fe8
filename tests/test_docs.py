"""What the documents say is so: their Python runs, their commands exist, their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from daybreak.cli.app import command
from daybreak.cli.train import request

HOME = Path(__file__).parents[1]
DOCUMENTS = [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))]
# A test has seconds; what the documents show takes minutes.
SHORTER = {'"train.train_tokens=1M"': '"train.train_tokens=2K", "train.warmup_tokens=1K", "sample.every_tokens=1M"', "steps=100": "steps=3"}


def blocks(language):
    return [
        pytest.param(code, id=f"{path.name}-{number}")
        for path in DOCUMENTS
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs_as_it_is_shown(code, data_dir, tmp_path):
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(data_dir)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("code", [*blocks("sh"), *blocks("bash")])
def test_commands_name_verbs_that_exist(code):
    for line in code.splitlines():
        words = line.split("#")[0].split()
        if words and words[0] == "daybreak":
            verb = command().commands[words[1]]
            assert not hasattr(verb, "commands") or words[2] in verb.commands
        elif words and words[0] == "torchrun":
            started = get_args_parser().parse_args(words[1:])
            assert started.module
            assert started.training_script == "daybreak"
            assert started.training_script_args[0] in command().commands
            request(started.training_script_args[1], [word for word in started.training_script_args[2:] if "=" in word], None)
        elif words and words[0] == "sbatch":
            assert (HOME / words[1]).is_file()
        elif words:
            assert words[0] == "make"
            assert f"\n{words[1]}:" in (HOME / "Makefile").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_are_there(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    for target in re.findall(r"`(?:python|pytest|bash) ((?:benchmarks|tests)/[\w./]+)", text):
        assert (HOME / target).exists(), target
