"""Winners, ties, and what is never ranked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records.derive import derive
from harness.report.frame import frame, rows_of
from harness.report.ranking import MIN_DIFFERENCE, Contender, Standing, contender, rankable, standing, standings, tied

if TYPE_CHECKING:
    from harness.records.record import Record
    from tests.report.conftest import Factory

times = st.floats(min_value=1e3, max_value=1e9)


@st.composite
def contenders(draw: st.DrawFn, name: str = "x") -> Contender:
    """A median within its interval."""
    median = draw(times)
    return Contender(name, median, median * draw(st.floats(0.5, 1)), median * draw(st.floats(1, 2)))


fields = st.lists(contenders(), max_size=6).map(
    lambda many: [Contender(f"i{n}", c.median_ns, c.low_ns, c.high_ns) for n, c in enumerate(many)]
)


def outcome(records: list[Record], make: Factory) -> Standing:
    (only,) = standings(frame([make.run(records)])).values()
    return only


@given(contenders(), contenders(), st.floats(0, 0.1))
def test_a_tie_is_symmetric_and_reflexive(a: Contender, b: Contender, floor: float) -> None:
    assert tied(a, b, floor) == tied(b, a, floor)
    assert tied(a, a, floor)


@given(fields, st.floats(0, 0.1))
def test_the_fastest_wins_and_beats_what_does_not_tie(field: list[Contender], floor: float) -> None:
    result = standing(field, floor)
    assert set(result.winners) <= set(result.ranked) == {c.name for c in field}
    if not field:
        assert result == Standing((), ())
        return
    best = min(field, key=lambda c: c.median_ns)
    assert result.winners[0] == best.name or best.median_ns == min(c.median_ns for c in field if c.name != best.name)
    fastest = next(c for c in field if c.name == result.winners[0])
    assert set(result.winners) == {c.name for c in field if tied(fastest, c, floor)}
    if result.margin is not None:
        assert result.winner
        assert result.margin >= math.exp(floor) * 0.999


@given(fields, st.floats(0, 0.1), st.randoms())
def test_the_order_of_records_does_not_matter(field: list[Contender], floor: float, random: object) -> None:
    shuffled = field[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert standing(field, floor) == standing(shuffled, floor)


def test_margin_counts_from_the_winner_to_the_next(make: Factory) -> None:
    case = make.case()
    result = outcome(
        [make.timed(case, "loop", 3e6), make.timed(case, "batched", 1e6), make.timed(case, "x", 2e6)], make
    )
    assert result.winner == "batched"
    assert result.margin == pytest.approx(2.0)
    assert result.ranked == ("batched", "x", "loop")


def test_overlapping_intervals_share_the_win(make: Factory) -> None:
    case = make.case()
    result = outcome([make.timed(case, "loop", 1e6, spread=0.1), make.timed(case, "batched", 1.05e6, spread=0.1)], make)
    assert result.winner is None
    assert result.winners == ("loop", "batched")
    assert result.margin is None


def rounds(make: Factory, ratio: float, drift: float, noise: float, bout: str = "") -> list[Record]:
    """Two implementations in the same 15 rounds of a machine whose speed drifts, each with noise of its own."""
    case, generator = make.case(), np.random.default_rng(5)
    speed = np.exp(np.linspace(0, drift, 15))
    records = []
    for name, factor in (("loop", 1e6), ("batched", 1e6 * ratio)):
        record = make.timed(case, name, factor, samples=15)
        assert record.timing is not None
        record.timing.samples_ns = [float(ns) for ns in factor * speed * np.exp(generator.normal(0, noise, 15))]
        records.append(derive(record, None))
    records[1].bout = bout or records[1].bout
    return records


def test_what_slows_everybody_down_hides_nobody(make: Factory) -> None:
    """Intervals of the medians overlap by far; in the same rounds the one always takes 5 % longer."""
    records = rounds(make, ratio=1.05, drift=0.5, noise=0.002)
    intervals = [record.timing.interval_ns for record in records if record.timing]
    assert intervals[0]
    assert intervals[1]
    assert intervals[0][1] > intervals[1][0]
    result = outcome(records, make)
    assert result.winner == "loop"
    assert result.margin == pytest.approx(1.05, rel=0.01)


def test_noise_of_ones_own_is_no_difference(make: Factory) -> None:
    assert outcome(rounds(make, ratio=1.02, drift=0.0, noise=0.05), make).winner is None


def test_rounds_of_other_bouts_are_not_the_same_rounds(make: Factory) -> None:
    loop, batched = (contender(row) for row in rows_of(frame([make.run(rounds(make, 1.05, 0.5, 0.002, bout="other"))])))
    assert tied(loop, batched, MIN_DIFFERENCE)
    batched = replace(batched, bout=loop.bout)
    assert not tied(loop, batched, MIN_DIFFERENCE)
    assert not tied(batched, loop, MIN_DIFFERENCE)


@pytest.mark.parametrize(("floor", "ties"), [(0.02, True), (0.005, False)])
def test_without_common_rounds_the_floor_bridges_what_intervals_do_not(floor: float, ties: bool) -> None:
    a, b = Contender("a", 100.0, 99.9, 100.1), Contender("b", 101.0, 100.9, 101.1)
    assert tied(a, b, floor) == tied(b, a, floor) == ties


@pytest.mark.parametrize(("floor", "ties"), [(0.08, True), (0.01, False)])
def test_the_noise_floor_of_the_bout_decides(make: Factory, floor: float, ties: bool) -> None:
    case = make.case()
    records = [make.timed(case, name, ns, spread=0.001) for name, ns in (("loop", 1e6), ("batched", 1.05e6))]
    assert records[1].timing is not None
    records[1].timing.noise_floor = floor
    assert (outcome(records, make).winner is None) == ties


def test_a_hair_never_wins(make: Factory) -> None:
    case = make.case()
    near = 1e6 * (1 + MIN_DIFFERENCE * 0.9)
    records = [make.timed(case, "loop", 1e6, spread=1e-6), make.timed(case, "batched", near, spread=1e-6)]
    assert outcome(records, make).winner is None


def test_few_samples_tell_nothing_apart(make: Factory) -> None:
    case = make.case()
    records = [make.timed(case, "loop", 1e6, samples=1), make.timed(case, "batched", 9e6, samples=1)]
    assert outcome(records, make).winners == ("loop", "batched")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["ok", "impossible", "disagrees", "error", "dense", "unproven", "apart"]), max_size=6))
def test_only_what_is_comparable_is_ranked(make: Factory, kinds: list[str]) -> None:
    case = make.case()
    records, fair = [], set()
    for n, kind in enumerate(kinds):
        name = f"i{n}"
        if kind in {"disagrees", "error"}:
            records.append(make.failed(case, name, kind))
        elif kind == "impossible":
            records.append(make.timed(case, name, 1e3, status="impossible", reason="too fast"))
        elif kind == "dense":
            records.append(make.timed(case, name, 1e3, family="dense"))
        elif kind == "unproven":
            records.append(make.timed(case, name, 1e3, agreement=None))
        elif kind == "apart":
            records.append(make.timed(case, name, 1e3, bout=f"other {n}"))
        else:
            records.append(make.timed(case, name, 1e6 + n))
            fair.add(name)
    for result in standings(frame([make.run(records)])).values():
        if len(fair) > 1:
            assert set(result.ranked) == fair
        assert set(result.winners) <= {f"i{n}" for n, kind in enumerate(kinds) if kind in {"ok", "apart"}}


def test_runs_are_ranked_apart(make: Factory) -> None:
    case = make.case()
    fast = make.run([make.timed(case, "loop", 1e6), make.timed(case, "batched", 2e6)], path="a")
    slow = make.run([make.timed(case, "loop", 4e6), make.timed(case, "batched", 2e6)], path="b")
    table = frame([fast, slow])
    assert [result.winner for result in standings(table).values()] == ["loop", "batched"]
    assert rankable(table).all()
