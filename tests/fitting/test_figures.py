"""Figures of routed tokens against cases worked by hand, formulas and invariants."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.fitting.figures import (
    FIGURES,
    WINDOW_TOKENS,
    Choices,
    all_figures,
    any_repeats,
    busiest_in_window,
    choices_of,
    closest_lift,
    first_excess,
    first_repeats,
    lift_scatter,
    load_curve,
    shared_excess,
)
from harness.traces.format import TraceInfo
from harness.traces.writing import make_trace


def one_stretch(ids: object, experts: int) -> Choices:
    array = np.asarray(ids, dtype=np.int64)
    return Choices(array, experts, np.zeros(len(array), dtype=np.int64))


@st.composite
def some_choices(draw: st.DrawFn) -> Choices:
    experts = draw(st.integers(2, 9))
    k = draw(st.integers(1, experts))
    tokens = draw(st.lists(st.permutations(range(experts)), min_size=2, max_size=30))
    return one_stretch([token[:k] for token in tokens], experts)


def test_by_hand() -> None:
    choices = one_stretch([[0, 1], [0, 2], [3, 0], [1, 3]], 5)
    assert choices.counts.tolist() == [3, 2, 1, 2, 0]
    assert load_curve(choices).tolist() == [3 / 8, 2 / 8, 2 / 8, 1 / 8, 0]
    assert first_repeats(choices) == pytest.approx(1 / 3)
    assert any_repeats(choices) == 1
    by_load = (3**2 + 2**2 + 1**2 + 2**2) / 4**2
    assert shared_excess(choices) == pytest.approx(1 / by_load)
    assert first_excess(choices) == pytest.approx(1 / 3 / ((2**2 + 1 + 1) / 4**2))


def test_repeats_stop_at_the_end_of_a_stretch() -> None:
    ids = np.array([[0], [0], [0], [1]])
    assert first_repeats(Choices(ids, 2, np.array([0, 0, 1, 1]))) == pytest.approx(1 / 2)
    assert math.isnan(first_repeats(Choices(ids, 2, np.arange(4))))


def test_dropped_slots_count_nowhere() -> None:
    choices = one_stretch([[0, 4], [4, 4], [4, 4]], 4)
    assert choices.counts.tolist() == [1, 0, 0, 0]
    assert first_repeats(choices) == 0
    assert any_repeats(choices) == 0


def test_windows_see_bursts_that_the_whole_does_not() -> None:
    ids = np.repeat([[0], [1]], WINDOW_TOKENS, axis=0)
    assert FIGURES["max_over_mean"].compute(one_stretch(ids, 2)) == 1
    assert busiest_in_window(one_stretch(ids, 2)) == 2
    assert math.isnan(busiest_in_window(one_stretch(ids[:-1], 2)))


def test_experts_that_always_meet() -> None:
    rng = np.random.default_rng(0)
    together = rng.integers(0, 8, 2000)
    paired = np.stack([2 * together, 2 * together + 1], axis=1)
    alone = np.stack([2 * together, 2 * rng.permutation(together) + 1], axis=1)
    assert lift_scatter(one_stretch(paired, 16)) > 3 * lift_scatter(one_stretch(alone, 16))
    assert closest_lift(one_stretch(paired, 16)) > 5


def test_one_expert_a_token_meets_none() -> None:
    choices = one_stretch([[0], [1], [0]], 2)
    assert math.isnan(lift_scatter(choices))
    assert math.isnan(closest_lift(choices))


@settings(max_examples=60, deadline=None)
@given(some_choices())
def test_lifts_are_those_of_counting(choices: Choices) -> None:
    met = Counter(pair for token in choices.ids.tolist() for pair in combinations(sorted(token), 2))
    c = choices.counts
    chance = {(i, j): int(c[i] * c[j]) for i, j in combinations(range(choices.experts), 2) if c[i] * c[j]}
    if not met:
        assert math.isnan(lift_scatter(choices))
        return
    scale = sum(met.values()) / sum(chance.values())
    squares = sum(scale * n * (met[pair] / (scale * n) - 1) ** 2 for pair, n in chance.items())
    assert lift_scatter(choices) == pytest.approx(math.sqrt(squares / sum(met.values())), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(some_choices(), st.randoms(use_true_random=False))
def test_names_of_experts_mean_nothing(choices: Choices, random: object) -> None:
    order = list(range(choices.experts))
    random.shuffle(order)  # type: ignore[attr-defined]
    renamed = one_stretch(np.array(order)[choices.ids], choices.experts)
    first, second = all_figures(choices), all_figures(renamed)
    for name in FIGURES:
        assert first[name] == pytest.approx(second[name], nan_ok=True, abs=1e-9)


def test_a_trace_is_put_in_order_of_weight_and_broken_where_tokens_are_missing() -> None:
    trace = make_trace(
        TraceInfo(model="m", experts=4, top_k=2),
        ids=[[0, 1], [2, 3], [1, 0], [3, 2]],
        weights=[[0.1, 0.9], [0.9, 0.1], [0.5, 0.5], [0.2, 0.3]],
        layer=[0] * 4,
        request=[0, 0, 0, 1],
        position=[0, 1, 3, 4],
        phase=[0] * 4,
    )
    choices = choices_of(trace)
    assert choices.ids.tolist() == [[1, 0], [2, 3], [1, 0], [2, 3]]
    assert choices.stretches.tolist() == [0, 0, 1, 2]
