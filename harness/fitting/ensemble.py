"""Many draws of one generator beside one trace: ranges, and whether the trace could be one more of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.fitting.figures import FIGURES, Choices, all_figures
from harness.fitting.results import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Draw = Callable[[str, int], NDArray[np.int64]]
    """(traffic's spread, seed) -> expert ids (T, k) of as many tokens as the trace has."""

SEEDS = 40
"""Draws of a generator that a trace is compared with: with probability 39/41 one more lies within their range."""


def over_seeds(draw: Draw, spread: str, like: Choices, seeds: int = SEEDS) -> list[dict[str, float]]:
    """Every figure of so many draws, each of as many tokens as ``like`` has, in stretches of the same lengths."""
    drawn = (draw(spread, seed) for seed in range(seeds))
    return [all_figures(Choices(ids, like.experts, like.stretches)) for ids in drawn]


def ranges(draws: Sequence[dict[str, float]]) -> dict[str, Range]:
    """Return the range of every figure that all draws define."""
    columns = {name: [figures[name] for figures in draws] for name in draws[0]}
    return {
        name: Range(mean=float(np.mean(values)), low=min(values), high=max(values))
        for name, values in columns.items()
        if all(math.isfinite(value) for value in values)
    }


def is_one_of(figures: dict[str, float], draws: Sequence[dict[str, float]], property_: str) -> bool | None:
    """Whether a trace could be one more draw as far as a property goes; None where none of its figures is defined.

    Each figure's distance from the mean of the draws is taken in their standard deviations, and the largest counts. The
    trace fails when it is further out than every draw is from the mean of the others: 1 draw in 41 would be by chance.
    """
    defined = ranges(draws).keys()
    deciding = [name for name, figure in FIGURES.items() if figure.property == property_ and figure.decides]
    names = [name for name in deciding if name in defined and math.isfinite(figures[name])]
    if not names:
        return None
    table = np.array([[one[name] for name in names] for one in draws])
    own = [_furthest(table[n], np.delete(table, n, axis=0)) for n in range(len(table))]
    return _furthest(np.array([figures[name] for name in names]), table) <= max(own)


def _furthest(point: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Largest distance of any figure from the others' mean, in their standard deviations."""
    mean = others.mean(0)
    rounding = 1e-9 * (1.0 + np.abs(mean))  # some generators have figures that no seed changes
    return float((np.abs(point - mean) / np.maximum(others.std(0, ddof=1), rounding)).max())
