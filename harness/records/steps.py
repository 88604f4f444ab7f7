"""Steps in a series: asv's step detection (a Potts model fit), and which of its steps are more than noise.

asv fits levels to a series. On short ones it also fits noise, down to a level a point, so neighbouring levels are
joined again until each step that is left is larger than everything known about the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.history import Point
    from harness.records.metrics import Metric

ENOUGH = 4
"""With fewer points no step is claimed."""
LEAST = 0.005
"""A step below this share is not worth a word, however quiet the machine."""
SIGMAS = 3.0
"""How many times the scatter of single points a step must be."""
ALONE = 1.5
"""How many times the noise a step must be that stands on the newest point alone."""
PENALTY = 3.0
"""Degrees of freedom that a new level costs. With asv's 4 a third of the steps of 15 % is missed in series of 10 points
that scatter by 2 %, with 3 a tenth; what is found too much the comparison with the noise takes back."""
HEAVIEST = 3.0
"""How many times the usual weight a point may have: intervals see the noise within runs, not the one between them."""


@dataclass(frozen=True)
class Level:
    """Neighbouring points of one level: ``first`` to ``last`` are indices into a series' points, ends included."""

    first: int
    last: int
    value: float


@dataclass(frozen=True)
class Step:
    """A change of level between the points ``before`` and ``at``, larger than the ``noise``, both as shares.

    ``change`` is new level / old level - 1, ``word`` says it in words. ``newest_only`` steps stand on one point, the
    last; ``same_revision`` steps happened without a change of the code.
    """

    before: int
    at: int
    old: float
    new: float
    change: float
    noise: float
    word: str
    worse: bool
    newest_only: bool
    same_revision: bool


@dataclass(frozen=True)
class Steps:
    """The steps of a series and the levels between them; ``note`` says why none could be claimed."""

    steps: tuple[Step, ...] = ()
    levels: tuple[Level, ...] = ()
    note: str = ""


def find_steps(points: Sequence[Point], metric: Metric) -> Steps:
    """Find the steps of a series that are larger than its noise; points without a value are passed over."""
    places = [n for n, point in enumerate(points) if point.value is not None]
    known = [points[n] for n in places]
    if len(known) < ENOUGH:
        return Steps(note=f"too few points to tell a step from noise: {len(known)} of {ENOUGH}")
    values = [point.value for point in known if point.value is not None]
    cuts = _joined(_detected(values, _weights(known)), values, known)
    spans = list(zip([0, *cuts], [*cuts, len(values)], strict=True))
    levels = tuple(Level(places[a], places[b - 1], median(values[a:b])) for a, b in spans)
    sizes = [_noise(values, known, (a[0], a[1], b[1])) for a, b in pairwise(spans)]
    pairs = pairwise(levels)
    steps = tuple(_step(points, metric, old, new, noise) for (old, new), noise in zip(pairs, sizes, strict=True))
    return Steps(steps, levels)


def _step(points: Sequence[Point], metric: Metric, old: Level, new: Level, noise: float) -> Step:
    change = new.value / old.value - 1
    before, at = points[old.last].revision, points[new.first].revision
    return Step(
        before=old.last,
        at=new.first,
        old=old.value,
        new=new.value,
        change=change,
        noise=math.expm1(noise),
        word=metric.rises if change > 0 else metric.falls,
        worse=(change > 0) == (not metric.inverted),
        newest_only=new.first == new.last,
        same_revision=before == at != "",
    )


def _detected(values: Sequence[float], weights: Sequence[float] | None) -> list[int]:
    """Where a Potts model, asv's, begins a new level."""
    from asv.step_detect import solve_potts_autogamma

    n = len(values)
    ends, *_ = solve_potts_autogamma(list(values), list(weights or [1.0] * n), beta=PENALTY * math.log(n) / n)
    return [int(end) for end in ends[:-1]]


def _weights(points: Sequence[Point]) -> list[float] | None:
    """Weights by the widths of the intervals, relative to their values; None when no point has one."""
    widths = [
        (point.high - point.low) / point.value if point.value and point.high and point.low else 0.0 for point in points
    ]
    wide = [width for width in widths if width > 0]
    if not wide:
        return None
    usual = median(wide)
    return [min(HEAVIEST, max(1 / HEAVIEST, usual / width)) if width > 0 else 1.0 for width in widths]


def _joined(cuts: list[int], values: Sequence[float], points: Sequence[Point]) -> list[int]:
    """Drop cuts, the least sure first, until each is a step: beyond the noise, and not the edge of one odd point.

    A level of one point is believed only at the end of a series, where later points are still to come.
    """
    while cuts:
        edges = [0, *cuts, len(values)]
        sure = [_sureness(values, points, edges[n], edges[n + 1], edges[n + 2]) for n in range(len(cuts))]
        weakest = min(range(len(cuts)), key=sure.__getitem__)
        if sure[weakest] > 1:
            odd = [n for n in range(len(edges) - 2) if edges[n + 1] - edges[n] == 1]
            if not odd:
                break
            sides = [n for n in (odd[0] - 1, odd[0]) if 0 <= n < len(cuts)]
            weakest = min(sides, key=sure.__getitem__)
        cuts = cuts[:weakest] + cuts[weakest + 1 :]
    return cuts


def _sureness(values: Sequence[float], points: Sequence[Point], a: int, b: int, c: int) -> float:
    """How many times the noise the step is from ``values[a:b]`` to ``values[b:c]``."""
    return abs(math.log(median(values[b:c]) / median(values[a:b]))) / _noise(values, points, (a, b, c))


def _noise(values: Sequence[float], points: Sequence[Point], edges: tuple[int, int, int]) -> float:
    """Log-ratio that a step must exceed: the largest of what is known about the noise.

    That is ``SIGMAS`` times the scatter from point to point over the whole series, and around the two levels; what the
    same code showed against itself; and the half widths of the intervals, added in quadrature.
    """
    a, b, c = edges
    hops = [abs(math.log(y / x)) for x, y in pairwise(values)]
    between = 1.4826 * median(hops) / math.sqrt(2)  # the median is blind to the few hops that are steps
    around = [abs(math.log(y / median(part))) for part in (values[a:b], values[b:c]) for y in part]
    floors = [point.noise for point in points[a:c] if point.noise is not None]
    halves = [_half_width(points[a:b]), _half_width(points[b:c])]
    noise = max(LEAST, SIGMAS * between, SIGMAS * fmean(around), median(floors) if floors else 0.0, math.hypot(*halves))
    return noise * ALONE if c - b == 1 else noise


def _half_width(points: Sequence[Point]) -> float:
    """Typical half width of the intervals of some points, as a log-ratio."""
    widths = [math.log(point.high / point.low) / 2 for point in points if point.low and point.high]
    return median(widths) if widths else 0.0
