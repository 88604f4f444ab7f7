from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.figures import TRACKED
from harness.records.history import Point
from harness.records.steps import ENOUGH, find_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

START = datetime(2026, 9, 1, tzinfo=UTC)
WOBBLE = (0.0, 0.004, -0.003, 0.002, -0.004, 0.001, 0.003, -0.002)


def points(
    values: Sequence[float | None], width: float = 0.004, noise: float | None = 0.002, revisions: str = ""
) -> list[Point]:
    return [
        Point(
            run=f"run-{n}",
            date=START + timedelta(days=n),
            commit=f"c{n}",
            revision=revisions[n] if revisions else f"c{n}",
            status="ok" if value is not None else "crashed",
            value=value,
            low=None if value is None else value * (1 - width),
            high=None if value is None else value * (1 + width),
            noise=noise,
        )
        for n, value in enumerate(values)
    ]


def wobbling(*levels: float) -> list[float | None]:
    return [level * (1 + WOBBLE[n % len(WOBBLE)]) for n, level in enumerate(levels)]


@pytest.mark.parametrize(
    ("measure", "word", "worse"),
    [
        ("time", "slower", True),
        ("tokens_per_second", "more tokens/s", False),
        ("memory", "more memory", True),
        ("energy", "more energy", True),
        ("relative", "slower", True),
    ],
)
@pytest.mark.parametrize("scale", [3e-3, 1.0, 4e9])
def test_a_step_up_is_found_where_it_is_and_said_in_words(measure: str, word: str, worse: bool, scale: float) -> None:
    found = find_steps(points(wobbling(*[scale] * 5, *[1.12 * scale] * 5)), TRACKED[measure])
    (step,) = found.steps
    assert (step.before, step.at) == (4, 5)
    assert (step.word, step.worse, step.newest_only, step.same_revision) == (word, worse, False, False)
    assert step.change == pytest.approx(0.12, abs=0.01)
    assert [(level.first, level.last) for level in found.levels] == [(0, 4), (5, 9)]


@pytest.mark.parametrize(
    ("measure", "word", "worse"),
    [
        ("time", "faster", False),
        ("tokens_per_second", "fewer tokens/s", True),
        ("memory", "less memory", False),
        ("energy", "less energy", False),
        ("relative", "faster", False),
    ],
)
def test_a_step_down(measure: str, word: str, worse: bool) -> None:
    (step,) = find_steps(points(wobbling(*[1e6] * 6, *[8e5] * 4)), TRACKED[measure]).steps
    assert (step.at, step.word, step.worse) == (6, word, worse)


def test_two_steps() -> None:
    found = find_steps(points(wobbling(*[1.0] * 6, *[1.3] * 6, *[1.1] * 6)), TRACKED["time"])
    assert [(step.at, step.word) for step in found.steps] == [(6, "slower"), (12, "faster")]


@pytest.mark.parametrize("count", [4, 5, 6, 8, 20])
def test_hardly_ever_a_step_in_noise(count: int) -> None:
    generator = np.random.default_rng(5)
    series = [generator.lognormal(0.0, 0.01, size=count).tolist() for _ in range(60)]
    claimed = sum(bool(find_steps(points(values), TRACKED["time"]).steps) for values in series)
    assert claimed <= 5


def test_asv_alone_would_take_noise_for_steps() -> None:
    """What the second look is for."""
    from asv.step_detect import detect_steps

    generator = np.random.default_rng(5)
    series = [generator.lognormal(0.0, 0.01, size=5).tolist() for _ in range(60)]
    assert sum(len(detect_steps(values)) > 1 for values in series) > 10


def test_a_deterministic_figure_shows_small_steps() -> None:
    (step,) = find_steps(points([1000.0] * 4 + [1010.0] * 4, width=0.0, noise=None), TRACKED["memory"]).steps
    assert (step.at, step.old, step.new) == (4, 1000.0, 1010.0)


def test_less_than_half_a_percent_is_not_worth_a_word() -> None:
    assert not find_steps(points([1000.0] * 4 + [1004.0] * 4, width=0.0, noise=None), TRACKED["memory"]).steps


def test_a_step_within_what_the_same_code_shows_against_itself_is_none() -> None:
    values = wobbling(*[1.0] * 6, *[1.12] * 6)
    assert find_steps(points(values, noise=0.1), TRACKED["time"]).steps
    assert not find_steps(points(values, noise=0.2), TRACKED["time"]).steps


