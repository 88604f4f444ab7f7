"""The verdict's words, and that chance is not called a difference: alone, among many, between processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.records.estimates import Estimate, difference, exact, paired
from harness.records.verdicts import (
    SIGNIFICANCE,
    THRESHOLD,
    WORDS,
    Scatter,
    Verdict,
    delta_of,
    hold,
    judge,
    parse_threshold,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELTA = delta_of(THRESHOLD)
verdicts = st.lists(st.builds(Verdict, st.sampled_from(WORDS), st.just(DELTA), st.floats(0, 1)), max_size=30)


def around(centre: float, spread: float, rounds: int = 21) -> Estimate:
    """An estimate from rounds spread evenly over centre +- spread."""
    found = paired({0: list(np.linspace(centre - spread, centre + spread, rounds))})
    assert found
    return found


# The threshold


@pytest.mark.parametrize(
    ("text", "share"), [("2%", 0.02), ("0.02", 0.02), (" 2.5 % ", 0.025), ("0", 0.0), ("0%", 0.0), ("1e-2", 0.01)]
)
def test_a_threshold_is_a_share(text: str, share: float) -> None:
    assert parse_threshold(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "two", "2", "100%", "-1%", "nan", "inf", "2%%", "-0.5"])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="--threshold") as refused:
        parse_threshold(text)
    assert "\n" not in str(refused.value)


def test_the_largest_floor_known_counts() -> None:
    assert delta_of(0.02) == pytest.approx(math.log(1.02))
    assert delta_of(0.02, None, 0.01) == delta_of(0.02)
    assert delta_of(0.02, 0.07, None, 0.05) == 0.07
    assert delta_of(0.02, math.nan, 0.05) == 0.05


# One verdict


@pytest.mark.parametrize(
    ("centre", "spread", "word"),
    [
        (0.10, 0.02, "SLOWER"),
        (-0.10, 0.02, "FASTER"),
        (0.00, 0.01, "SAME"),
        (0.01, 0.01, "SAME"),
        (0.02, 0.02, "AMBIGUOUS"),
        (0.10, 0.50, "AMBIGUOUS"),
        (0.00, 0.50, "AMBIGUOUS"),
    ],
)
def test_the_whole_interval_decides(centre: float, spread: float, word: str) -> None:
    found = judge(around(centre, spread), DELTA)
    assert (found.word, found.delta) == (word, DELTA)
    assert bool(found.why) == (word == "AMBIGUOUS")
    assert (found.p <= SIGNIFICANCE) == (word in {"SLOWER", "FASTER"})


def test_without_an_estimate_it_is_ambiguous() -> None:
    found = judge(None, DELTA)
    assert (found.word, found.p) == ("AMBIGUOUS", 1.0)
    assert "fewer than 7 rounds, or 3 processes" in found.why


def test_the_same_figure_is_the_same_even_at_a_threshold_of_nothing() -> None:
    assert judge(exact(0.0), 0.0).word == "SAME"
    assert judge(exact(1e-9), 0.0).word == "SLOWER"
    assert judge(around(0, 0), 0.0).word == "SAME"


def test_where_any_difference_may_be_noise_nothing_is_the_same() -> None:
    assert judge(exact(0.0), math.inf).word == "AMBIGUOUS"


@given(st.floats(-0.2, 0.2), st.floats(0, 0.1), st.floats(0, 0.1), st.sampled_from([None, Scatter(0.03)]))
def test_swapping_base_and_new_swaps_the_word(
    centre: float, spread: float, delta: float, scatter: Scatter | None
) -> None:
    estimate = around(centre, spread)
    one, other = judge(estimate, delta, scatter), judge(estimate.swapped(), delta, scatter)
    swapped = {"FASTER": "SLOWER", "SLOWER": "FASTER"}
    assert other.word == swapped.get(one.word, one.word)
    assert other.p == one.p


# Scatter between processes


def test_a_difference_at_the_floor_comes_once_in_twenty_times() -> None:
    for freedom in (2, 9, math.inf):
        assert Scatter(0.05, freedom).chance(exact(0.05)) == pytest.approx(0.05)
        assert Scatter(0.05, freedom).chance(exact(-0.05)) == pytest.approx(0.05)
    assert Scatter(0.05).chance(exact(0.1)) == pytest.approx(2 * stats.norm.sf(2 * 1.959964), rel=1e-4)


def test_the_nearer_end_counts_and_few_processes_tell_little() -> None:
    wide = around(0.1, 0.08)
    assert Scatter(0.05).chance(wide) == Scatter(0.05).chance(exact(wide.low))
    assert Scatter(0.05).chance(around(0.01, 0.05)) == 1.0
    chances = [Scatter(0.05, freedom).chance(exact(0.15)) for freedom in (2, 5, 20, math.inf)]
    assert chances == sorted(chances, reverse=True)
    assert Scatter(0.0).chance(exact(0.01)) == 0.0


def test_what_processes_may_differ_by_is_part_of_p() -> None:
    slower, scatter = around(0.08, 0.001), Scatter(0.05, remedy="do better")
    assert judge(slower, DELTA).p < 1e-6
    found = judge(slower, DELTA, scatter)
    assert (found.word, found.delta) == ("SLOWER", 0.05)
    assert found.p == pytest.approx(0.0019, rel=0.1)


@pytest.mark.parametrize(
    ("centre", "word"), [(0.0, "SAME"), (0.04, "AMBIGUOUS"), (-0.04, "AMBIGUOUS"), (0.06, "SLOWER")]
)
def test_nothing_is_the_same_for_being_below_the_scatter(centre: float, word: str) -> None:
    found = judge(around(centre, 0.001), DELTA, Scatter(0.05, remedy="do better"))
    assert (found.word, found.delta) == (word, 0.05)
    if word == "AMBIGUOUS":
        assert found.why.endswith("not surely larger than identical code shows; do better")


@pytest.mark.parametrize("sign", [1, -1])
def test_an_interval_below_what_counts_is_not_said_to_reach_over_it(sign: int) -> None:
    """Over the threshold, so not the same; far from what processes differ by, so no difference either."""
    found = judge(around(sign * 0.04, 0.06), DELTA, Scatter(0.15, remedy="do better"))
    assert (found.word, found.delta) == ("AMBIGUOUS", 0.15)
    assert found.why == (
        "the interval reaches over the threshold, or the noise of its bout, so not the SAME; "
        "nor beyond what identical code shows, so no difference; do better"
    )
    over = judge(around(sign * 0.04, 0.3), DELTA, Scatter(0.15, remedy="do better"))
    assert over.why == "the interval reaches over the difference that counts; measure longer"


# Among many


@given(verdicts)
def test_holding_only_ever_takes_back(given_: list[Verdict]) -> None:
    held = hold(given_)
    assert len(held) == len(given_)
    for before, after in zip(given_, held, strict=True):
        assert (after.p, after.delta) == (before.p, before.delta)
        if after.word != before.word:
            assert before.word in {"FASTER", "SLOWER"}
            assert after.word == "AMBIGUOUS"
            assert f"among {len(given_)} comparisons" in after.why


@given(verdicts)
def test_it_is_holms_step_down(given_: list[Verdict]) -> None:
    held, p = hold(given_), sorted(verdict.p for verdict in given_)
    passed = next((i for i, value in enumerate(p) if value > SIGNIFICANCE / (len(p) - i)), len(p))
    for before, after in zip(given_, held, strict=True):
        stands = before.p in p[:passed]
        assert after.word == (before.word if stands or before.word in {"SAME", "AMBIGUOUS"} else "AMBIGUOUS")


def test_a_comparison_alone_keeps_its_word() -> None:
    for estimate in (around(0.1, 0.02), around(-0.1, 0.02, 7), exact(0.5)):
        alone = judge(estimate, DELTA)
        assert hold([alone]) == [alone]
    assert hold([]) == []


def test_a_large_steady_difference_holds_among_hundreds() -> None:
    steady = judge(around(math.log(2), 0.01, rounds=9), DELTA)
    assert hold([steady, *[Verdict("SAME", DELTA, 1.0)] * 400])[0].word == "SLOWER"


def test_a_close_call_does_not() -> None:
    close = judge(around(0.035, 0.02, 15), DELTA)
    assert close.word == "SLOWER"
    assert hold([close, *[Verdict("SAME", DELTA, 1.0)] * 99])[0].word == "AMBIGUOUS"


def test_exact_figures_hold_however_many_there_are() -> None:
    found = hold([judge(exact(value), DELTA) for value in [0.03, -0.03, *[0.0] * 500]])
    assert [one.word for one in found[:3]] == ["SLOWER", "FASTER", "SAME"]


# By simulation: how often identical code is called different, and a true difference is found


def noise(shape: tuple[int, ...], kind: str, seed: int) -> NDArray[np.float64]:
    """Log-ratios of identical code: quiet, or with neighbours that double one sample in eight."""
    generator = np.random.default_rng(seed)
    quiet = generator.normal(0, 0.01, shape)
    if kind == "quiet":
        return quiet
    slowed = (generator.random((2, *shape)) < 1 / 8).astype(np.float64)
    quiet += math.log(2) * (slowed[0] - slowed[1])
    return quiet


@pytest.mark.parametrize("kind", ["quiet", "bursts"])
@pytest.mark.parametrize("rounds", [7, 15, 30])
def test_identical_code_is_hardly_ever_called_different(kind: str, rounds: int) -> None:
    found = [judge(paired({0: list(row)}), DELTA).word for row in noise((2000, rounds), kind, rounds)]
    assert sum(word in {"FASTER", "SLOWER"} for word in found) <= 4, "0.2 %"


def test_without_any_threshold_families_of_identical_code_raise_few_alarms() -> None:
    families = noise((200, 20, 15), "quiet", 3)
    alarms = sum(
        any(one.word != "AMBIGUOUS" for one in hold([judge(paired({0: list(row)}), 0.0) for row in family]))
        for family in families
    )
    assert alarms / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_a_true_difference_of_five_percent_is_found_in_quiet() -> None:
    rows = math.log(1.05) + noise((300, 15), "quiet", 4)
    found = [judge(paired({0: list(row)}), DELTA).word for row in rows]
    assert found.count("SLOWER") >= 0.95 * 300
    assert "FASTER" not in found


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_processes_that_differ_for_no_reason_do_not_make_regressions(tails: str) -> None:
    """Two runs of 40 unchanged implementations: each pair of processes is off by 2 %, which rounds do not show."""
    generator, alarms = np.random.default_rng(6), []
    for _ in range(25):
        offsets = generator.normal(size=40) if tails == "normal" else generator.standard_t(4, size=40) / math.sqrt(2)
        apart = [apart_by(0.02 * offset, generator) for offset in offsets]
        scatter = Scatter(0.02 * 1.96)
        found = hold([judge(one, DELTA, scatter) for one in apart])
        alarms.append(sum(one.word in {"FASTER", "SLOWER"} for one in found))
    assert sum(alarms) <= 0.01 * 25 * 40
    if tails == "normal":
        assert np.mean(np.array(alarms) > 0) <= 0.12, "one run in twenty, and as many more by chance"


def apart_by(offset: float, generator: np.random.Generator) -> Estimate:
    base, new = (paired({0: list(generator.normal(centre, 0.005, 15))}) for centre in (0.0, offset))
    assert base
    assert new
    return difference(base, new)
