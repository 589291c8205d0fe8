"""The text that every machine has: the English and the code of Python, its standard library and what daybreak depends on.

`files("docs")` and `files("code")` list the files, the same for the same versions. Sources are parsed, never imported or run.
For "docs" a module becomes what its authors wrote for people (`prose`), in the order of the source: docstrings under the names of
what they explain, and paragraphs of comments; and the language reference is added (`topics`). The texts are under the licences
of their packages (PSF, BSD, Apache, MIT).
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import platform
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

REQUIRED = ("torch", "numpy", "safetensors", "tiktoken", "tokenizers", "typer", "rich", "zstandard")
"""What daybreak depends on: where the walk begins if daybreak itself was not installed but only lies on the path."""

LEFT_OUT = re.compile(r"nvidia-.*|cuda-.*|triton|daybreak|setuptools|pip|wheel")
"""Distributions that differ between a laptop and a machine with a GPU, and ours: without them a torch version gives one text."""

NO_PROSE = {"test", "tests", "testing", "idle_test", "_vendor", "_extern", "site-packages", "__pycache__", "lib2to3", "turtledemo"}
"""Folders left out of "docs": tests explain little, and what was vendored is there twice."""

TOPICS = "pydoc_data/topics.py"


class PythonFile(NamedTuple):
    """One file of the standard library or of an installed package."""

    path: Path
    name: str
    """Its dotted module name, or its name within its package for a text file."""
    package: str
    """The distribution and its version, such as "torch 2.13.0"."""


def files(kind: str) -> list[PythonFile]:
    """The files of the embedded text, in a fixed order. `kind`: "docs" (English) or "code" (every .py source)."""
    found = [file for file in (*_standard_library(), *_packages()) if kind == "code" or not NO_PROSE & set(_parts(file))]
    if kind == "code":
        return [file for file in found if file.path.suffix == ".py"]
    return found


def _parts(file: PythonFile) -> list[str]:
    return file.name.replace("/", ".").split(".")


def _standard_library() -> Iterator[PythonFile]:
    root = Path(sysconfig.get_path("stdlib"))
    package = f"python {platform.python_version()}"
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        inside = path.relative_to(root)
        if path.suffix in (".py", ".txt", ".rst") and not {"site-packages", "dist-packages", "__pycache__"} & set(inside.parts):
            yield PythonFile(path, _module_name(PurePosixPath(inside.as_posix())), package)


def _packages() -> Iterator[PythonFile]:
    for distribution in _closure():
        package = f"{distribution.metadata['Name']} {distribution.version}"
        for path in sorted(distribution.files or [], key=lambda path: path.parts):
            if (
                path.suffix in (".py", ".rst", ".txt")
                and ".." not in path.parts
                and not path.parts[0].endswith((".dist-info", ".egg-info"))
            ):
                yield PythonFile(Path(str(path.locate())), _module_name(path), package)


def _module_name(path: PurePosixPath) -> str:
    if path.suffix != ".py":
        return path.as_posix()
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _closure() -> list[importlib.metadata.Distribution]:
    """The installed distributions that daybreak requires, and those that they require, by name; extras only where asked for."""
    from packaging.requirements import InvalidRequirement, Requirement  # comes with tokenizers
    from packaging.utils import canonicalize_name

    try:
        waiting = [Requirement(text) for text in importlib.metadata.requires("daybreak") or REQUIRED]
    except importlib.metadata.PackageNotFoundError:
        waiting = [Requirement(name) for name in REQUIRED]
    waiting = [requirement for requirement in waiting if requirement.marker is None or requirement.marker.evaluate({"extra": ""})]
    found: dict[str, importlib.metadata.Distribution] = {}
    walked: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if LEFT_OUT.fullmatch(name) or (name, extras) in walked:
            continue
        walked.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution
        for text in distribution.requires or []:
            try:
                needed = Requirement(text)
            except InvalidRequirement:
                continue
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append(needed)
    return [found[name] for name in sorted(found)]


def topics(source: str) -> Iterator[tuple[str, str]]:
    """The language reference that `help()` shows, from the source of pydoc_data.topics: pairs of a topic and its text."""
    for statement in ast.parse(source).body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Dict):
            for key, text in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield str(key.value), text.value.strip() + "\n"


def prose(source: str, name: str) -> str:
    """What a module's authors wrote for people: docstrings under their names, and comments, in the order of the source.

    Empty if they wrote nothing. Raises SyntaxError if `source` is not Python (ValueError, RecursionError or MemoryError if it is odd).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        tree = ast.parse(source)
    pieces = [(line, text) for line, text in _docstrings(tree, name)]
    pieces += _comments(source)
    pieces.sort(key=lambda piece: piece[0])
    if not pieces:
        return ""
    heading = [] if pieces[0][1].startswith(name) else [name]
    return "\n\n".join([*heading, *(text for _, text in pieces)]) + "\n"


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """Pairs of a line and a text: the module's docstring, then each class's and function's under its name."""
    if text := _readable(ast.get_docstring(tree)):
        yield 0, f"{module}\n\n{text}"
    waiting: list[tuple[ast.AST, str]] = [(statement, "") for statement in tree.body]
    while waiting:
        node, prefix = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = prefix + node.name
            if text := _readable(ast.get_docstring(node)):
                yield node.lineno, f"{_heading(node, name)}\n\n{text}"
            if isinstance(node, ast.ClassDef):
                waiting += [(statement, f"{name}.") for statement in node.body]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _attached(node.value)
        elif isinstance(node, ast.If | ast.Try):
            waiting += [(statement, prefix) for statement in (*node.body, *node.orelse)]


