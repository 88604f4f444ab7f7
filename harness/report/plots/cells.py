"""Maps made of cells: a winner's colour, its name and its margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle

from harness.report import style, units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from harness.report.groups import Outcome


@dataclass(frozen=True)
class Cell:
    """What one cell says, on which colour."""

    colour: str
    name: str
    note: str


def cell_of(outcome: Outcome, looks: Mapping[str, style.Look]) -> Cell:
    """Turn the outcome of a case into a cell."""
    standing = outcome.standing
    if not standing.winners:
        return Cell("#FFFFFF", "nothing ranked", ", ".join(outcome.statuses))
    if standing.winner is None:
        first, *others = standing.winners
        return Cell(style.TIE, first, f"≈ {others[0]}" if len(others) == 1 else f"≈ {len(others)} others")
    note = units.ratio(standing.margin) if standing.margin else "the only one ranked"
    return Cell(looks[standing.winner].colour, standing.winner, note)


def draw_map(
    axes: Axes, cells: Mapping[tuple[str, str], Cell], columns: Sequence[str], rows: Sequence[str], width: float = 8.0
) -> None:
    """Draw cells by (column, row), the first row at the bottom; ``width`` is the width of the axes in inches."""
    for (column, row), cell in cells.items():
        x, y = columns.index(column), rows.index(row)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=cell.colour, edgecolor="#FFFFFF", linewidth=2))
        _write(axes, (x + 0.5, y + 0.5), cell, width / len(columns))
    axes.set_xlim(0, len(columns))
    axes.set_ylim(0, len(rows))
    axes.set_xticks([n + 0.5 for n in range(len(columns))], style.stacked(columns))
    axes.set_yticks([n + 0.5 for n in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _write(axes: Axes, middle: tuple[float, float], cell: Cell, width: float) -> None:
    """Write a name over a note, small enough for a cell of ``width`` inches."""
    ink = style.ink_on(cell.colour)
    for text, weight, offset in ((cell.name, "bold", 5.5), (cell.note, "normal", -5.5)):
        size = min(9.0, 72 * 0.92 * width / (0.66 * max(1, len(text))))
        axes.annotate(
            text, middle, xytext=(0, offset), textcoords="offset points", ha="center", va="center",
            fontsize=size, fontweight=weight, color=ink,
        )  # fmt: skip
