"""How much longer one thing took than another: a log-ratio, how far it may be off, and how surely it is beyond a limit.

Everything works on y_r = log(new time / base time) of round r, since rounds are what was taken side by side: whatever
slowed the machine down for a while slowed both. Counting single samples instead of rounds would call a drift a
difference. There is no chance in here: the same samples always give the same answer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special, stats

from harness.records.rounds import log_ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from harness.records.rounds import Samples

MIN_ROUNDS = 7
"""With fewer rounds too little was seen of what can happen."""
MIN_PROCESSES = 3
"""With fewer processes their spread is not known."""
CONFIDENCE = 0.95
SUREST = 1e-12
"""Chances below this are not told apart."""


@dataclass(frozen=True)
class Estimate(ABC):
    """A log-ratio, with limits for it at any level of error. ``rounds`` and ``processes`` are what it stands on.

    Whatever is said of more is said of less by swapping base and new, so that both directions are judged alike.
    """

    rounds: int
    processes: int

    @property
    @abstractmethod
    def log_ratio(self) -> float:
        """Return the estimate itself."""

    @abstractmethod
    def lower(self, error: float) -> float:
        """Return the limit below which the true log-ratio is with a chance of at most ``error``, up to 0.5."""

    @abstractmethod
    def swapped(self) -> Estimate:
        """Return the estimate with base and new exchanged."""

    def upper(self, error: float) -> float:
        """Return the limit above which the true log-ratio is with a chance of at most ``error``, up to 0.5."""
        return -self.swapped().lower(error)

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.lower((1 - CONFIDENCE) / 2)

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.upper((1 - CONFIDENCE) / 2)

    def p_above(self, delta: float) -> float:
        """One-sided p-value of the claim that the log-ratio is above ``delta``: the least error that allows it.

        1 when not even an error of one half does.
        """
        sure, error = math.log(SUREST), math.log(0.5)
        if self.lower(0.5) <= delta:
            return 1.0
        while error - sure > 1e-6:
            middle = (sure + error) / 2
            sure, error = (sure, middle) if self.lower(math.exp(middle)) > delta else (middle, error)
        return math.exp(error)

    def p_below(self, delta: float) -> float:
        """One-sided p-value of the claim that the log-ratio is below ``delta``."""
        return self.swapped().p_above(-delta)


@dataclass(frozen=True)
class _Ranked(Estimate):
    """The median of ``values``, with the limits and p-values of a rank test: one outlier moves it little.

    ``values`` ascend: the rounds of one process for the sign test, the means of every two processes for Wilcoxon's.
    ``chances`` (len(values) + 1,) are those of at most 0, 1, .. of them below the truth, so that the j-th smallest is a
    lower limit with an error of chances[j - 1]. Below chances[0], at which all that was measured errs alike, ranks know
    no limit however far away they are; there it is ``by_distance``, if that is below all of them.
    """

    values: NDArray[np.float64]
    chances: NDArray[np.float64]
    by_distance: Estimate

    @property
    def log_ratio(self) -> float:
        return float(np.median(self.values))

    def lower(self, error: float) -> float:
        j = int(np.searchsorted(self.chances, error, side="right"))
        return float(self.values[j - 1]) if j else min(float(self.values[0]), self.by_distance.lower(error))

    def swapped(self) -> Estimate:
        return _Ranked(self.rounds, self.processes, -self.values[::-1], self.chances, self.by_distance.swapped())

    def p_above(self, delta: float) -> float:
        not_above = int(np.searchsorted(self.values, delta, side="right"))
        p = float(self.chances[not_above])
        return p if not_above else min(p, self.by_distance.p_above(delta))


@dataclass(frozen=True)
class _Student(Estimate):
    """The mean of what varies without anybody's doing, with Student's limits. ``error_of_mean`` is its own spread."""

    mean: float
    error_of_mean: float
    freedom: int

    @property
    def log_ratio(self) -> float:
        return self.mean

    def lower(self, error: float) -> float:
        return self.mean + self.error_of_mean * float(special.stdtrit(self.freedom, error))

    def swapped(self) -> Estimate:
        return _Student(self.rounds, self.processes, -self.mean, self.error_of_mean, self.freedom)

    def p_above(self, delta: float) -> float:
        if not self.error_of_mean:
            return float(self.mean <= delta)
        return float(special.stdtr(self.freedom, (delta - self.mean) / self.error_of_mean))


@dataclass(frozen=True)
class _Difference(Estimate):
    """``new`` less ``base``, which share nothing; the limits join the limits of both, each of its own kind.

    A limit of the difference is as far from it as both limits are from their estimates, taken as legs of a right
    triangle. Source: Zou and Donner, Construction of confidence limits about effect measures: a general approach, 2008.
    """

    base: Estimate
    new: Estimate

    @property
    def log_ratio(self) -> float:
        return self.new.log_ratio - self.base.log_ratio

    def lower(self, error: float) -> float:
        reach = (self.new.log_ratio - self.new.lower(error), self.base.upper(error) - self.base.log_ratio)
        return self.log_ratio - math.hypot(*reach)

    def swapped(self) -> Estimate:
        return _Difference(self.rounds, self.processes, self.new, self.base)


@dataclass(frozen=True)
class _Exact(Estimate):
    """A figure that does not vary."""

    value: float

    @property
    def log_ratio(self) -> float:
        return self.value

    def lower(self, error: float) -> float:  # noqa: ARG002 (there is none)
        return self.value

    def swapped(self) -> Estimate:
        return _Exact(self.rounds, self.processes, -self.value)

    def p_above(self, delta: float) -> float:
        return float(self.value <= delta)


@lru_cache(maxsize=1024)
def _heads(n: int) -> NDArray[np.float64]:
    """Chances of at most 0 .. n heads in n throws of a coin, (n + 1,)."""
    return np.asarray(stats.binom.cdf(np.arange(n + 1), n, 0.5), dtype=np.float64)


@lru_cache(maxsize=1024)
def _rank_sums(n: int) -> NDArray[np.float64]:
    """Chances of a sum of at most 0 .. n(n+1)/2 when each of the ranks 1 .. n counts or not by the throw of a coin."""
    chances: NDArray[np.float64] = np.ones(1)
    for rank in range(1, n + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return np.asarray(np.minimum(chances.cumsum(), 1.0), dtype=np.float64)


def paired(ratios: Mapping[int, Sequence[float]], *, several: bool = False) -> Estimate | None:
    """Estimate from rounds measured side by side, by process; None when there are too few.

    One process: the median over rounds, by the sign test. Several processes: the median of the means of every two of
    their medians, by Wilcoxon's signed ranks, since rounds of one process share its memory layout, and only the spread
    between processes shows what that is worth. Base and new trade places by lot, so that the same code scatters around
    nothing symmetrically, as that test asks. With ``several`` one process is too few: base and new had a process each.

    Source: Hodges and Lehmann, Estimates of location based on rank tests, 1963.
    """
    if len(ratios) == 1 and not several:
        (values,) = ratios.values()
        return _ranked(values, np.asarray(values), _heads, len(values), 1) if len(values) >= MIN_ROUNDS else None
    medians = np.array([np.median(values) for values in ratios.values() if len(values)])
    if len(medians) < MIN_PROCESSES:
        return None
    pairs = np.triu_indices(len(medians))
    means = (medians[pairs[0]] + medians[pairs[1]]) / 2
    return _ranked(medians, means, _rank_sums, sum(map(len, ratios.values())), len(medians))


def _ranked(
    measured: Sequence[float] | NDArray[np.float64],
    values: NDArray[np.float64],
    chances: Callable[[int], NDArray[np.float64]],
    rounds: int,
    processes: int,
) -> Estimate:
    by_distance = _mean_of(measured, rounds, processes)
    return _Ranked(rounds, processes, np.sort(values), chances(len(measured)), by_distance)


def _mean_of(values: Sequence[float] | NDArray[np.float64], rounds: int, processes: int) -> Estimate:
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return _Student(rounds, processes, float(np.mean(values)), error, len(values) - 1)


def difference(base: Estimate, new: Estimate) -> Estimate:
    """Estimate how much more ``new`` is above its yardstick than ``base`` above its own: two bouts, nothing shared."""
    return _Difference(min(base.rounds, new.rounds), min(base.processes, new.processes), base, new)


def exact(log_ratio: float) -> Estimate:
    """Wrap a figure that does not vary, such as bytes; there is no chance in it."""
    return _Exact(1, 1, log_ratio)


def level(samples: Samples) -> Estimate | None:
    """Estimate the log of a time itself, for what was never measured beside anything; None below ``MIN_ROUNDS``."""
    return paired(log_ratios(dict.fromkeys(samples, 1.0), samples))


def geometric_mean(estimates: Sequence[Estimate]) -> Estimate | None:
    """Mean log-ratio over cases, with Student's interval over cases: how other cases of the kind would come out.

    Resampling cases, the usual way, would cover the truth in 57 of 100 comparisons of two cases, and in 86 of five.
    One case keeps its own interval. Infinite log-ratios are left out; None when nothing is left.
    """
    finite = [one for one in estimates if math.isfinite(one.log_ratio)]
    if len(finite) < 2:
        return finite[0] if finite else None
    ratios = [one.log_ratio for one in finite]
    return _mean_of(ratios, min(one.rounds for one in finite), min(one.processes for one in finite))
