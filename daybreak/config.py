"""Settings as frozen dataclasses: edit by path=value, check, save, load, describe.

    >>> settings = edit(settings, ["train.learning_rate=1.8e-3", "train.train_tokens=300e9"])

Nothing here knows of language models. A settings class is a frozen dataclass whose fields each have their sentence as a
string underneath, and which may have a method `problems()` that yields what is wrong with its values. Errors are collected and
told all at once, each in one line that says what was wanted, what came and the way out.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from daybreak import files

S = TypeVar("S")

_SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


class ConfigError(ValueError):
    """One or more wrong settings; `problems` holds one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Described:
    """One setting as a person reads it."""

    path: str
    wanted: str
    value: Any
    sentence: str


def edit(settings: S, edits: Iterable[str]) -> S:
    """Returns `settings` with each `path=value` applied and everything checked.

    Values are read by the field's type: `300e9`, `300B` and `300_000_000_000` are the same integer, `none` is None,
    `true`/`false` (also yes/no, on/off, 1/0) are booleans, `a,b,c` is a tuple. Raises ConfigError with every problem found.
    """
    problems: list[str] = []
    changes: dict[str, Any] = {}
    known = {row.path: row for row in describe(settings)}
    example = next((path for path in known if "." in path), next(iter(known)))
    for text in edits:
        path, equals, written = text.partition("=")
        path = path.strip()
        if not equals:
            hint = f"; did you mean {path}=VALUE?" if path in known else _did_you_mean(path, known)
            problems.append(f"{text}: wanted path=value, such as {example}=..., came no '='{hint}")
        elif path not in known:
            problems.append(f"{path}: no such setting{_near(path, known)}")
        else:
            try:
                changes[path] = parse(written.strip(), _type_at(type(settings), path))
            except ValueError as error:
                problems.append(f"{path}: {error}")
    edited = _replace(settings, changes)
    problems += check(edited)
    if problems:
        raise ConfigError(problems)
    return edited


def check(settings: Any, prefix: str = "") -> list[str]:
    """Every problem that the settings classes find with their own values, each with its path in front.

    A class yields `(field name, what is wrong)` pairs from a method `problems()`.
    """
    found: list[str] = []
    own = getattr(settings, "problems", None)
    if own is not None:
        found += [f"{prefix}{name}: {problem}" for name, problem in own()]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found += check(value, f"{prefix}{field.name}.")
    return found


def describe(settings: Any, prefix: str = "") -> list[Described]:
    """Every setting with its path, wanted type, value and sentence, in the order of the classes."""
    rows: list[Described] = []
    cls: Any = type(settings)
    sentences, hints = _sentences(cls), _hints(cls)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            rows += describe(value, f"{prefix}{field.name}.")
        else:
            rows.append(Described(prefix + field.name, wanted(hints[field.name]), value, sentences.get(field.name, "")))
    return rows


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as nested dicts that JSON can hold (tuples become lists)."""
    return {field.name: _to_plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def from_dict(cls: type[S], values: Mapping[str, Any]) -> S:
    """The inverse of `to_dict`. A missing field takes its default; unknown fields and wrong types are told all at once."""
    problems: list[str] = []
    settings = _build(cls, values, "", problems)
    if not problems:
        problems = check(settings)
    if problems:
        raise ConfigError(problems)
    return typing.cast(S, settings)


def load(cls: type[S], path: Path) -> S:
    """Reads settings from a JSON file. Raises FileProblem if it is missing or no JSON, ConfigError with its name before each problem."""
    try:
        return from_dict(cls, files.read_json(path))
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def differences(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """The settings in which two of a kind differ, as (path, value in one, value in the other)."""
    others = {row.path: row.value for row in describe(other)}
    return [(row.path, row.value, others[row.path]) for row in describe(one) if row.value != others[row.path]]


def closest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest of `names`, or an empty string."""
    return _did_you_mean(name, names)


def parse(written: str, hint: Any) -> Any:
    """Reads a value as a person writes it, by its type. Raises ValueError that says what was wanted and what came."""
    options, optional = _options(hint)
    if optional and written.lower() in ("none", "null"):
        return None
    for option in options:
        try:
            return _parse_one(written, option)
        except (ValueError, TypeError, OverflowError):
            continue
    choices = typing.get_args(options[0]) if typing.get_origin(options[0]) is typing.Literal else ()
    raise ValueError(f"wanted {wanted(hint)}, came '{written}'{_did_you_mean(written, choices)}")


def wanted(hint: Any) -> str:
    """A type in words: 'an integer', 'a number or none', 'one of auto, cpu, cuda'."""
    options, optional = _options(hint)
    words = " or ".join(_word(option) for option in options)
    return f"{words} or none" if optional else words