HOP, ODD = math.log(1.01), math.log(1.03)


@pytest.mark.parametrize(
    ("values", "width", "floor", "noise"),
    [
        ([100.0] * 4 + [200.0] * 4, 0.0, None, 0.005),
        ([100.0, 101.0] * 2 + [200.0, 202.0] * 2, 0.0, None, 3 * 1.4826 * HOP / math.sqrt(2)),
        # One odd point in seven: most hops are nothing, so that only the scatter around the two levels tells.
        ([100.0] * 3 + [103.0] + [100.0] * 3 + [200.0] * 3 + [206.0] + [200.0] * 3, 0.0, None, 3 * ODD / 7),
        ([100.0] * 4 + [200.0] * 4, 0.0, 0.1, 0.1),
        ([100.0] * 4 + [200.0] * 4, 0.2, None, math.hypot(*[math.log(1.2 / 0.8) / 2] * 2)),
        ([100.0] * 4 + [200.0], 0.0, 0.1, 1.5 * 0.1),
    ],
    ids=["the least", "between points", "around levels", "the same code", "intervals", "the newest alone"],
)
def test_the_noise_is_the_largest_of_what_is_known(
    values: list[float], width: float, floor: float | None, noise: float
) -> None:
    (step,) = find_steps(points(values, width, floor), TRACKED["time"]).steps
    assert step.noise == pytest.approx(math.expm1(noise))


def test_a_step_within_the_intervals_is_none() -> None:
    assert not find_steps(points(wobbling(*[1.0] * 6, *[1.12] * 6), width=0.3), TRACKED["time"]).steps


def test_one_odd_run_is_no_step() -> None:
    assert not find_steps(points(wobbling(*[1.0] * 5, 1.5, *[1.0] * 5)), TRACKED["time"]).steps
    assert not find_steps(points(wobbling(1.5, *[1.0] * 9)), TRACKED["time"]).steps


def test_an_odd_run_beside_a_step_does_not_hide_it() -> None:
    (step,) = find_steps(points(wobbling(*[1.0] * 6, 1.6, *[1.3] * 6)), TRACKED["time"]).steps
    assert (step.word, step.at) in {("slower", 6), ("slower", 7)}


def test_the_newest_run_alone_counts_and_is_said_to_be_alone() -> None:
    (step,) = find_steps(points(wobbling(*[1.0] * 7, 1.3)), TRACKED["time"]).steps
    assert (step.at, step.newest_only) == (7, True)


@pytest.mark.parametrize("count", range(ENOUGH))
def test_too_few_points_claim_nothing_and_say_so(count: int) -> None:
    found = find_steps(points([1.0, 2.0, 4.0][:count]), TRACKED["time"])
    assert not found.steps
    assert found.note == f"too few points to tell a step from noise: {count} of 4"


def test_points_without_a_value_are_passed_over() -> None:
    values = wobbling(*[1.0] * 6, *[1.3] * 6)
    values[2] = values[5] = values[6] = None
    found = find_steps(points(values), TRACKED["time"])
    (step,) = found.steps
    assert (step.before, step.at) == (4, 7)
    assert (found.levels[0].first, found.levels[1].last) == (0, 11)


def test_a_step_without_a_change_of_the_code_is_marked() -> None:
    values = wobbling(*[1.0] * 4, *[1.3] * 4)
    same, other = (find_steps(points(values, revisions=each), TRACKED["time"]).steps for each in ("a" * 8, "aaaabbbb"))
    assert [step.same_revision for step in (*same, *other)] == [True, False]


@given(
    st.lists(st.none() | st.floats(1.0, 1e9), max_size=14),
    st.floats(0, 0.5),
    st.none() | st.floats(0, 1),
)
def test_whatever_the_series_levels_tile_its_values(
    values: list[float | None], width: float, noise: float | None
) -> None:
    found = find_steps(points(values, width, noise), TRACKED["time"])
    known = [n for n, value in enumerate(values) if value is not None]
    if len(known) < ENOUGH:
        assert found.note
        assert not found.levels
        return
    covered = [n for level in found.levels for n in known if level.first <= n <= level.last]
    assert covered == known
    assert len(found.steps) == len(found.levels) - 1
    assert all(abs(math.log1p(step.change)) > math.log1p(step.noise) for step in found.steps)
    assert all(step.newest_only == (step.at == known[-1]) for step in found.steps)
