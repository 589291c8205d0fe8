"""The embedded text: what it takes from a module, what it leaves, and that it is the same every time."""

import re
import textwrap
from collections import Counter

import pytest

from daybreak.data import embedded
from daybreak.data.sources import read, units

SOURCE = '''\
#!/usr/bin/env python
# -*- coding: utf-8 -*-
# Copyright 2020 Somebody. Licensed under terms that
# take many lines to say what a sentence could say.
"""Tools for the garden.

Copyright 2020 Somebody.

They are few."""

import spade  # noqa

# We dig before we plant, because the roots
# need air. A sentence goes on.
#
# - the first of the things in a list
# - the second of the things in a list
DEPTH = 3

# x = dig(3)
# return x

text = """
# This line of five and more words stands in a string.
"""


class Spade(Tool):
    """A tool
    that digs."""

    def dig(self, depth, /, *places, force=1, **others):
        """Digs.

        >>> Spade().dig(3)
        """
        # The ground may be frozen here, so that we try it twice.

    def quiet(self):
        def inside():
            "never shown"


async def rain(when):
    """Falls."""


add_newdoc("garden", "rake", """
    Rakes the {leaves} of a tree.
    {name}

    It has a {{brace}}.
    """)
'''


def test_a_module_reads_in_the_order_of_its_source():
    expected = textwrap.dedent("""\
        garden

        Tools for the garden.

        They are few.

        We dig before we plant, because the roots need air. A sentence goes on.

        - the first of the things in a list
        - the second of the things in a list

        class Spade

        A tool
        that digs.

        Spade.dig(depth, *places, force, **others)

        Digs.

        >>> Spade().dig(3)

        The ground may be frozen here, so that we try it twice.

        rain(when)

        Falls.

        garden.rake

        It has a {brace}.
        """)
    assert embedded.prose(SOURCE, "garden") == expected


def test_a_module_without_words_is_empty():
    assert embedded.prose("x = 1\n", "silent") == ""


def test_odd_escapes_do_not_warn_and_no_python_raises():
    assert embedded.prose('"""Words."""\nx = "\\d"\n', "odd") == "odd\n\nWords.\n"
    with pytest.raises(SyntaxError):
        embedded.prose("def", "broken")


def test_topics_are_read_without_importing_them():
    found = dict(embedded.topics("topics = {'assert': 'The assert statement.\\n', 3: 4}\n"))
    assert found == {"assert": "The assert statement.\n"}


def test_the_files_are_the_same_every_time_and_belong_to_what_we_require():
    docs, code = embedded.files("docs"), embedded.files("code")
    assert docs == embedded.files("docs")
    packages = {file.package.split()[0].lower() for file in docs}
    assert {"python", "torch", "numpy"} <= packages
    assert not packages & {"pytest", "daybreak", "triton", "hypothesis"}
    assert not any("test" in re.split(r"[./]", file.name) for file in docs)
    assert any(file.name == "networkx.algorithms.dag" for file in docs)
    assert {file.path.suffix for file in code} == {".py"}
    assert len(code) > len([file for file in docs if file.path.suffix == ".py"])
    names = [(file.package, file.name) for file in code]
    assert len({file.path for file in code}) == len(names)


def test_a_few_files_read_as_english():
    skips = Counter()
    chosen = [
        unit for unit in units("python:docs") if unit.name.endswith((": textwrap", ": heapq", ": pydoc_data.topics", "functional.linear"))
    ]
    found = {document.name.partition(": ")[2]: document.text for unit in chosen for document in read(unit, skips)}
    assert found["textwrap"].startswith("textwrap\n\nText wrapping and filling.\n\n")
    assert "class TextWrapper\n\nObject for wrapping/filling text." in found["textwrap"]
    assert "continue" in found["pydoc_data.topics: while"]
    for text in found.values():
        assert not re.search(r"copyright \(c\)", text, re.IGNORECASE)


def test_code_is_the_source_itself():
    [unit] = [unit for unit in units("python:code") if unit.name.endswith(": textwrap")]
    [document] = read(unit, Counter())
    assert document.text.startswith('"""Text wrapping and filling.\n"""')


def test_what_does_not_parse_is_counted(tmp_path):
    from daybreak.data.sources import Unit

    (tmp_path / "bad.py").write_text("def")
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    skips = Counter()
    for name in ("bad.py", "nul.py"):
        assert not list(read(Unit("docs", str(tmp_path / name), f"package 1: {name}", named=False), skips))
    assert skips == {"no Python that parses": 1, "binary": 1}
