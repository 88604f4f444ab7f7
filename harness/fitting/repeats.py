"""Which rho of ``temporal`` repeats experts from token to token as often as a trace does.

Compared is ``shared_excess``: the share of experts that two consecutive tokens have in common, over what load alone
brings about. It counts every choice whatever its order in the file, and hardly depends on how skewed the load is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.fitting.ensemble import SEEDS
from harness.fitting.figures import Choices, shared_excess
from harness.fitting.results import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from harness.fitting.ensemble import Draw

GRID = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
GRID_SEEDS = 12


@dataclass(frozen=True)
class Ladder:
    """The mean excess of each rho, made to rise with rho where noise at small rho has it fall."""

    excesses: NDArray[np.float64]

    def rho(self, excess: float) -> float:
        """Return the rho that has a given excess; the nearest end of the grid where none has."""
        return float(np.interp(excess, self.excesses, GRID))


def make_ladder(draw: Draw, like: Choices, doing: Callable[[str], None]) -> Ladder:
    """Draw ``temporal`` at every rho of the grid, in stretches as long as those of ``like``."""
    doing("drawing temporal")
    means = [np.mean(excesses(draw, f"temporal:{rho:g}", like, range(GRID_SEEDS))) for rho in GRID]
    return Ladder(np.maximum.accumulate(means))


def excesses(draw: Draw, spread: str, like: Choices, seeds: range) -> list[float]:
    """Return the excess of each seed's draw."""
    return [shared_excess(Choices(draw(spread, seed), like.experts, like.stretches)) for seed in seeds]


def fit_repeats(trace: Choices, ladder: Ladder, draw: Draw) -> Repeats | None:
    """Fit rho; None where no two tokens follow one another, or every token uses every expert."""
    excess = shared_excess(trace)
    if not math.isfinite(excess) or trace.ids.shape[1] >= trace.experts:
        return None
    rho = ladder.rho(excess)
    spread = f"temporal:{rho:.3g}"
    own = excesses(draw, spread, trace, range(GRID_SEEDS, GRID_SEEDS + SEEDS))
    low, high = np.quantile([ladder.rho(one) for one in own], [0.025, 0.975])
    return Repeats(
        spread=spread,
        rho=rho,
        low=float(low),
        high=float(high),
        excess=excess,
        at_the_end=bool(excess > ladder.excesses[-1]),
    )
