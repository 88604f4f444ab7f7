"""The search for a configuration, with candidates of known cost and a clock that is told the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.measure.climb import ABREAST, Climb, score
from harness.records.record import ImplInfo, Record, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.records.record import Values

CASE = Case(shape=Shape(hidden=8, expert_hidden=8, experts=2, top_k=1), traffic=Traffic(tokens=4))


def record(ns: float | None, drift: float = 1.0) -> Record:
    """Eight rounds, each a little slower than the last when there is drift; without a time it disagrees."""
    fields: dict[str, Any] = {"status": "disagrees", "reason": "wrong"}
    if ns is not None:
        samples = [ns * drift**n for n in range(8)]
        timing = Timing(
            clock="wall", cache="hot", samples_ns=samples, rounds=list(range(8)), calls_per_sample=1,
            prepare_ns=0, first_call_ns=0, warmup_calls=0, warm=True, stopped="rounds",
        )  # fmt: skip
        fields = {"status": "ok", "timing": timing}
    info = ImplInfo(name="x", family="loop")
    return Record(case=CASE, case_id=CASE.case_id, impl=info, environment_id="", **fields)


class Bench:
    """Measures by a formula; a bout takes one second of its own clock and a bit of chance slows everybody down."""

    def __init__(
        self, cost: Callable[[int, int], float | None], start: tuple[int, int] = (0, 0), size: int = 8
    ) -> None:
        self.cost = cost
        self.at = start
        self.size = size
        self.seconds = 0.0
        self.bouts: list[list[tuple[int, int]]] = []
        self.budgets: list[float] = []

    def candidates(self, base: Values | None) -> list[Values]:
        x, y = (int(base["x"]), int(base["y"])) if base else self.at
        near = [(x, y), (x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        return [{"x": a, "y": b} for a, b in near if 0 <= a < self.size and 0 <= b < self.size]

    def measure(self, some: Sequence[Values], budget_s: float) -> list[Record]:
        self.bouts.append([(int(values["x"]), int(values["y"])) for values in some])
        self.budgets.append(budget_s)
        self.seconds += 1
        slow = 1 + 0.3 * (len(self.bouts) % 3)
        costs = [self.cost(*where) for where in self.bouts[-1]]
        return [record(None if cost is None else cost * slow, 1.05) for cost in costs]

    def climb(self, budget_s: float = 1000.0, **given: Any) -> Climb:
        made = Climb(self.candidates, self.measure, lambda: self.seconds, **given)
        made.run(budget_s)
        return made


def bowl(x: int, y: int) -> float:
    return 1000.0 * (1 + (x - 3) ** 2 + (y - 5) ** 2)


@settings(deadline=None)
@given(st.integers(0, 7), st.integers(0, 7))
def test_it_finds_the_bottom_of_a_bowl_from_anywhere(x: int, y: int) -> None:
    bench = Bench(bowl, (x, y))
    found = bench.climb()
    assert found.best == {"x": 3, "y": 5}
    assert found.default == {"x": x, "y": y}
    assert found.whole


def test_the_default_is_in_every_bout_and_meets_the_best_at_the_end() -> None:
    bench = Bench(bowl)
    found = bench.climb()
    assert {bout[0] for bout in bench.bouts} == {(0, 0)}
    assert bench.bouts[-1] == [(0, 0), (3, 5)]
    assert len(found.records) == 2
    assert score(*found.records) == pytest.approx(-3.5553, abs=1e-3)


def test_nobody_is_asked_twice_before_the_end() -> None:
    bench = Bench(bowl)
    bench.climb()
    asked = [where for bout in bench.bouts[:-1] for where in bout[1:]]
    assert len(asked) == len(set(asked))


def test_what_disagrees_never_wins() -> None:
    bench = Bench(lambda x, y: None if (x, y) == (3, 5) else bowl(x, y))
    found = bench.climb()
    assert found.best in [{"x": 3, "y": 4}, {"x": 2, "y": 5}, {"x": 4, "y": 5}, {"x": 3, "y": 6}]
    assert found.failed == {"disagrees: wrong": 1}


def test_a_default_that_cannot_be_timed_ends_it() -> None:
    bench = Bench(lambda x, y: None if (x, y) == (0, 0) else 1.0)
    found = bench.climb()
    assert len(bench.bouts) == 1
    assert found.best == found.default
    assert found.records[0].status == "disagrees"


def test_small_gains_are_no_step() -> None:
    found = Bench(lambda x, y: 1000.0 * 0.998 ** (x + y)).climb()
    assert found.best == found.default
    assert found.whole


def test_the_budget_ends_it_and_leaves_time_for_the_last_bout() -> None:
    bench = Bench(bowl)
    found = bench.climb(8.0)
    assert not found.whole
    assert len(bench.bouts) == 7
    assert bench.bouts[-1] == [(0, 0), tuple(found.best.values())]
    assert bench.budgets[-1] == pytest.approx(2.0)


def test_a_bout_is_given_a_second_for_each_at_most() -> None:
    bench = Bench(bowl)
    bench.climb()
    assert bench.budgets[0] == 3.0
    assert all(budget <= 1 + ABREAST for budget in bench.budgets[:-1])


def test_it_goes_on_from_what_was_tuned_before() -> None:
    bench = Bench(bowl)
    found = bench.climb(start={"x": 3, "y": 4})
    assert bench.bouts[0] == [(0, 0), (3, 4)]
    assert found.best == {"x": 3, "y": 5}
    assert len(bench.bouts) < 6


def test_what_is_to_be_avoided_is_not_asked() -> None:
    bench = Bench(bowl)
    found = bench.climb(avoid=lambda values: values["x"] == 3)
    assert found.best == {"x": 2, "y": 5}
    assert not any(x == 3 for bout in bench.bouts for x, _ in bout)


def test_a_start_that_is_to_be_avoided_is_not_asked_either() -> None:
    bench = Bench(bowl)
    bench.climb(start={"x": 3, "y": 4}, avoid=lambda values: values == {"x": 3, "y": 4})
    assert bench.bouts[0][0] == (0, 0)
    assert not any((3, 4) in bout for bout in bench.bouts)


def test_without_neighbours_the_default_is_measured_all_the_same() -> None:
    found = Bench(bowl, size=1).climb()
    assert found.whole
    assert [one.status for one in found.records] == ["ok"]
    assert found.best == found.default
