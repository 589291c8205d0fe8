"""A chat as one text that a base model can continue: the plain template, and where its turn ends.

A base model has learned texts, not manners. It continues a written dialogue, sometimes well; nothing makes it answer.
"""

from __future__ import annotations

from collections.abc import Iterable

NAMES = {"user": "User", "assistant": "Assistant"}
STOP = ("\nUser:",)
"""Where the model begins to write the person's part."""
DESCRIPTION = "User: ...\\nAssistant: ...\\n, system messages as paragraphs before; the model's turn ends where it writes User:"


def as_text(turns: Iterable[tuple[str, str]]) -> str:
    """(role, text) pairs as a dialogue that is the assistant's turn next. No trailing space: tokens begin with theirs."""
    written = []
    for role, text in turns:
        written.append(f"{NAMES[role]}: {text.strip()}\n" if role in NAMES else f"{text.strip()}\n\n")
    return f"{''.join(written)}{NAMES['assistant']}:"
