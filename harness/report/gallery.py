"""The pictures beside a page: which files there are, and in which formats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.cases.shape import require
from harness.report.labels import slug

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

VECTOR = ("pdf", "svg")
"""Formats that a paper wants. The page itself shows PNG, which every viewer of Markdown does."""
_TIMELESS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class Gallery:
    """Hangs pictures into a folder: as PNG, and in one of ``VECTOR`` too where ``also`` names it.

    Raises
    ------
    ValueError
        for another format.
    """

    folder: Path
    also: str = ""

    def __post_init__(self) -> None:
        require(not self.also or self.also in VECTOR, "--also", self.also, "one of " + ", ".join(VECTOR))

    def hang(self, figure: Figure, name: str) -> str:
        """Save a figure, and return the name of the file that the page shows.

        Where an earlier report left it in another format too, that one is renewed: it must not show other figures.
        """
        file = f"{slug(name)}.png"
        figure.savefig(self.folder / file)
        for ending in VECTOR:
            path = (self.folder / file).with_suffix(f".{ending}")
            if ending == self.also or path.exists():
                figure.savefig(path, metadata=_TIMELESS[ending])
        return file

    def take_down(self, earlier: str, now: str) -> None:
        """Remove pictures that an earlier text of the page showed and its text now does not, in whatever format."""
        for file in shown(earlier) - shown(now):
            for ending in ("png", *VECTOR):
                (self.folder / file).with_suffix(f".{ending}").unlink(missing_ok=True)


def shown(text: str) -> set[str]:
    """Return the files that a page shows, as far as their names can be a gallery's."""
    return set(re.findall(r"^!\[[^\]]+\]\(([a-z0-9-]+\.png)\)$", text, flags=re.MULTILINE))
