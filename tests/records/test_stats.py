"""Intervals against scipy's binomial, and what the noise floor and drift see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom

from harness.records.stats import (
    bimodal,
    drifts,
    median_interval,
    min_interval,
    noise_floor,
    relative_half_width,
    time_interval,
)

times = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=60)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 9, 15, 40, 199, 400, 1073, 1074, 1100, 3000])
def test_ranks_are_the_tightest_that_keep_the_confidence(n: int, confidence: float) -> None:
    low, high = median_interval(range(n), confidence)
    rank = int(low) + 1  # of the lower end among samples 0 .. n-1, counted from 1
    assert low + high == n - 1
    covered = 1 - 2 * binom.cdf(rank - 1, n, 0.5)
    assert covered >= confidence - 1e-12 or rank == 1
    if rank <= (n - 1) // 2:
        assert 1 - 2 * binom.cdf(rank, n, 0.5) < confidence


def test_five_samples_cannot_reach_95_percent_and_six_can() -> None:
    assert median_interval([5.0, 1.0, 4.0, 2.0, 3.0]) == (1.0, 5.0)
    assert math.isinf(relative_half_width([1.0] * 5))
    assert relative_half_width([1.0] * 6) == 0.0
    assert median_interval(range(9)) == (1.0, 7.0)


def test_it_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    draws = generator.lognormal(sigma=0.5, size=(2000, 15))  # median 1, skewed as times are
    intervals = [median_interval(draw) for draw in draws]
    assert 0.95 <= np.mean([low <= 1.0 <= high for low, high in intervals]) <= 0.99


@given(times)
def test_the_median_lies_inside_and_samples_keep_their_order(samples: list[float]) -> None:
    before = list(samples)
    low, high = median_interval(samples)
    assert low <= np.median(samples) <= high
    assert {low, high} <= set(samples)
    assert samples == before


@given(times, st.floats(1e-3, 1e3))
def test_the_relative_width_knows_no_unit(samples: list[float], scale: float) -> None:
    width, scaled = relative_half_width(samples), relative_half_width([scale * s for s in samples])
    assert scaled == pytest.approx(width)


def test_without_samples_there_is_no_interval() -> None:
    for interval in (median_interval, time_interval):
        with pytest.raises(ValueError, match="no samples"):
            interval([])
    assert time_interval([7.0]) is None


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_samples_cover_the_median_as_often_as_they_say(n: int) -> None:
    generator = np.random.default_rng(n)
    draws = generator.lognormal(sigma=0.3, size=(4000, n))
    few = [time_interval(draw) or (0.0, 0.0) for draw in draws]
    ranks = [median_interval(draw) for draw in draws]
    assert 0.94 <= np.mean([low <= 1.0 <= high for low, high in few]) <= 0.98
    assert np.mean([low <= 1.0 <= high for low, high in ranks]) < 0.945


@given(times)
def test_an_interval_of_times_holds_what_ranks_give(samples: list[float]) -> None:
    assume(len(samples) > 1)
    low, high = median_interval(samples)
    interval = time_interval(samples)
    assert interval is not None
    assert 0 < interval[0] <= low <= high <= interval[1] < math.inf
    assert len(samples) < 6 or interval == (low, high)


def test_the_noise_floor_of_the_same_code_is_small() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.lognormal(sigma=0.02, size=(2, 40))
    floor = noise_floor(first, second)
    assert floor is not None
    assert 0.001 < floor < 0.02
    assert noise_floor(first, second) == floor


@given(st.floats(0.5, 2.0))
def test_identical_rounds_leave_exactly_the_shift(shift: float) -> None:
    """Whichever of the two is slower: a machine that treats twins differently shows it here."""
    rounds = [100.0, 110.0, 90.0, 120.0, 105.0]
    floor = noise_floor(rounds, [shift * time for time in rounds])
    assert floor == pytest.approx(abs(math.log(shift)), abs=1e-12)


def test_a_shift_of_the_second_raises_the_floor() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.lognormal(sigma=0.02, size=(2, 40))
    floor = noise_floor(first, 1.10 * second)
    assert floor is not None
    assert floor > math.log(1.09)


def test_few_rounds_have_a_high_floor() -> None:
    """Student's interval with two degrees of freedom and a standard deviation of 0.02: the end further from 0."""
    for mean in (0.0, 0.01, -0.01):
        second = [100.0 * math.exp(mean + shift) for shift in (-0.02, 0.0, 0.02)]
        reach = abs(mean) + 4.3027 * 0.02 / math.sqrt(3)
        assert noise_floor([100.0] * 3, second) == pytest.approx(reach, rel=1e-4)


