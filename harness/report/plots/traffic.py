"""How the tokens of one traffic spread over the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.report import style, units
from harness.report.traffic import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.fitting.results import Shown

QUESTION = "How does this traffic load the experts?"
BARS = "#0072B2"


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
    """Name the figures that a picture of the load does not show by itself, chance in brackets."""
    words = {
        "max_over_mean": "max/mean",
        "cv2": "CV2",
        "normalised_entropy": "entropy",
        "dead_experts": "dead",
        "first_repeats": "first repeats",
    }
    return ", ".join(
        f"{word} {figure_text(name, shown.figures[name])} ({units.plain(shown.chance[name].mean)})"
        for name, word in words.items()
        if shown.figures[name] is not None and name in shown.chance
    )
