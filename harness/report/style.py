"""The one look of all plots: colours by family, sizes, fonts, numbers on axes."""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.cases.traffic import TRAFFIC_KINDS
from harness.report import units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import pandas as pd
    from matplotlib.axes import Axes

FAMILY_COLOURS: dict[str, str] = {
    "loop": "#E69F00",
    "einsum": "#56B4E9",
    "batched": "#CC79A7",
    "grouped": "#0072B2",
    "fused": "#D55E00",
    "soft": "#8A7F1D",
    "peer": "#009E73",
    "dense": "#555555",
}
"""Okabe and Ito's palette, which stays distinct under colour blindness, with the yellow darkened to show on white. The
order is that of legends and columns."""

TRAFFIC_COLOURS: dict[str, str] = {
    "uniform": "#555555",
    "gaussian": "#0072B2",
    "zipf": "#D55E00",
    "dirichlet": "#E69F00",
    "single_hot": "#882255",
    "k_hot": "#CC79A7",
    "tile": "#56B4E9",
    "temporal": "#8A7F1D",
    "trace": "#009E73",
}

OTHER = "#333333"
"""Colour of a family or a kind of traffic that this version does not know."""

TIE = "#D9D9D9"
FLOOR = "#000000"
WIDTH_INCHES = 9.0
DOUBLINGS = 3.0
"""From this ratio on an axis of ratios is logarithmic."""

STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "pdf.fonttype": 42,  # journals refuse the Type 3 fonts that are the default
    "svg.hashsalt": "moebench",  # equal pictures are equal files
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "text.parse_math": False,
}

_MARKERS = "os^DvPX*"
_SHADES = (0.0, -0.35, 0.4, -0.6, 0.62)
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Look:
    """How one implementation is drawn everywhere in a report."""

    colour: str
    marker: str
    dashes: str
    order: int


def look_up(table: pd.DataFrame) -> dict[str, Look]:
    """Look of every implementation in a frame.

    The colour is the family's; further members of a family differ in shade, marker and dashes. Columns and legends go
    by ``order``: family by family, the dense baseline last.
    """
    families = dict(zip(table["impl"], table["family"], strict=True))
    order = sorted(families, key=lambda name: (family_rank(families[name]), families[name], name))
    members: dict[str, int] = {}
    looks = {}
    for place, name in enumerate(order):
        family = families[name]
        nth = members[family] = members.get(family, -1) + 1
        colour = shade(FAMILY_COLOURS.get(family, OTHER), _SHADES[nth % len(_SHADES)])
        dashes = "--" if family == "dense" else _DASHES[nth % len(_DASHES)]
        looks[name] = Look(colour, _MARKERS[nth % len(_MARKERS)], dashes, place)
    return looks


def family_rank(family: str) -> int:
    """Place of a family in legends; unknown ones come before the baseline."""
    known = list(FAMILY_COLOURS)
    return 2 * known.index(family) if family in known else 2 * len(known) - 3


def shade(colour: str, amount: float) -> str:
    """Mix a colour with white (``amount`` above 0) or black (below 0)."""
    target = 1.0 if amount > 0 else 0.0
    red, green, blue = (part + (target - part) * abs(amount) for part in to_rgb(colour))
    return to_hex((red, green, blue))


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour (relative luminance of WCAG 2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#FFFFFF"


def in_style() -> AbstractContextManager[None]:
    """Draw and save inside this, and nothing leaks into a caller's matplotlib."""
    return mpl.rc_context(STYLE)  # type: ignore[arg-type]  # its keys are a Literal


def panels(
    titles: Sequence[str], *, columns: int = 1, height: float = 3.4, width: float = WIDTH_INCHES
) -> tuple[Figure, list[Axes]]:
    """Make a figure of equally large panels, row by row; ``height`` in inches is one panel's."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(width, rows * height + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title("\n".join(textwrap.wrap(title, int(width * 11 / columns))), loc="left")
    for axes in grid[len(titles) :]:
        axes.set_axis_off()
    return figure, list(grid[: len(titles)])


def entitle(figure: Figure, question: str, label: str) -> None:
    """Put the question a figure answers above it, and what it was asked about below the question."""
    wrapped = "\n".join(textwrap.wrap(label, 105))
    figure.suptitle(f"{question}\n{wrapped}", x=0.01, ha="left", fontsize=11, fontweight="normal")


def stacked(labels: Sequence[str]) -> list[str]:
    """Break labels of traffic, such as a trace's with its options, into lines that fit below an axis.

    A trace's digest is left out unless two labels would then be the same.
    """
    short = [label.partition("#")[0] for label in labels]
    chosen = short if len(set(short)) == len(set(labels)) else labels
    return [re.sub(r"[?&]", "\n", label) for label in chosen]


def token_axis(axes: Axes, counts: Sequence[int]) -> None:
    """Make the x axis logarithmic with a tick at each token count that was measured."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_thinned(counts)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tokens in one call")
    axes.margins(x=0.02)


