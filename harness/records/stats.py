"""Statistics of raw samples. Nothing is trimmed, sorted in place or dropped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    n = len(samples)
    if n == 0:
        raise ValueError("no samples")
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    tail, term, j = 0.0, 0.5**n, 0
    allowed = (1 - confidence) / 2
    if term > 0:
        while tail + term <= allowed:
            tail += term
            j += 1
            term *= (n - j + 1) / j
    else:  # beyond a thousand samples the normal approximation is exact enough, and 2**-n underflows
        j = max(0, int(n / 2 - 1.96 * math.sqrt(n) / 2))
    low = max(0, j - 1)
    return float(ordered[low]), float(ordered[n - 1 - low])


def relative_half_width(samples: Sequence[float]) -> float:
    """Half the 95 % interval of the median, relative to the median; infinite below 6 samples."""
    if len(samples) < 6:  # noqa: PLR2004 (see median_interval)
        return math.inf
    low, high = median_interval(samples)
    return (high - low) / 2 / float(np.median(samples))


def noise_floor(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, resamples: int = 2000
) -> float | None:
    """Largest log-ratio that the same code shows against itself: 95th percentile of |theta| over resampled rounds.

    ``first`` and ``second`` are the A/A control's samples of the same rounds; theta is the median over rounds of
    log(second / first), bootstrapped over rounds. None below 5 rounds.
    """
    rounds = min(len(first), len(second))
    if rounds < 5:
        return None
    ratios = np.log(np.asarray(second[:rounds], dtype=np.float64) / np.asarray(first[:rounds], dtype=np.float64))
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
