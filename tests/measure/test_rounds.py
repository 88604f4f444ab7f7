"""Who is timed when, on a clock that a script moves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.clocks import Sample
from harness.measure.rounds import (
    MAX_CALLS_PER_SAMPLE,
    MIN_SAMPLES,
    Entry,
    Rules,
    Stopped,
    rules_for,
    run_rounds,
    set_pace,
    warm_up,
)

RULES = Rules(
    min_rounds=10,
    max_rounds=50,
    half_width=0.01,
    min_sample_ns=1000,
    min_measured_ns=0,
    warmup_ns=5000,
    budget_ns=1e9,
)
Cost = float | Callable[[int], float]


@dataclass
class Track:
    """Runs entries and writes down what happened: a call is (entry, input)."""

    clock: Any
    calls: list[tuple[str, Any]] = field(default_factory=list)
    seen: list[tuple[str, int, list[Any], Any]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)
    drawing_ns: float = 0.0

    def entry(self, name: str, cost: Cost, owner: str = "", **given: Any) -> Entry:
        counts = Counter[str]()

        def bind(inputs: Any) -> Callable[[], tuple[str, Any]]:
            def call() -> tuple[str, Any]:
                self.clock.advance(cost(counts[name]) if callable(cost) else cost)
                counts[name] += 1
                self.calls.append((name, inputs))
                return name, inputs

            return call

        return Entry(name, owner or name, bind, **given)

    def draw(self, number: int) -> int:
        self.clock.advance(self.drawing_ns)
        self.draws.append(number)
        return number

    def run(self, entries: list[Entry], rules: Rules = RULES, seed: int = 0) -> tuple[Stopped, float]:
        def seen(entry: Entry, draw: int, inputs: Any, result: Any) -> None:
            self.seen.append((entry.name, draw, list(inputs), result))

        return run_rounds(entries, self.draw, self.clock, rules, seed, lambda *note: self.notes.append(note), seen)

    def orders(self) -> list[str]:
        """Who was visited in each round, in order."""
        rounds: dict[str, str] = {}
        for owner, stage in self.notes:
            rounds[stage] = rounds.get(stage, "") + owner
        return list(rounds.values())


@pytest.fixture
def track(kit: Any) -> Track:
    return Track(kit.clock)


def test_every_round_visits_everybody_in_another_order(track: Track) -> None:
    track.run([track.entry(name, 1000 + i) for i, name in enumerate("abcd")])
    orders = track.orders()
    assert {frozenset(order) for order in orders} == {frozenset("abcd")}
    assert all(len(order) == 4 for order in orders)
    assert len(set(orders)) > 3
    firsts = Counter(order[0] for order in orders)
    assert set(firsts) == set("abcd")


def test_the_order_follows_from_the_seed(kit: Any) -> None:
    orders = []
    for seed in (1, 1, 2):
        track = Track(kit.clock)
        track.run([track.entry(name, 1000) for name in "abcd"], seed=seed)
        orders.append(track.orders())
    assert orders[0] == orders[1] != orders[2]


def test_inputs_are_fresh_each_round_and_the_same_for_everybody(track: Track) -> None:
    track.run([track.entry("a", 1000, calls=2), track.entry("b", 1000, calls=2)])
    assert track.draws == list(range(len(track.draws)))
    used: dict[str, list[int]] = {"a": [], "b": []}
    for name, number in track.calls:
        used[name].append(number)
    assert used["a"] == used["b"] == track.draws


def test_whoever_needs_fewer_calls_ends_with_the_same_draw(track: Track) -> None:
    track.run([track.entry("a", 1000, calls=1), track.entry("b", 100, calls=4)])
    by_round = [track.seen[i : i + 2] for i in range(0, len(track.seen), 2)]
    for number, pair in enumerate(by_round):
        assert {draw for _, draw, _, _ in pair} == {4 * number + 3}
        for name, draw, inputs, result in pair:
            assert inputs == list(range(draw + 1 - (1 if name == "a" else 4), draw + 1))
            assert result == (name, draw)


def test_samples_are_times_of_one_call_in_order_with_their_round(track: Track) -> None:
    entry = track.entry("a", lambda n: 100 * (n + 1), calls=2)
    _, spent = track.run([entry], replace(RULES, max_rounds=10))
    assert entry.samples_ns == [150 + 400 * n / 2 for n in range(10)]
    assert entry.rounds == list(range(10))
    assert spent == sum(entry.samples_ns) * 2
    assert entry.device_ns == []


def test_device_times_are_divided_like_wall_times(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track.clock, "time", lambda calls: Sample(600, 300.0, [call() for call in calls]))
    entry = track.entry("a", 0, calls=3)
    track.run([entry], replace(RULES, max_rounds=10))
    assert (entry.samples_ns[0], entry.device_ns) == (200, [100.0] * 10)


class TestStopping:
    def test_when_every_median_is_known_well_enough(self, track: Track) -> None:
        entry = track.entry("a", 1000)
        assert track.run([entry])[0] == "interval"
        assert len(entry.samples_ns) == RULES.min_rounds

    @pytest.mark.parametrize("calls", [1, 5])
    def test_not_before_enough_was_measured(self, track: Track, calls: int) -> None:
        entry = track.entry("a", 1000 / calls, calls=calls)
        stopped, spent = track.run([entry], replace(RULES, min_measured_ns=25_000))
        assert (stopped, spent) == ("interval", 25_000)

    def test_not_while_one_of_them_is_unsure(self, track: Track) -> None:
        noisy = track.entry("b", lambda n: 1000 + 500 * (n % 2))
        assert track.run([track.entry("a", 1000), noisy])[0] == "rounds"
        assert len(noisy.samples_ns) == RULES.max_rounds

    def test_when_the_budget_is_spent_drawing_included(self, track: Track) -> None:
        noisy = track.entry("b", lambda n: 1000 + 500 * (n % 2))
        track.drawing_ns = 1000
        stopped, spent = track.run([noisy], replace(RULES, budget_ns=40_000))
        assert stopped == "budget"
        assert 40_000 <= track.clock.now <= 42_500
        assert spent < 25_000

    def test_at_twice_the_budget_before_the_least_number_of_rounds(self, track: Track) -> None:
        entry = track.entry("a", lambda n: 1000 if n < 3 else 10_000)
        stopped, _ = track.run([entry], replace(RULES, budget_ns=20_000, min_rounds=15))
        assert stopped == "budget"
        assert 40_000 <= track.clock.now < 60_000

    def test_never_with_fewer_than_three_samples(self, track: Track) -> None:
        entries = [track.entry("slow", 1e8, estimate_ns=1e8), track.entry("fast", 1e3, estimate_ns=1e3)]
        assert track.run(entries, replace(RULES, budget_ns=1e6))[0] == "budget"
        assert len(entries[0].samples_ns) == MIN_SAMPLES


class TestPace:
    def test_nobody_sits_out_when_everybody_fits(self, track: Track) -> None:
        entries = [track.entry("a", 0, estimate_ns=1e6), track.entry("b", 0, estimate_ns=9e6)]
        set_pace(entries, replace(RULES, budget_ns=1e8))
        assert [entry.stride for entry in entries] == [1, 1]

    def test_the_slow_one_sits_out_and_the_fast_one_does_not(self, track: Track) -> None:
        entries = [track.entry("a", 1e3, estimate_ns=1e3), track.entry("b", 1e6, estimate_ns=1e6)]
        track.run(entries, replace(RULES, budget_ns=8e6, half_width=0))
        assert entries[0].rounds == list(range(len(entries[0].rounds)))
        assert len(entries[0].rounds) >= RULES.min_rounds
        assert entries[1].rounds == list(range(0, entries[0].rounds[-1] + 1, 2))

    @given(
        st.lists(st.floats(1, 1e10), min_size=1, max_size=7),
        st.floats(1e3, 1e11),
        st.integers(MIN_SAMPLES, 30),
    )
    def test_somebody_is_due_in_every_round_and_all_get_three_samples(
        self, costs: list[float], budget_ns: float, min_rounds: int
    ) -> None:
        entries = [Entry(str(i), str(i), lambda _: lambda: None, cost) for i, cost in enumerate(costs)]
        rules = replace(RULES, budget_ns=budget_ns, min_rounds=min_rounds)
        set_pace(entries, rules)
        assert min(entry.stride for entry in entries) == 1
        for entry in entries:
            assert len(range(0, min_rounds, entry.stride)) >= MIN_SAMPLES
        if sum(costs) * min_rounds <= budget_ns:
            assert {entry.stride for entry in entries} == {1}
        ordered = sorted(entries, key=lambda entry: entry.cost_ns)
        assert all(a.stride <= b.stride for a, b in pairwise(ordered))

    def test_the_control_meets_its_owner_in_every_round(self, track: Track) -> None:
        owner = track.entry("a", 1e6, estimate_ns=1e6)
        twin = track.entry("twin", 1.1e6, owner="a", estimate_ns=1.1e6)
        track.run([owner, track.entry("b", 1e3, estimate_ns=1e3), twin], replace(RULES, budget_ns=1e7))
        assert owner.stride > 1
        assert owner.rounds == twin.rounds

    def test_a_call_that_was_slow_once_does_not_make_an_entry_slow(self, track: Track) -> None:
        entry = track.entry("a", 1e3, estimate_ns=1e9)
        track.run([entry, track.entry("b", 1e3, estimate_ns=1e3)], replace(RULES, budget_ns=1e6))
        assert entry.rounds[:4] == [0, 1, 2, 3]


class TestWarmUp:
    def test_ends_when_the_time_is_up_and_stable(self, track: Track) -> None:
        entry = track.entry("a", 1000)
        assert warm_up(entry, ["x", "y"], track.clock, RULES) == 5000
        assert (entry.warmup_calls, entry.warm, entry.estimate_ns, entry.calls) == (5, True, 1000, 1)
        assert [inputs for _, inputs in track.calls] == ["x", "y", "x", "y", "x"]

    def test_takes_three_calls_at_least(self, track: Track) -> None:
        entry = track.entry("a", 4900)
        assert warm_up(entry, ["x"], track.clock, RULES) == 3 * 4900

    def test_goes_on_while_calls_get_faster_but_not_for_ever(self, track: Track) -> None:
        falling = track.entry("a", lambda n: 500 * 0.985**n)
        warm_up(falling, ["x"], track.clock, RULES)
        assert not falling.warm
        assert 3 * RULES.warmup_ns < track.clock.now < 4 * RULES.warmup_ns
        settling = track.entry("b", lambda n: max(300, 500 - 15 * n))
        warm_up(settling, ["x"], track.clock, RULES)
        assert settling.warm
        assert settling.estimate_ns == 300
        assert settling.warmup_calls > 10

    def test_calls_something_slow_once(self, track: Track) -> None:
        entry = track.entry("a", 6000)
        assert warm_up(entry, ["x"], track.clock, RULES) == 6000

    def test_does_not_take_a_hiccup_for_slowness(self, track: Track) -> None:
        """The gate saw that a call takes 1000 ns; the first one here takes seven times that."""
        entry = track.entry("a", lambda n: 7000 if n == 0 else 1000, estimate_ns=1000)
        warm_up(entry, ["x"], track.clock, RULES)
        assert (entry.warmup_calls, entry.estimate_ns) == (3, 1000)

    @given(st.floats(10, 1e7), st.floats(1, 1e7))
    def test_short_calls_are_timed_together(self, cost: float, min_sample_ns: float) -> None:
        entry = Entry("a", "a", lambda _: lambda: None)
        clock = _Constant(cost)
        warm_up(entry, ["x"], clock, replace(RULES, min_sample_ns=min_sample_ns))
        assert 1 <= entry.calls <= MAX_CALLS_PER_SAMPLE
        if 1 < entry.calls < MAX_CALLS_PER_SAMPLE:
            assert entry.cost_ns >= min_sample_ns > (entry.calls - 1) * entry.estimate_ns
        if entry.calls == 1:
            assert entry.estimate_ns >= min_sample_ns

    def test_survives_a_clock_that_stands_still(self) -> None:
        entry = Entry("a", "a", lambda _: lambda: None)
        warm_up(entry, ["x"], _Constant(0.0), replace(RULES, warmup_ns=0))
        assert entry.calls == MAX_CALLS_PER_SAMPLE


class _Constant:
    """Every call takes the same time."""

    name = "wall"

    def __init__(self, cost: float) -> None:
        self.cost = cost

    def now_ns(self) -> int:
        return 0

    def synchronise(self) -> None:
        pass

    def time(self, calls: Any) -> Sample:
        return Sample(self.cost * len(calls), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@settings(max_examples=20)
@given(budget_ns=st.floats(1e6, 1e12), entries=st.integers(1, 12))
def test_warm_up_never_takes_more_than_its_share(device: str, budget_ns: float, entries: int) -> None:
    rules = rules_for(device, budget_ns, entries)
    assert rules.warmup_ns * entries <= 0.15 * budget_ns * (1 + 1e-9)
    assert rules.budget_ns == budget_ns
    assert rules.min_rounds >= (15 if device == "cpu" else 7)
    assert rules.max_rounds > rules.min_rounds
    assert math.isfinite(rules.half_width)


def test_who_raises_ends_the_rounds(track: Track) -> None:
    """What to do then is the bout's business; the samples so far are there."""

    def cost(n: int) -> float:
        if n == 5:
            raise ZeroDivisionError
        return 1000

    entry = track.entry("a", cost)
    with pytest.raises(ZeroDivisionError):
        track.run([entry])
    assert entry.rounds == [0, 1, 2, 3, 4]
