"""The house's laws, checked by a machine: who may import whom, what may run on import, what may not be there at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "daybreak"

FLOORS = {
    0: "ceiling compiling config machine world devices files metrics student sinks",
    1: "data model",
    2: "training inference checkpoint settings",
    3: "evaluation report compression interpretability retrieval versioning labs",
    4: "watch recipes racing racing_plot story stepping choosing learning trial ladder ladder_plot "
    "shares evaluating running opening corpus planning dry_run stopping loading pretrained gguf_export onnx_export",
    5: "cli serve",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
FACES = {"__init__", "__main__"}
"""The package's own two files stand above all floors."""

TOO_VAGUE = {"utils", "util", "common", "misc", "base", "helpers", "helper", "core"}
LONGEST = 400
LONG: dict[str, int] = {}
"""Files that may be longer, and how long."""

RUNS_CODE = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


class Import(NamedTuple):
    """One import: by which module, of which, at which line, and whether it runs when the module is imported."""

    by: str
    of: str
    line: int
    at_import: bool


def modules(package: Path) -> dict[str, Path]:
    """Every module's dotted name and file; a package's own is its folder's."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(package: Path) -> list[Import]:
    """Every import of the package by itself, in functions and under TYPE_CHECKING too."""
    known = modules(package)
    found = []
    for name, path in known.items():
        home = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node, lazy in _walk(ast.parse(path.read_text(encoding="utf-8")), lazy=False):
            for target in _targets(node, home):
                if target == package.name or target.startswith(package.name + "."):
                    while target not in known and "." in target:  # `from daybreak.files import write_text` is of daybreak.files
                        target = target.rpartition(".")[0]
                    found.append(Import(name, target, node.lineno, not lazy))
    return found


def _walk(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        yield from _walk(child, lazy or later or typing)


def _targets(node: ast.stmt, home: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        parent = home.split(".")[: len(home.split(".")) - node.level + 1]
        base = ".".join([*parent, base] if base else parent)
    return [f"{base}.{alias.name}" for alias in node.names]


def _room(module: str) -> str:
    """The first name within the package: a folder or a loose file."""
    return [*module.split("."), "__init__"][1]


def floor_problems(package: Path) -> list[str]:
    """Imports that go up or sideways, and modules that stand on no floor."""
    rooms = {name for module in modules(package) if (name := _room(module)) not in FACES}
    wrong = [f"{name}: stands on no floor; add it to the plan" for name in sorted(rooms - FLOOR.keys())]
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    for row in imports(package):
        here, there = _room(row.by), _room(row.of)
        if here in FACES or here == there or here not in FLOOR:
            continue
        if there in FACES:
            if row.of == package.name and row.by.startswith(f"{package.name}.cli."):  # for its version
                continue
            wrong.append(f"{row.by}:{row.line} imports the package's face {row.of}")
        elif FLOOR.get(there, 9) > FLOOR[here]:
            wrong.append(f"{row.by}:{row.line} imports upwards, {row.of}")
        elif (here, there) == ("cli", "serve"):  # a verb opens the other door
            continue
        elif FLOOR[there] == FLOOR[here] and {here, there} & folders:  # loose files of one floor are one room
            wrong.append(f"{row.by}:{row.line} imports sideways, {row.of}")
    return wrong


def circles(package: Path) -> list[str]:
    """Circles of imports that run when a module is imported, each once."""
    edges: dict[str, set[str]] = {}
    for row in imports(package):
        if row.at_import and row.by != row.of:
            edges.setdefault(row.by, set()).add(row.of)
    found: dict[frozenset[str], str] = {}
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            found.setdefault(frozenset(circle), " -> ".join([*circle, module]))
        elif module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return list(found.values())


def file_problems(package: Path) -> list[str]:
    """Names that say nothing, files without their sentence, files that hold too much, statements that run on import."""
    wrong = []
    for path in modules(package).values():
        name = path.relative_to(package).as_posix()
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        if path.stem in TOO_VAGUE or path.parent.name in TOO_VAGUE:
            wrong.append(f"{name}: says nothing by its name")
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        if not first.endswith((".", ":", "?")):
            wrong.append(f"{name}: wanted a sentence as the docstring's first line, came {first!r}")
        if (lines := source.count("\n")) > LONG.get(name, LONGEST):
            wrong.append(f"{name}: {lines} lines, wanted at most {LONG.get(name, LONGEST)}")
        for node in tree.body:
            runs = isinstance(node, ast.For | ast.While | ast.With | ast.Try | ast.Delete | ast.Assert)
            runs |= isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            runs |= isinstance(node, ast.If) and ast.unparse(node.test) not in ("TYPE_CHECKING", "__name__ == '__main__'")
            if runs:
                wrong.append(f"{name}:{node.lineno} runs on import")
    return wrong


def safety_problems(package: Path) -> list[str]:
    """What could run code from a file, and imports that hide from this test."""
    wrong = []
    for path in modules(package).values():
        name = path.relative_to(package).as_posix()
        source = path.read_text(encoding="utf-8")
        if "trust_remote_code" in source:
            wrong.append(f"{name}: trust_remote_code")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                wrong += [f"{name}:{node.lineno} imports {target}" for target in _targets(node, "") if target.split(".")[0] in RUNS_CODE]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if called in ("eval", "exec", "torch.save") or called.startswith("os.system"):
                    wrong.append(f"{name}:{node.lineno} calls {called}")
                if called == "torch.load" and given.get("weights_only") != "True":
                    wrong.append(f"{name}:{node.lineno} calls torch.load without weights_only=True")
                if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
                    wrong.append(f"{name}:{node.lineno} calls {called} with allow_pickle or shell")
                if called in ("importlib.import_module", "import_module", "__import__") and name != "__init__.py":
                    wrong.append(f"{name}:{node.lineno} imports by a string")
    return wrong


CHECKS = [floor_problems, circles, file_problems, safety_problems]


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_the_laws(check) -> None:
    assert check(PACKAGE) == []


def test_the_whole_settings_stay_in_the_workshop() -> None:
    """Below it a function takes its own part or plain numbers."""
    allowed = {"checkpoint", *(name for name, floor in FLOOR.items() if floor >= 4), *FACES}
    assert [row for row in imports(PACKAGE) if row.of == "daybreak.settings" and _room(row.by) not in allowed] == []


GOOD = '"""One sentence."""\n'


@pytest.mark.parametrize(
    ("check", "planted", "told"),
    [
        (floor_problems, {"model/gpt.py": "from fake.training import loop"}, "fake.model.gpt:2 imports upwards, fake.training.loop"),
        (floor_problems, {"model/gpt.py": "from fake.data.batches import Batch"}, "imports sideways, fake.data"),
        (floor_problems, {"model/gpt.py": "from ..data import batches"}, "imports sideways, fake.data"),
        (floor_problems, {"report/page.py": "def f():\n    import fake.evaluation.score"}, "imports sideways, fake.evaluation"),
        (floor_problems, {"files.py": "if TYPE_CHECKING:\n    from fake import settings"}, "fake.files:3 imports upwards, fake.settings"),
        (floor_problems, {"story.py": "import fake"}, "imports the package's face fake"),
        (floor_problems, {"shed/tool.py": ""}, "shed: stands on no floor"),
        (circles, {"data/a.py": "from fake.data.b import f", "data/b.py": "from . import a"}, "fake.data.a -> fake.data.b -> fake.data.a"),
        (file_problems, {"data/utils.py": ""}, "data/utils.py: says nothing by its name"),
        (file_problems, {"data/odd.py": "x = 1\n" * 400}, "data/odd.py: 401 lines"),
        (file_problems, {"data/odd.py": "print(1)"}, "data/odd.py:2 runs on import"),
        (safety_problems, {"data/odd.py": "import pickle"}, "imports pickle"),
        (safety_problems, {"data/odd.py": "from torch import load\nx = torch.load('x')"}, "torch.load without weights_only=True"),
        (safety_problems, {"data/odd.py": "np.load('x', allow_pickle=True)"}, "allow_pickle"),
        (safety_problems, {"data/odd.py": "AutoModel('x', trust_remote_code=True)"}, "trust_remote_code"),
        (safety_problems, {"data/odd.py": "importlib.import_module('fake.' + name)"}, "imports by a string"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, check, planted: dict[str, str], told: str) -> None:
    package = tmp_path / "fake"
    everything = ["__init__.py", "data/__init__.py", "model/__init__.py", "training/loop.py", "evaluation/score.py", "settings.py"]
    for name in [*everything, "data/batches.py", "config.py", "files.py", *planted]:
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GOOD + planted.get(name, ""), encoding="utf-8")
    assert [problem for problem in check(package) if told in problem], check(package)
    for name in planted:
        (package / name).write_text(GOOD, encoding="utf-8")
    assert "shed/tool.py" in planted or "data/utils.py" in planted or check(package) == []


@pytest.mark.parametrize(
    ("source", "good"),
    [('"""One sentence."""', True), ('"""One that begins\n\nand ends not."""', False), ("x = 1", False), ("", False)],
)
def test_a_file_begins_with_a_sentence(tmp_path: Path, source: str, good: bool) -> None:
    (tmp_path / "room.py").write_text(source, encoding="utf-8")
    assert (file_problems(tmp_path) == []) is good


def test_importing_needs_no_torch(python) -> None:
    told = python("import daybreak, sys; dir(daybreak); print(sorted({'torch', 'numpy', 'typer', 'rich', 'ssl'} & set(sys.modules)))")
    assert told.stdout.strip() == "[]"


def test_help_and_plan_need_no_torch(python) -> None:
    requests = [["--help"], ["train", "--help"], ["data", "prepare", "--help"], ["sample", "--help"], ["plan", "demo"], ["train", "dmo"]]
    told = python(
        "import sys; from daybreak.cli import main; "
        f"statuses = [main(words) for words in {requests}]; "
        "print('END', statuses, sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert told.stdout.splitlines()[-1] == "END [0, 0, 0, 0, 0, 2] []"


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    import daybreak

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for_types = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_types == {**daybreak._HOMES, "recipes": "daybreak"}
    assert all(getattr(daybreak, name) is not None for name in daybreak.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        daybreak.nothing  # noqa: B018


@pytest.fixture
def python():
    """Runs a line of Python in a process of its own; it must succeed and say nothing else."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        told = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
        assert told.returncode == 0, told.stderr
        return told

    return run