def _readable(docstring: str | None) -> str:
    """A docstring without its paragraphs on who may copy it."""
    if docstring is None or not LEGAL.search(docstring):
        return (docstring or "").strip()
    return "\n\n".join(paragraph for paragraph in re.split(r"\n\s*\n", docstring) if not LEGAL.search(paragraph)).strip()


def _heading(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    arguments = [*node.args.posonlyargs, *node.args.args]
    names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
    names += [f"*{node.args.vararg.arg}"] if node.args.vararg else []
    names += [argument.arg for argument in node.args.kwonlyargs]
    names += [f"**{node.args.kwarg.arg}"] if node.args.kwarg else []
    return f"{name}({', '.join(names)})"


def _attached(call: ast.Call) -> Iterator[tuple[int, str]]:
    """Docstrings given to compiled functions by a call, as in numpy's add_newdoc("numpy", "sin", text) and torch's add_docstr."""
    if not isinstance(call.func, ast.Name | ast.Attribute):
        return
    called = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
    if not called.startswith("add_") or "doc" not in called:
        return
    names = [_written_name(argument) for argument in call.args]
    for argument in ast.walk(call):
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value.count("\n") > 1:
            text = re.sub(r"^.*(?<!\{)\{\w+\}(?!\}).*\n?", "", argument.value, flags=re.MULTILINE)  # what a format call would fill in
            title = ".".join(name for name in names if name)
            yield call.lineno, f"{title}\n\n{inspect.cleandoc(text).replace('{{', '{').replace('}}', '}').strip()}"


def _written_name(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value and node.value.isprintable():
        return node.value
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


STRINGS_AND_COMMENTS = re.compile(
    r"""('''|\"\"\")(?:[^\\]|\\.)*?\1|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|(?P<comment>^[ \t]*\#[^\n]*)|\#[^\n]*""",
    re.DOTALL | re.MULTILINE,
)
"""Finds comments outside of strings. The standard `tokenize` does it too, fifty times slower."""

LEGAL = re.compile(
    r"copyright|:licen[sc]e:|licen[sc]ed under|all rights reserved|spdx|redistribut|warrant(y|ies)|^permission ", re.IGNORECASE | re.M
)
FOR_MACHINES = re.compile(r"coding[:=]|^!|noqa|type: *ignore|pylint|flake8|mypy:|fmt:|pragma|isort|ruff:|pyright|owner\(s\)", re.IGNORECASE)
ORDINARY_WORD = re.compile(r"(?<![\w.(\[\"'])[a-zA-Z]+['’]?[a-z]*(?=[\s,.;:!?)]|$)")
FEWEST_WORDS = 6


def _comments(source: str) -> list[tuple[int, str]]:
    """Pairs of a line and a paragraph: neighbouring lines of comment joined, if they read as sentences and not as code."""
    lines: list[tuple[int, str]] = []
    counted_to, line = 0, 1
    for match in STRINGS_AND_COMMENTS.finditer(source):
        if match["comment"] is not None:
            line += source.count("\n", counted_to, match.start())
            counted_to = match.start()
            lines.append((line, match["comment"].strip().lstrip("#").removeprefix(":")))
    paragraphs: list[tuple[int, list[str]]] = []
    previous = -1
    for number, text in lines:
        if number != previous + 1:
            paragraphs.append((number, []))
        paragraphs[-1][1].append(text)
        previous = number
    found = []
    for number, block in paragraphs:
        whole = "\n".join(block)
        if LEGAL.search(whole) or FOR_MACHINES.search(whole):
            continue
        text = "\n\n".join(paragraph for paragraph in map(_joined, re.split(r"\n[\s=*+~_-]*\n", whole)) if _is_prose(paragraph))
        if text:
            found.append((number, text))
    return found


def _joined(paragraph: str) -> str:
    """Lines joined to one, but where a line begins a list item or is indented: those keep their breaks."""
    lines = textwrap.dedent(re.sub(r"[-=*#~+]{3,}", "", paragraph)).strip().split("\n")
    out = lines[0].strip()
    for line in lines[1:]:
        out += ("\n" if re.match(r"\s{2,}|\s*([-*+•>]|\d+[.)])\s", line) else " ") + (line.rstrip() if line[:2] == "  " else line.strip())
    return out.strip()


def _is_prose(text: str) -> bool:
    """Enough ordinary words, and they make up most of the text: what is commented-out code has neither."""
    words = ORDINARY_WORD.findall(text)
    return len(words) >= FEWEST_WORDS and sum(map(len, words)) > 0.5 * len("".join(text.split()))
