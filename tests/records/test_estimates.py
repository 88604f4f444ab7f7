"""Estimates against scipy's tests, and by simulation: limits cover, p-values are no smaller than chance."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.records.estimates import MIN_ROUNDS, Estimate, difference, exact, geometric_mean, level, paired
from harness.records.rounds import log_ratios, samples_of
from harness.records.stats import median_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.records.conftest import Maker

ratios = st.lists(st.floats(-1, 1), min_size=MIN_ROUNDS, max_size=40)
deltas = st.floats(-0.5, 0.5)


def one_process(values: list[float]) -> Estimate:
    found = paired({0: values})
    assert found
    return found


def many_processes(values: list[float]) -> Estimate:
    found = paired({process: [value] * 9 for process, value in enumerate(values)})
    assert found
    return found


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    """One of every kind."""
    kind = draw(st.sampled_from(["rounds", "processes", "difference", "exact"]))
    if kind == "rounds":
        return one_process(draw(ratios))
    if kind == "processes":
        return many_processes(draw(st.lists(st.floats(-1, 1), min_size=3, max_size=8)))
    if kind == "difference":
        return difference(one_process(draw(ratios)), one_process(draw(ratios)))
    return exact(draw(st.floats(-1, 1)))


# One process: the median over rounds, by the sign test


@given(ratios)
def test_of_one_process_it_is_the_median_and_its_distribution_free_interval(values: list[float]) -> None:
    found = one_process(values)
    assert found.log_ratio == np.median(values)
    assert (found.low, found.high) == median_interval(values)
    assert (found.rounds, found.processes) == (len(values), 1)


@given(ratios, deltas)
def test_p_is_the_sign_tests_while_rounds_disagree(values: list[float], delta: float) -> None:
    above = sum(value > delta for value in values)
    expected = stats.binomtest(above, len(values), alternative="greater").pvalue
    p = one_process(values).p_above(delta)
    if above < len(values):
        assert p == pytest.approx(expected)
    else:
        assert p <= expected * 1.0001


def test_when_all_rounds_agree_distance_counts_too() -> None:
    values = [0.29, 0.30, 0.31, 0.30, 0.30, 0.29, 0.31, 0.30, 0.30]
    near, far = one_process(values).p_above(0.285), one_process(values).p_above(0.02)
    assert near <= 2.0**-9
    assert far == pytest.approx(stats.ttest_1samp(values, 0.02, alternative="greater").pvalue)
    assert far < 0.05 / 200 / 2, "nine steady rounds, 35 % slower, hold among 200 comparisons"


def test_one_wild_round_takes_certainty_away() -> None:
    values = [0.3] * 8
    assert one_process([*values, 0.31]).p_above(0.02) < 1e-6
    assert one_process([*values, 9.0]).p_above(0.02) == pytest.approx(2.0**-9)
    assert one_process([*values, -9.0]).p_above(0.02) == pytest.approx(10 * 2.0**-9)


@pytest.mark.parametrize("n", [0, 1, MIN_ROUNDS - 1])
def test_too_few_rounds_give_no_estimate(n: int) -> None:
    assert paired({0: [0.1] * n}) is None


def draws(shape: tuple[int, ...], tails: str, seed: int) -> NDArray[np.float64]:
    """Noise of log-ratios around 0: quiet, or with tails as neighbours make them."""
    generator = np.random.default_rng(seed)
    return 0.02 * (generator.normal(size=shape) if tails == "normal" else generator.standard_t(2, size=shape))


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("n", [15, 30])
def test_the_interval_covers_as_often_as_it_says(n: int, tails: str) -> None:
    found = [one_process(list(values)) for values in draws((2000, n), tails, n)]
    assert 0.94 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.98


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("n", [7, 9, 15])
def test_p_is_no_smaller_than_chance(n: int, tails: str) -> None:
    p = np.array([one_process(list(values)).p_above(0.0) for values in draws((3000, n), tails, 10 + n)])
    for alpha in (0.025, 0.01, 0.002):
        assert np.mean(p <= alpha) <= alpha + 3 * math.sqrt(alpha / 3000)


# Several processes: Wilcoxon's signed ranks over their medians


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=14, unique=True), deltas)
def test_of_several_processes_it_is_wilcoxons(medians: list[float], delta: float) -> None:
    moved = np.array(medians) - delta
    assume(len({round(abs(value), 9) for value in moved}) == len(moved))
    assume((abs(moved) > 1e-9).all())
    found = many_processes(medians)
    theirs = stats.wilcoxon(moved, alternative="greater", method="exact").pvalue
    if (moved > 0).all():
        assert found.p_above(delta) <= theirs + 1e-12
    else:
        assert found.p_above(delta) == pytest.approx(theirs)
    assert (found.rounds, found.processes) == (9 * len(medians), len(medians))


def test_the_estimate_of_several_processes_is_the_median_of_their_means_by_twos() -> None:
    found = many_processes([0.1, 0.2, 0.6])
    assert found.log_ratio == pytest.approx(np.median([0.1, 0.15, 0.35, 0.2, 0.4, 0.6]))


def test_where_ranks_know_no_limit_distance_gives_one() -> None:
    values = [0.09, 0.10, 0.11]
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert many_processes(values).low == pytest.approx(interval.low)
    assert many_processes(values).p_above(0.02) == pytest.approx(
        stats.ttest_1samp(values, 0.02, alternative="greater").pvalue
    )


def test_a_disturbed_pair_does_not_hide_a_difference() -> None:
    steady = [0.09, 0.1, 0.11, 0.08, 0.12, 0.095, 0.105, 0.115, 0.085]
    higher, lower = many_processes([*steady, 0.6]), many_processes([*steady, 0.097, 0.103, -0.6])
    for found in (higher, lower):
        assert found.low > 0.02
        assert found.log_ratio == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("n", [3, 4, 6, 10])
def test_over_processes_too_p_is_no_smaller_than_chance(n: int, tails: str) -> None:
    p = np.array([many_processes(list(values)).p_above(0.0) for values in draws((3000, n), tails, 20 + n)])
    for alpha in (0.05, 0.025, 0.01, 0.002):
        assert np.mean(p <= alpha) <= alpha + 3 * math.sqrt(alpha / 3000)


def test_rounds_of_one_process_are_worth_one_median() -> None:
    steady, wild = [0.1] * 9, [0.1] * 5 + [5.0] * 4
    found, same = paired({0: steady, 1: steady, 2: wild}), paired({0: steady, 1: steady, 2: steady})
    assert found
    assert same
    assert (found.log_ratio, found.low, found.high) == (same.log_ratio, same.low, same.high)


def test_fewer_than_three_processes_say_nothing() -> None:
    assert paired({0: [0.1] * 50, 1: [0.1] * 50}) is None
    assert paired({0: [0.1] * 50, 1: [0.1] * 50, 2: []}) is None
    assert paired({}) is None


def test_one_process_on_each_side_is_one_too_few() -> None:
    assert paired({0: [0.1] * 50})
    assert paired({0: [0.1] * 50}, several=True) is None
    assert paired({0: [0.1], 1: [0.2], 2: [0.1]}, several=True)


# Two bouts


def test_a_difference_joins_the_limits_of_both() -> None:
    base, new = one_process([n / 100 for n in range(9)]), many_processes([0.5, 0.52, 0.57])
    found = difference(base, new)
    assert found.log_ratio == new.log_ratio - base.log_ratio
    low = math.hypot(new.log_ratio - new.low, base.high - base.log_ratio)
    high = math.hypot(new.high - new.log_ratio, base.log_ratio - base.low)
    assert (found.low, found.high) == pytest.approx((found.log_ratio - low, found.log_ratio + high))
    assert (found.rounds, found.processes) == (9, 1)


@pytest.mark.parametrize("kind", ["rounds", "processes", "both"])
def test_a_difference_covers_and_its_p_is_no_smaller_than_chance(kind: str) -> None:
    noise, medians = draws((2, 700, 15), "normal", 5), draws((2, 700, 4), "normal", 6)
    makers = {"rounds": (0, 0), "processes": (1, 1), "both": (0, 1)}[kind]
    sides = [
        [many_processes(list(row)) for row in medians[side]]
        if makers[side]
        else [one_process(list(row)) for row in noise[side]]
        for side in (0, 1)
    ]
    found = [difference(base, new) for base, new in zip(*sides, strict=True)]
    assert 0.95 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.995
    p = np.array([one.p_above(0.0) for one in found])
    assert np.mean(p <= 0.025) <= 0.025
    assert np.mean(p <= 0.005) <= 0.01


@given(ratios, ratios)
def test_a_difference_to_itself_is_nothing(values: list[float], others: list[float]) -> None:
    one, other = one_process(values), one_process(others)
    assert difference(one, one).log_ratio == 0
    assert difference(one, one).low <= 0 <= difference(one, one).high
    width = difference(one, other).high - difference(one, other).low
    assert width >= max(one.high - one.low, other.high - other.low) - 1e-12


# All kinds


@settings(deadline=None)
@given(estimates(), deltas)
def test_swapping_base_and_new_turns_everything_around(one: Estimate, delta: float) -> None:
    other = one.swapped()
    assert other.log_ratio == -one.log_ratio
    assert (other.low, other.high) == (-one.high, -one.low)
    assert other.p_above(delta) == one.p_below(-delta)
    assert other.p_below(delta) == one.p_above(-delta)
    assert other.swapped().low == one.low


@settings(deadline=None)
@given(estimates(), deltas)
def test_the_interval_and_p_agree(one: Estimate, delta: float) -> None:
    assert one.low <= one.log_ratio + 1e-12
    assert one.high >= one.log_ratio - 1e-12
    p = one.p_above(delta)
    assert 0 <= p <= 1
    if abs(p - 0.025) > 1e-4:
        assert (p <= 0.025) == (one.low > delta)


@settings(deadline=None)
@given(estimates(), st.lists(st.floats(1e-6, 0.5), min_size=2, max_size=5), deltas, deltas)
def test_more_certainty_costs_width(one: Estimate, errors: list[float], a: float, b: float) -> None:
    limits = [one.lower(error) for error in sorted(errors)]
    assert all(low <= high + 1e-12 for low, high in pairwise(limits))
    assert one.p_above(min(a, b)) <= one.p_above(max(a, b)) + 1e-6


def test_exact_figures_know_no_chance() -> None:
    more = exact(0.1)
    assert (more.low, more.high, more.p_above(0.02), more.p_above(0.1), more.p_below(-0.02)) == (0.1, 0.1, 0, 1, 1)
    assert exact(math.inf).p_above(9.0) == 0


# From samples to log-ratios


def test_only_rounds_of_both_count_process_by_process() -> None:
    base = {(0, 0): 2.0, (0, 1): 4.0, (1, 0): 8.0, (2, 5): 1.0}
    new = {(0, 1): 8.0, (0, 0): 2.0, (1, 0): 4.0, (2, 6): 1.0}
    assert log_ratios(base, new) == {0: [0.0, pytest.approx(math.log(2))], 1: [pytest.approx(-math.log(2))]}


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_what_is_no_time_is_said(value: float) -> None:
    good, bad = {(0, 0): 1.0}, {(0, 0): 1.0, (0, 1): value}
    for sides in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="is not a time"):
            log_ratios(*sides)


def test_samples_go_by_process_and_round(make: Maker) -> None:
    assert samples_of(make.timing([3.0, 4.0], rounds=[0, 5])) == {(0, 0): 3.0, (0, 5): 4.0}
    assert samples_of(make.timing([3.0, 4.0], rounds=[0, 0], processes=[1, 2])) == {(1, 0): 3.0, (2, 0): 4.0}
    for fields in ({"rounds": [0]}, {"processes": [0]}):
        with pytest.raises(ValueError, match="samples of"):
            samples_of(make.timing([3.0, 4.0], **fields))


@given(st.lists(st.floats(1.0, 1e12), min_size=MIN_ROUNDS, max_size=20))
def test_a_level_is_the_time_itself(times: list[float]) -> None:
    found = level({(0, n): time for n, time in enumerate(times)})
    assert found
    assert found.log_ratio == pytest.approx(np.median(np.log(times)))
    assert level({(0, n): 1.0 for n in range(MIN_ROUNDS - 1)}) is None


# Many cases


@pytest.mark.parametrize("cases", [2, 5, 30])
def test_the_mean_covers_what_cases_of_the_kind_have_in_common(cases: int) -> None:
    generator, covered = np.random.default_rng(cases), []
    for _ in range(600):
        truths = generator.normal(0.03, 0.1, cases)
        mean = geometric_mean([one_process(list(generator.normal(truth, 0.02, 9))) for truth in truths])
        assert mean
        covered.append(mean.low <= 0.03 <= mean.high)
    assert 0.925 <= np.mean(covered) <= 0.975


def test_the_mean_is_that_of_the_logarithms() -> None:
    found = geometric_mean([exact(math.log(2)), exact(math.log(0.5)), exact(math.inf)])
    assert found
    assert found.log_ratio == pytest.approx(0)
    assert found.low < -1 < 1 < found.high, "two cases tell little of others"


def test_a_single_case_keeps_its_interval_and_none_has_none() -> None:
    one = one_process([n / 100 for n in range(9)])
    assert geometric_mean([one, exact(-math.inf)]) is one
    assert geometric_mean([]) is None
    assert geometric_mean([exact(math.inf)]) is None


def test_what_is_made_of_several_stands_on_the_least_of_them() -> None:
    short, long = one_process([n / 100 for n in range(MIN_ROUNDS)]), many_processes([0.1, 0.2, 0.3, 0.4])
    for made in (difference(short, long), difference(long, short), geometric_mean([long, short])):
        assert made
        assert (made.rounds, made.processes) == (MIN_ROUNDS, 1)
