"""How much longer one thing took than another: a log-ratio, its interval, and how surely it is beyond a difference.

Everything works on y_r = log(new time / base time) of round r, since rounds are what was taken side by side: whatever
slowed the machine down for a while slowed both. Resampling single samples instead of rounds would call a drift a
difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from harness.records.record import Timing

MIN_ROUNDS = 7
"""With fewer rounds a bootstrap sees too little of what could have happened."""
MIN_PROCESSES = 3
"""With fewer processes their spread is not known."""
RESAMPLES = 4000
CONFIDENCE = 0.95
BLOCK = 1 << 20
"""Resampled values held at a time."""

Samples = dict[tuple[int, int], float]
"""Nanoseconds by (process, round)."""


@dataclass(frozen=True)
class Estimate:
    """A log-ratio with its 95 % interval. ``spread`` are ``RESAMPLES`` values it might as well have had.

    ``rounds`` and ``processes`` are what it stands on.
    """

    log_ratio: float
    low: float
    high: float
    rounds: int
    processes: int
    spread: NDArray[np.float64] = field(repr=False)
    certain: float = 1.0 / (RESAMPLES + 1)

    def p_above(self, delta: float) -> float:
        """One-sided p-value of the claim that the log-ratio is above ``delta``."""
        return max(self.certain, (1 + int(np.sum(self.spread <= delta))) / (len(self.spread) + 1))

    def p_below(self, delta: float) -> float:
        """One-sided p-value of the claim that the log-ratio is below ``delta``."""
        return max(self.certain, (1 + int(np.sum(self.spread >= delta))) / (len(self.spread) + 1))


def samples_of(timing: Timing, *, control: bool = False) -> Samples:
    """Return a timing's samples, or its A/A control's, by process and round.

    The control may have sat out rounds at the end only; its samples then belong to the first ones.
    """
    values = (timing.control_ns or []) if control else timing.samples_ns
    processes = timing.processes or [0] * len(timing.rounds)
    places = zip(processes, timing.rounds, strict=True)
    return dict(zip(places, values, strict=False))


def log_ratios(base: Samples, new: Samples) -> dict[int, list[float]]:
    """log(new / base) of the rounds that both were timed in, by process.

    Raises
    ------
    ValueError
        for a time that is not a positive number.
    """
    for value in (*base.values(), *new.values()):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"a sample of {value} ns is not a time")
    found: dict[int, list[float]] = {}
    for place in sorted(base.keys() & new.keys()):
        found.setdefault(place[0], []).append(math.log(new[place] / base[place]))
    return found


def paired(ratios: Mapping[int, Sequence[float]], seed: int = 0) -> Estimate | None:
    """Estimate from rounds measured side by side; None when there are too few.

    One process: the median over rounds, bootstrapped over rounds (percentile interval). Several processes: the mean of
    the processes' medians with Student's interval, since rounds of one process share its memory layout, and only the
    spread between processes shows what that is worth.
    """
    if len(ratios) == 1:
        return _over_rounds(next(iter(ratios.values())), seed)
    enough = {process: values for process, values in ratios.items() if values}
    if len(enough) < MIN_PROCESSES:
        return None
    medians = np.array([np.median(values) for values in enough.values()])
    return _over_processes(medians, sum(len(values) for values in enough.values()), seed)


def _over_rounds(values: Sequence[float], seed: int) -> Estimate | None:
    if len(values) < MIN_ROUNDS:
        return None
    spread = bootstrap_medians(values, seed)
    low, high = np.quantile(spread, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    # A bootstrap never leaves what it saw: as a sign test would, count the chance that all rounds erred alike.
    certain = max(2.0 ** -len(values), 1 / (RESAMPLES + 1))
    return Estimate(float(np.median(values)), float(low), float(high), len(values), 1, spread, certain)


def _over_processes(medians: NDArray[np.float64], rounds: int, seed: int) -> Estimate:
    n, centre = len(medians), float(np.mean(medians))
    error = float(np.std(medians, ddof=1)) / math.sqrt(n)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    spread = centre + error * np.random.default_rng(seed).standard_t(n - 1, size=RESAMPLES)
    return _Student(centre, centre - reach, centre + reach, rounds, n, spread, 0.0, error)


@dataclass(frozen=True)
class _Student(Estimate):
    """An estimate whose p-values are known in closed form."""

    error: float = 0.0

    def p_above(self, delta: float) -> float:
        return self._tail(self.log_ratio - delta)

    def p_below(self, delta: float) -> float:
        return self._tail(delta - self.log_ratio)

    def _tail(self, distance: float) -> float:
        if not self.error:
            return float(distance <= 0)
        return float(stats.t.sf(distance / self.error, self.processes - 1))


def difference(base: Estimate, new: Estimate) -> Estimate:
    """Estimate how much more ``new`` is above its control than ``base`` above its own: two bouts, nothing shared."""
    spread = new.spread - np.random.default_rng(0).permutation(base.spread)
    centre = new.log_ratio - base.log_ratio
    low, high = np.quantile(spread, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Estimate(
        centre,
        float(low),
        float(high),
        min(base.rounds, new.rounds),
        min(base.processes, new.processes),
        spread,
        max(base.certain, new.certain),
    )


def level(samples: Samples, seed: int = 0) -> Estimate | None:
    """Estimate the log of a time itself, for what was never measured beside anything; None below ``MIN_ROUNDS``."""
    values = list(samples.values())
    return paired(log_ratios(dict.fromkeys(samples, 1.0), dict(zip(samples, values, strict=True))), seed)


def geometric_mean(estimates: Sequence[Estimate], seed: int = 0) -> Estimate | None:
    """Mean log-ratio over cases; the interval resamples cases, then each case's own spread. None without cases."""
    if not estimates:
        return None
    generator = np.random.default_rng(seed)
    spreads = np.stack([generator.permutation(estimate.spread) for estimate in estimates])
    cases = generator.integers(0, len(estimates), size=(RESAMPLES, len(estimates)))
    spread = spreads[cases, np.arange(RESAMPLES)[:, None]].mean(axis=1)
    low, high = np.quantile(spread, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    centre = float(np.mean([estimate.log_ratio for estimate in estimates]))
    rounds, processes = (min(getattr(one, name) for one in estimates) for name in ("rounds", "processes"))
    return Estimate(centre, float(low), float(high), rounds, processes, spread)


def bootstrap_medians(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Medians of ``resamples`` draws with replacement, (resamples,)."""
    given = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // len(given))
    parts = [
        np.median(given[generator.integers(0, len(given), size=(min(step, resamples - start), len(given)))], axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)