def _thinned(counts: Sequence[int], least: float = 0.075) -> list[int]:
    """Leave out ticks whose numbers would touch: nearer than a share of the logarithmic axis to the one before."""
    kept: list[int] = []
    whole = math.log(counts[-1] / counts[0])
    for count in counts:
        if not kept or math.log(count / kept[-1]) >= least * whole:
            kept.append(count)
    return kept


def rate_axis(axes: Axes, label: str, text: Callable[[float], str] = units.tick) -> None:
    """Make the y axis logarithmic with decimal prefixes: at decades, at 1, 2 and 5, or evenly, as the data's span asks.

    ``text`` writes a tick. Call it when everything is drawn.
    """
    axes.set_yscale("log", base=10)
    low, high = axes.get_ylim()
    fine = MaxNLocator(6) if high / low < 5 else LogLocator(subs=(1.0, 2.0, 5.0))
    axes.yaxis.set_major_locator(LogLocator() if high / low > 300 else fine)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(label)


def ratio_axis(axes: Axes, label: str, low: float, high: float, *, logarithmic: bool) -> None:
    """Make the y axis show how many times, from a little below ``low`` to a little above ``high``, and around 1x.

    A logarithmic one has a tick a doubling where there are several. Panels of one picture are all of one kind.
    """
    low, high = min(low, 0.9), max(high, 1.1)
    even = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
    axes.yaxis.set_major_locator(even)
    if logarithmic:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_locator(LogLocator(base=2) if high / low > DOUBLINGS else even)
        axes.yaxis.set_minor_locator(NullLocator())
        margin = (high / low) ** 0.06
        axes.set_ylim(low / margin, high * margin)
    else:
        margin = 0.06 * (high - low)
        axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: times(value)))
    axes.set_ylabel(f"{label} (log)" if logarithmic else label)


def times(value: float) -> str:
    """Write how many times for an axis; what is one over a whole number as that: ``4x``, ``1/32x``, ``0.8x``."""
    part = 1 / value if value > 0 else 0
    if part >= 2 and math.isclose(part, round(part)):
        return f"1/{round(part)}x"
    return f"{value:.3g}x"


def traffic_looks(spreads: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of traffics by their labels: the same in every picture.

    The colour is the kind's. Further parameters of a kind differ in shade and dashes; its default comes first.
    """
    members: dict[str, int] = {}
    looks = {}
    for spread in sorted(spreads, key=_is_special):
        kind = spread.partition(":")[0]
        nth = members[kind] = members.get(kind, -1) + 1
        colour = shade(TRAFFIC_COLOURS.get(kind, OTHER), _SHADES[nth % len(_SHADES)])
        looks[spread] = colour, _DASHES[nth % len(_DASHES)]
    return looks


def _is_special(spread: str) -> bool:
    """Whether a traffic's parameter is another than its kind's default."""
    kind, _, parameter = spread.partition(":")
    known = TRAFFIC_KINDS.get(kind)
    return known is None or known.default is None or parameter != f"{known.default:g}"
