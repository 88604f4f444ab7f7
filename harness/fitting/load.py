"""Which generator spreads tokens over experts as unevenly as a trace does.

Compared are sorted load curves, since which ids are popular means nothing. The distance of two curves is the share of
slots that would have to go elsewhere (total variation). A generator's curves scatter from seed to seed, so candidates
rank by the energy score, E d(X, t) - E d(X, X') / 2 over draws X, X' and the trace t: its expectation is lowest for the
generator that made the trace (Gneiting and Raftery 2007, eq. 22; the L1 distance is of negative type).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from harness.cases.traffic import TRAFFIC_KINDS, parse_spread
from harness.fitting.ensemble import SEEDS
from harness.fitting.figures import Choices, load_curve
from harness.fitting.results import Candidate, Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from harness.fitting.ensemble import Draw

    Curves = NDArray[np.float64]
    """Sorted load curves, (seeds, E)."""

GRIDS: dict[str, tuple[float, ...]] = {
    "gaussian": tuple(np.geomspace(0.02, 3.0, 16)),
    "zipf": tuple(np.geomspace(0.02, 3.0, 16)),
    "dirichlet": tuple(np.geomspace(0.1, 1000.0, 16)),
}
"""Parameters tried; the fitted one is interpolated between them."""
WITHOUT_GRID = ("uniform", "single_hot", "k_hot", "tile")
"""Candidates without a parameter that is fitted. ``temporal`` is judged by its repeats."""
GRID_SEEDS = 12


@dataclass(frozen=True)
class Shelf:
    """Curves of one generator at each parameter of its grid, for layers that share T, E and k."""

    kind: str
    grid: tuple[float, ...]
    curves: tuple[Curves, ...]


def make_shelves(draw: Draw, experts: int, doing: Callable[[str], None]) -> list[Shelf]:
    """Draw every generator at every parameter of its grid; ``doing`` is told which comes next."""
    found = []
    for kind, grid in GRIDS.items():
        doing(f"drawing {kind}")
        found.append(Shelf(kind, grid, tuple(curves(draw, f"{kind}:{p:g}", experts, GRID_SEEDS) for p in grid)))
    return found


def curves(draw: Draw, spread: str, experts: int, seeds: int) -> Curves:
    """Sorted load curves of so many draws, (seeds, E)."""
    drawn = (draw(spread, seed) for seed in range(seeds))
    return np.stack([load_curve(Choices(ids, experts, np.zeros(len(ids), dtype=np.int64))) for ids in drawn])


def candidates(trace: NDArray[np.float64], shelves: list[Shelf], draw: Draw) -> list[Candidate]:
    """List every generator at its best parameter for a trace's load curve (E,), the nearest first.

    One without a parameter that reproduces the load comes before all others: they have it as a limit.
    """
    found = [_with_parameter(trace, shelf, draw) for shelf in shelves]
    found += [_judged(trace, curves(draw, kind, len(trace), SEEDS), kind) for kind in WITHOUT_GRID]
    return sorted(found, key=lambda one: (one.parameter is not None or not one.reproduces, one.score))


def _with_parameter(trace: NDArray[np.float64], shelf: Shelf, draw: Draw) -> Candidate:
    """Fit the parameter to the trace; and to draws made with it, for the range such fits fall into."""
    parameter = best_parameter(trace, shelf)
    spread = f"{shelf.kind}:{parameter:.3g}"
    own = curves(draw, spread, len(trace), GRID_SEEDS + SEEDS)[GRID_SEEDS:]  # seeds that the shelf does not hold
    refits = [best_parameter(curve, shelf) for curve in own]
    low, high = np.quantile(refits, [0.025, 0.975])
    made = _judged(trace, own, spread)
    made.low, made.high = float(low), float(high)
    made.at_the_end = parameter in {shelf.grid[0], shelf.grid[-1]}
    return made


def best_parameter(trace: NDArray[np.float64], shelf: Shelf) -> float:
    """Find the parameter of the lowest energy score: a parabola through the best of the grid and its two neighbours.

    The score is smooth in the parameter, because every parameter is drawn with the same seeds.
    """
    scores = [energy_score(trace, drawn) for drawn in shelf.curves]
    best = int(np.argmin(scores))
    if best in {0, len(scores) - 1}:
        return shelf.grid[best]
    before, here, after = scores[best - 1 : best + 2]
    shift = 0.5 * (before - after) / (before - 2 * here + after)
    step = np.log(shelf.grid[best + 1] / shelf.grid[best])
    return float(shelf.grid[best] * np.exp(shift * step))


def energy_score(trace: NDArray[np.float64], drawn: Curves) -> float:
    """E d(X, t) - E d(X, X') / 2 over distinct draws, in shares of all slots."""
    count = len(drawn)
    among = _distances(drawn, drawn).sum() / (count * (count - 1)) if count > 1 else 0.0
    return float(_distances(trace[None], drawn).mean() - among / 2)


def _judged(trace: NDArray[np.float64], drawn: Curves, spread: str) -> Candidate:
    count = len(drawn)
    own = _distances(drawn, drawn).sum(1) / (count - 1)
    kind, parameter = parse_spread(spread)
    fitted = kind in GRIDS
    return Candidate(
        kind=kind,
        spread=spread if fitted or TRAFFIC_KINDS[kind].default is None else f"{kind}:{parameter:g}",
        parameter=parameter if fitted else None,
        low=None,
        high=None,
        score=energy_score(trace, drawn),
        miss=float(_distances(trace[None], drawn).mean()),
        own_miss=Range(mean=float(own.mean()), low=float(own.min()), high=float(own.max())),
    )


def _distances(some: Curves, others: Curves) -> NDArray[np.float64]:
    """Total variation of every curve of some to every one of others: half the sum of absolute differences."""
    found: NDArray[np.float64] = cdist(some, others, "cityblock") / 2
    return found