def _parse_one(written: str, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if written not in choices:
            raise ValueError
        return written
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_parse_one(part.strip(), inner) for part in written.split(",") if part.strip())
    if hint is bool:
        lowered = written.lower()
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
        raise ValueError
    if hint is int:
        return _integer(written)
    if hint is float:
        number = float(_integer(written)) if written[-1:].upper() in _SUFFIXES else float(written)
        if not math.isfinite(number):
            raise ValueError
        return number
    if hint is str:
        return written
    raise TypeError(f"settings cannot hold {hint}")


def _integer(written: str) -> int:
    match = re.fullmatch(r"([+-]?[\d_]*\.?\d*(?:[eE][+-]?\d+)?)([KMBTkmbt]?)", written)
    if not match or not re.search(r"\d", match[1]):
        raise ValueError
    if not match[2] and re.fullmatch(r"[+-]?[\d_]+", match[1]):
        return int(match[1])
    number = float(match[1].replace("_", "")) * _SUFFIXES.get(match[2].upper(), 1)
    if number != round(number):
        raise ValueError
    return round(number)


def _options(hint: Any) -> tuple[list[Any], bool]:
    """A type as the list of what it may be besides None, and whether it may be None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        args = typing.get_args(hint)
        return [arg for arg in args if arg is not type(None)], type(None) in args
    return [hint], False


def _word(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_plural(typing.get_args(hint)[0])} separated by commas"
    return {int: "an integer", float: "a number", bool: "true or false", str: "a text"}.get(hint, str(hint))


def _plural(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " and ".join(str(choice) for choice in typing.get_args(hint))
    return {int: "integers", float: "numbers", str: "texts"}.get(hint, str(hint))


def _near(path: str, known: Iterable[str]) -> str:
    """The nearest setting: of the same last name (`learning_rate` for `train.learning_rate`), in the same group, or in all."""
    group, dot, leaf = path.rpartition(".")
    by_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    if len(by_leaf) == 1:
        return f"; did you mean {by_leaf[0]}?"
    leaves: dict[str, str] = {name.rpartition(".")[2]: name for name in known}
    group_leaves = [name.removeprefix(group + dot) for name in known if dot and name.startswith(group + dot)]
    if group_leaves:
        if near := difflib.get_close_matches(leaf, group_leaves, n=1):
            return f"; did you mean {group}.{near[0]}?"
    elif hint := _did_you_mean(path, known):
        return hint
    near = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)
    return f"; did you mean {leaves[near[0]]}?" if near else "; `daybreak plan RECIPE` lists all"


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _replace(settings: S, changes: Mapping[str, Any]) -> S:
    here: dict[str, Any] = {}
    deeper: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, dot, rest = path.partition(".")
        if dot:
            deeper.setdefault(head, {})[rest] = value
        else:
            here[head] = value
    for head, inner in deeper.items():
        here[head] = _replace(getattr(settings, head), inner)
    return dataclasses.replace(settings, **here)  # type: ignore[type-var]


def _build(cls: Any, values: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.') or 'settings'}: wanted a group of settings, came {values!r}")
        return None
    hints = _hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    problems += [f"{prefix}{name}: no such setting{_did_you_mean(name, names)}" for name in values if name not in names]
    arguments: dict[str, Any] = {}
    for name in names:
        if name not in values:
            continue
        hint, value = hints[name], values[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, value, f"{prefix}{name}.", problems)
        elif not _fits(value, hint):
            problems.append(f"{prefix}{name}: wanted {wanted(hint)}, came {value!r}")
        else:
            arguments[name] = _as(value, hint)
    if problems:
        return None
    try:
        return cls(**arguments)
    except TypeError as error:
        problems.append(f"{prefix.rstrip('.') or 'settings'}: {error}")
        return None


def _fits(value: Any, hint: Any) -> bool:
    options, optional = _options(hint)
    if value is None:
        return optional
    return any(_fits_one(value, option) for option in options)


def _fits_one(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_fits_one(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _as(value: Any, hint: Any) -> Any:
    options, _ = _options(hint)
    if isinstance(value, list):
        return tuple(value)
    if options == [float] and value is not None:
        return float(value)
    return value


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _type_at(cls: Any, path: str) -> Any:
    head, dot, rest = path.partition(".")
    hint = _hints(cls)[head]
    return _type_at(hint, rest) if dot else hint


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _sentences(cls: Any) -> dict[str, str]:
    """The string written under each field of a class, read from its source: said once, shown in --help and in `plan`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    return dict(_field_and_string(body))


def _field_and_string(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            yield field.target.id, " ".join(text.value.value.split())
