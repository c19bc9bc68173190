"""Names, ids and paths of others as text that is safe to show: on a terminal and in Markdown."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def printable(value: object, limit: int = 60) -> str:
    """A value in one line: control characters as escapes, and cut if it is long."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value)[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def in_markdown(value: object) -> str:
    """A value as a cell of a Markdown table, where it means itself."""
    shown = printable(value, 200)
    for mark in "\\`*[]<>|":
        shown = shown.replace(mark, "\\" + mark)
    return shown


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The name that was probably meant by `name`, alone in a list; an empty list if none is near."""
    lowered = {other.lower(): other for other in names}
    return [lowered[near] for near in difflib.get_close_matches(name.lower(), lowered, n=1)]