def test_the_noise_floor_pairs_rounds_and_needs_three() -> None:
    drifting = [100.0 * 1.1**n for n in range(12)]
    assert noise_floor(drifting, drifting) == 0.0
    assert noise_floor([1.0] * 2, [1.0] * 9) is None
    assert noise_floor([1.0] * 9, [1.0] * 5) == 0.0


@pytest.mark.parametrize(
    ("samples", "answer"),
    [
        ([100.0] * 9, False),
        ([100.0] * 6 + [104.0] * 3, False),
        ([100.0] * 6 + [106.0] * 3, True),
        ([100.0] * 6 + [94.0] * 3, True),
        ([100.0] * 5 + [200.0] * 3, False),  # eight samples: too few to say
        ([100.0, 500.0, 100.0] * 4, False),  # outliers are no drift
    ],
)
def test_drift(samples: list[float], answer: bool) -> None:
    assert drifts(samples) is answer


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20, 200, 5000])
def test_the_minimums_interval_is_what_a_resampled_minimum_hardly_exceeds(n: int) -> None:
    low, high = min_interval(range(n))
    rank = int(high) + 1
    assert low == 0
    assert (1 - rank / n) ** n <= 0.05
    assert rank == 1 or (1 - (rank - 1) / n) ** n > 0.05
    assert rank <= 3


@given(times)
def test_the_minimums_interval_begins_at_it_and_leaves_the_samples_alone(samples: list[float]) -> None:
    before = list(samples)
    low, high = min_interval(samples)
    assert low == min(samples) <= high
    assert high in samples
    assert samples == before


def test_without_samples_there_is_no_minimum() -> None:
    with pytest.raises(ValueError, match="no samples"):
        min_interval([])


def two_speeds(slow: int, apart: float, n: int = 60, seed: int = 0) -> list[float]:
    """``slow`` of n samples that much slower, in any order, with noise of 1 %."""
    generator = np.random.default_rng(seed)
    samples = 100 * np.exp(generator.normal(0, 0.01, n))
    samples[:slow] *= 1 + apart
    return list(generator.permutation(samples))


@pytest.mark.parametrize("slow", [8, 15, 30, 52])
def test_two_speeds_are_seen_and_the_share_at_the_slower_told(slow: int) -> None:
    assert bimodal(two_speeds(slow, 0.3)) == slow / 60


@pytest.mark.parametrize("samples", [two_speeds(0, 0), two_speeds(2, 0.5), two_speeds(58, 0.5), two_speeds(30, 0.015)])
def test_one_speed_a_few_outliers_and_a_small_step_are_not_two(samples: list[float]) -> None:
    assert bimodal(samples) is None


def test_too_few_samples_have_no_modes_and_equal_ones_have_one() -> None:
    assert bimodal([100.0] * 9 + [200.0] * 10) is None
    assert bimodal([100.0] * 10 + [200.0] * 10) == 0.5
    assert bimodal([100.0] * 40) is None


@pytest.mark.parametrize("kind", ["normal", "lognormal", "uniform", "exponential"])
def test_one_hump_is_hardly_ever_called_two(kind: str) -> None:
    generator = np.random.default_rng(5)
    draws = {
        "normal": 100 + generator.normal(0, 2, (300, 40)),
        "lognormal": 100 * generator.lognormal(0, 0.2, (300, 40)),
        "uniform": generator.uniform(100, 110, (300, 40)),
        "exponential": 100 + generator.exponential(10, (300, 40)),
    }[kind]
    assert np.mean([bimodal(row) is not None for row in draws]) <= 0.03


@given(st.lists(st.floats(1.0, 1e9), min_size=20, max_size=60))
def test_modes_are_shares_of_the_samples_in_any_order(samples: list[float]) -> None:
    share = bimodal(samples)
    assert share is None or 0.1 <= share <= 0.9
    assert bimodal(sorted(samples)) == share
