"""One plot a file. A plot takes a group of cases and gives a figure, or one sentence on what is missing for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.report.plots import balance, memory, skew, throughput, winners

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from harness.report.groups import Group


@dataclass(frozen=True)
class Plot:
    """A plot, the question it answers, and how to read it."""

    name: str
    question: str
    reading: str
    draw: Callable[[Group], Figure | str]


PLOTS = tuple(
    Plot(module.__name__.rpartition(".")[2], module.QUESTION, module.READING, module.draw)
    for module in (winners, throughput, skew, memory, balance)
)
"""Plots of a group, in the order of the report."""
