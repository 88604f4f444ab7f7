"""Statistics of raw samples. Nothing is trimmed, sorted in place or dropped."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FEWEST = 6
"""With fewer samples no interval of order statistics covers the median with 95 %."""
MODES_APART = 3.0
"""How many of their own spreads the medians of two groups of samples must be apart to be called two speeds."""
MODES_GAP = 2.0
"""How many of those spreads no sample may lie between; a long tail alone leaves gaps of one."""


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval of the median, from the order statistics of the binomial(n, 1/2).

    The interval between the j-th smallest and the j-th largest sample covers the median with probability
    1 - 2 P(Bin(n, 1/2) < j); the largest j that keeps the asked confidence is taken. With fewer than 6 samples no pair
    reaches 95 %, and the whole range is returned.

    Raises
    ------
    ValueError
        without samples.
    """
    if not len(samples):
        raise ValueError("no samples")
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    low = max(0, _rank(len(samples), confidence) - 1)
    return float(ordered[low]), float(ordered[-1 - low])


def time_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of a median time, whatever the number of samples; None for one alone, which says nothing.

    From 6 samples on ``median_interval``. Below, where order statistics do not reach 95 %, Student's interval of the
    mean logarithm, which takes times for log-normal, and at least the range.

    Raises
    ------
    ValueError
        without samples.
    """
    if len(samples) >= FEWEST or not len(samples):
        return median_interval(samples, confidence)
    if len(samples) == 1:
        return None
    low, high = _student(np.log(np.asarray(samples, dtype=np.float64)), confidence)
    return min(math.exp(low), *samples), max(math.exp(high), *samples)


def _student(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Student's interval of a mean."""
    reach = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2)) * float(values.std(ddof=1))
    mean, half = float(values.mean()), reach / math.sqrt(len(values))
    return mean - half, mean + half


@lru_cache(maxsize=1024)
def _rank(n: int, confidence: float) -> int:
    """Return the largest j with 2 P(Bin(n, 1/2) < j) <= 1 - confidence, in whole numbers, which do not underflow."""
    allowed = math.floor(Fraction((1 - confidence) / 2) * 2**n)
    term, j = 1, 0
    while term <= allowed:
        allowed -= term
        j += 1
        term = term * (n - j + 1) // j
    return j


def relative_half_width(samples: Sequence[float]) -> float:
    """Half the 95 % interval of the median, relative to the median; infinite below ``FEWEST`` samples."""
    if len(samples) < FEWEST:
        return math.inf
    low, high = median_interval(samples)
    return (high - low) / 2 / float(np.median(samples))


def noise_floor(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, resamples: int = 2000
) -> float | None:
    """Largest log-ratio that the same code shows against itself: 95th percentile of |theta| over resampled rounds.

    ``first`` and ``second`` are the A/A control's samples of the same rounds; theta is the median over rounds of
    log(second / first), bootstrapped over rounds. With 3 or 4 rounds, of which resampling shows too little, the end of
    Student's 95 % interval that is further from 0; None below 3.
    """
    rounds = min(len(first), len(second))
    if rounds < 3:
        return None
    ratios = np.log(np.asarray(second[:rounds], dtype=np.float64) / np.asarray(first[:rounds], dtype=np.float64))
    if rounds < 5:
        return max(map(abs, _student(ratios, 0.95)))
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, rounds, size=(resamples, rounds))
    theta = np.median(ratios[picks], axis=1)
    return float(np.quantile(np.abs(theta), 0.95))


def drifts(samples: Sequence[float], threshold: float = 0.05) -> bool:
    """Whether the last third's median left the first third's by more than ``threshold``; False below 9 samples."""
    third = len(samples) // 3
    if third < 3:
        return False
    first, last = float(np.median(samples[:third])), float(np.median(samples[-third:]))
    return abs(last / first - 1) > threshold


def min_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the minimum: from the least seen up to what the least of as many samples would hardly exceed.

    Of n samples drawn again with replacement, all miss the j smallest with probability (1 - j/n)^n; the smallest j that
    makes this at most 1 - confidence gives the upper end.

    Raises
    ------
    ValueError
        without samples.
    """
    if not len(samples):
        raise ValueError("no samples")
    n, ordered = len(samples), np.sort(np.asarray(samples, dtype=np.float64))
    upper = next(j for j in range(1, n + 1) if (1 - j / n) ** n <= 1 - confidence)
    return float(ordered[0]), float(ordered[upper - 1])


def bimodal(samples: Sequence[float], least: float = 0.1) -> float | None:
    """Share of the samples at the slower of two speeds, None when there are not two.

    The logarithms are cut at their widest gap that leaves ``least`` of them on either side. Two speeds are two groups
    whose medians are apart by more than 2 % and by ``MODES_APART`` times the larger group's spread (median absolute
    deviation, scaled to a normal's sigma), with ``MODES_GAP`` times that spread empty. None below 20 samples.
    """
    n = len(samples)
    if n < 20:
        return None
    ordered = np.log(np.sort(np.asarray(samples, dtype=np.float64)))
    first = max(1, math.ceil(least * n))
    gaps = np.diff(ordered)[first - 1 : n - first]
    cut = first + int(np.argmax(gaps))
    fast, slow = ordered[:cut], ordered[cut:]
    spread = max(1.4826 * float(np.median(np.abs(part - np.median(part)))) for part in (fast, slow))
    apart = float(np.median(slow) - np.median(fast))
    gap = float(gaps.max())
    return len(slow) / n if apart > max(MODES_APART * spread, 0.02) and gap > MODES_GAP * spread else None
