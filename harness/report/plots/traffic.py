"""How the tokens of one traffic spread over the experts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.fitting.figures import FIGURES
from harness.report import style
from harness.report.traffic import figure_text, from_to

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.fitting.results import Shown

QUESTION = "How does this traffic load the experts?"
BARS = "#0072B2"
NAMED = ("max_over_mean", "cv2", "normalised_entropy", "dead_experts", "first_repeats")
"""Figures that the picture does not show by itself."""


def draw(shown: Shown, label: str) -> Figure:
    """Draw a bar an expert, busiest first, over an even share, and the line that uniform traffic has by chance."""
    counts = np.sort(np.asarray(shown.histogram, dtype=float))[::-1]
    even = counts.mean() or 1.0
    places = np.arange(1, len(counts) + 1)
    figure, (axes,) = style.panels([_summary(shown)], height=3.6)
    style.entitle(figure, QUESTION, label)
    axes.bar(places, counts / even, width=0.9 if len(counts) <= 64 else 1.0, color=BARS, label="this traffic")
    chance = np.asarray(shown.chance_curve) / even
    axes.step(
        places, chance, where="mid", color=style.FLOOR, linewidth=1.4, label=f"uniform, mean of {shown.seeds} seeds"
    )
    axes.set_xlim(0.4, len(counts) + 0.6)
    axes.set_xlabel("experts, busiest first")
    axes.set_ylabel("tokens over an even share")
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False, loc="upper right")
    return figure


def _summary(shown: Shown) -> str:
    """Write some figures in the words of the terminal's table, with their ranges by chance.

    What belongs together is never broken over two lines.
    """
    told = [
        f"{FIGURES[name].words} {text(shown.figures[name])} ({from_to(shown.chance[name], text)})"
        for name, text in ((name, partial(figure_text, name)) for name in NAMED)
        if shown.figures[name] is not None and name in shown.chance
    ]
    told.append(f"in brackets uniform traffic, {shown.seeds} seeds")
    return ", ".join(item.replace(" ", "\u00a0") for item in told)
