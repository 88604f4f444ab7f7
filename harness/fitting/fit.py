"""Which generator, and with which parameters, resembles a layer's routing; and what none of them reproduces."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.cases.shape import require
from harness.fitting.ensemble import SEEDS, is_one_of, over_seeds, ranges
from harness.fitting.figures import FIGURES, Choices, all_figures, choices_of, load_curve
from harness.fitting.load import Shelf, candidates, make_shelves
from harness.fitting.repeats import Ladder, fit_repeats, make_ladder
from harness.fitting.results import Compared, Fit, Range
from harness.traces.reading import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.fitting.ensemble import Draw

LEAST_TOKENS = 64
"""Fewer tokens say next to nothing about a distribution over experts."""
PROPERTIES = tuple(dict.fromkeys(figure.property for figure in FIGURES.values()))


def fit_layers(
    path: str, layers: tuple[int, ...], phase: str, tokens: int, doing: Callable[[str], None]
) -> Iterator[Fit]:
    """Fit layers of a trace file one after another, at most so many tokens of each.

    Raises
    ------
    ValueError
        for a file that is no trace, and for layers with fewer than 64 tokens.
    """
    from harness.fitting.draw import drawing

    trace = read_trace(path)
    fitters: dict[bytes, Fitter] = {}
    for layer in layers:
        choices = choices_of(trace.select(layer=layer, phase=phase or None, tokens=tokens))
        draw = drawing(len(choices.ids), trace.info.experts, trace.info.top_k)
        yield fitters.setdefault(choices.stretches.tobytes(), Fitter(draw, doing)).fit(layer, choices)


@dataclass
class Fitter:
    """Fits layers of one trace; what is drawn for one serves the next of the same stretches of text.

    ``draw`` makes (T, k) ids from a traffic's spread and a seed, with the trace's T, E and k; ``doing`` hears what
    comes next.
    """

    draw: Draw
    doing: Callable[[str], None]
    _shelves: list[Shelf] = field(default_factory=list)
    _ladder: Ladder | None = None

    def fit(self, layer: int, trace: Choices) -> Fit:
        """Fit one layer.

        Raises
        ------
        ValueError
            for fewer than 64 tokens.
        """
        tokens, k = trace.ids.shape
        require(tokens >= LEAST_TOKENS, "tokens", tokens, f"at least {LEAST_TOKENS} to fit a generator to")
        self._shelves = self._shelves or make_shelves(self.draw, trace.experts, self.doing)
        self._ladder = self._ladder or make_ladder(self.draw, trace, self.doing)
        self.doing(f"fitting layer {layer}")
        found = candidates(load_curve(trace), self._shelves, self.draw)
        repeats = fit_repeats(trace, self._ladder, self.draw)
        figures = all_figures(trace)
        spreads = {"chance": "uniform", "load": found[0].spread} | ({"repeats": repeats.spread} if repeats else {})
        drawn = {name: over_seeds(self.draw, spread, trace) for name, spread in spreads.items()}
        about = {name: ranges(draws) for name, draws in drawn.items()}
        return Fit(
            layer=layer,
            tokens=tokens,
            experts=trace.experts,
            top_k=k,
            stretches=len(set(trace.stretches.tolist())),
            seeds=SEEDS,
            candidates=found,
            repeats=repeats,
            figures=[_compared(name, value, about) for name, value in figures.items()],
            by_load=_reproduced(figures, drawn["load"]) | {"load": found[0].reproduces},
            by_repeats=_reproduced(figures, drawn["repeats"]) if repeats else {},
        )


def _compared(name: str, value: float, about: dict[str, dict[str, Range]]) -> Compared:
    beside = {role: given.get(name) for role, given in about.items()}
    return Compared(figure=name, trace=value if math.isfinite(value) else None, **beside)


def _reproduced(figures: dict[str, float], draws: list[dict[str, float]]) -> dict[str, bool]:
    told = {name: is_one_of(figures, draws, name) for name in PROPERTIES}
    return {name: one for name, one in told.items() if one is not None}
