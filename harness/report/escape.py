"""Text from records made harmless for Markdown: names, reasons and logs are shown, never obeyed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""

    __slots__ = ()


def one_line(text: str) -> str:
    """Drop terminal control sequences and fold all white space into single spaces."""
    return " ".join(_CONTROL.sub("", text).split())


def escape(text: str) -> Markdown:
    """One line of inert Markdown, fit for a table cell, whatever the text held."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_SPECIAL.sub(r"\\\1", one_line(text).translate(_HTML)))


def bold(text: str) -> Markdown:
    """Escape and embolden."""
    return Markdown(f"**{escape(text)}**")


def code(text: str) -> Markdown:
    """Set a name in code type, fit for a table cell: only the backtick and the pipe could do harm there."""
    inert = one_line(text).replace("`", "'").replace("|", "\\|")
    return Markdown(f"`{inert}`") if inert else Markdown("")


def fenced(text: str) -> Markdown:
    """Make a code block whose fence is longer than any run of backticks inside it."""
    body = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip("\n")
    longest = max((len(run) for run in re.findall(r"`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}text\n{body}\n{fence}")


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Markdown:
    """Make a GitHub table of text cells, every one escaped unless it is ``Markdown``."""
    cells = [[escape(cell) for cell in row] for row in rows]
    heads = [escape(head) for head in headers]
    return Markdown(tabulate(cells, headers=heads, tablefmt="github", disable_numparse=True))
