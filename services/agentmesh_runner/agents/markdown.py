"""Writes values that come from anywhere into Markdown without letting them become markup."""

import re
from collections.abc import Iterable, Sequence


def one_line(text: str) -> str:
    """Make a text fit a table cell or a list item: one line, no cell border, no HTML tag."""
    # Only what can begin a tag is replaced, so that "p < 0.001" stays readable.
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()).replace("|", "\\|"))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; cells are made to fit."""
    lines = ["| " + " | ".join(one_line(head) for head in heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(one_line(str(cell)) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
