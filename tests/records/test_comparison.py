"""``compare`` on hand-made runs: every way in which a comparison could mislead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records.comparison import Comparison, Result, compare_implementations, compare_runs
from harness.records.metrics import METRICS
from harness.records.pairs import Question
from harness.records.record import Energy, Memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.records.record import Record
    from tests.records.conftest import Maker

MS = 1e6
PLAIN = Question()


def asked(metric: str = "time", across: Iterable[str] = (), threshold: float = 0.02) -> Question:
    return Question(METRICS[metric], threshold, frozenset(across))


def by_name(result: Result) -> dict[str, Comparison]:
    return {one.impl: one for one in result.comparisons}


def only(result: Result) -> Comparison:
    (one,) = result.comparisons
    return one


def side_by_side(make: Maker, base: float, new: float, question: Question = PLAIN, **fields: Any) -> Comparison:
    """Compare two times of ``loop`` that share a bout."""
    sides = [make.run(make.timed("loop", time * MS, seed=seed, **fields)) for seed, time in enumerate((base, new))]
    return only(compare_runs(sides[0], sides[1], question))


# The direction, of every metric


@pytest.mark.parametrize(
    ("new", "word", "regression"), [(1.1, "SLOWER", True), (1.0, "SAME", False), (0.9, "FASTER", False)]
)
@pytest.mark.parametrize("metric", ["time", "tokens_per_second"])
def test_more_time_is_slower_and_fewer_tokens_a_second_are_too(
    make: Maker, metric: str, new: float, word: str, regression: bool
) -> None:
    found = side_by_side(make, 1.0, new, asked(metric))
    assert (found.outcome, found.verdict, found.regression) == (word, word, regression)
    assert found.ratio
    assert found.ratio == pytest.approx(new if metric == "time" else 1 / new, rel=0.01)
    assert found.base
    assert found.new
    assert found.new / found.base == pytest.approx(found.ratio, rel=0.01)
    assert found.interval
    assert found.interval[0] <= found.ratio <= found.interval[1]
    assert (found.rounds, found.processes, found.how) == (25, 1, "side by side")


@pytest.mark.parametrize(
    ("new", "word", "verdict"), [(1.1, "SLOWER", "MORE"), (1.0, "SAME", "SAME"), (0.9, "FASTER", "LESS")]
)
@pytest.mark.parametrize("metric", ["memory", "energy"])
def test_more_bytes_and_more_joules_are_worse(make: Maker, metric: str, new: float, word: str, verdict: str) -> None:
    found = only(compare_runs(make.run(make.metered(1.0)), make.run(make.metered(new)), asked(metric)))
    assert (found.outcome, found.verdict, found.regression) == (word, verdict, word == "SLOWER")
    assert found.ratio == pytest.approx(new)
    assert found.interval is None, "one figure a side has none"
    assert found.how == "one figure each"


def test_any_byte_more_counts_at_a_threshold_of_nothing(make: Maker) -> None:
    base, same, more = (make.run(make.metered(scale)) for scale in (1.0, 1.0, 1.0001))
    assert only(compare_runs(base, same, asked("memory", threshold=0))).verdict == "SAME"
    assert only(compare_runs(base, more, asked("memory", threshold=0))).verdict == "MORE"


def test_nothing_against_something_is_a_difference_without_a_size(make: Maker) -> None:
    none, some = make.run(make.metered(0.0)), make.run(make.metered(1.0))
    more, less = (only(compare_runs(*pair, asked("memory"))) for pair in ((none, some), (some, none)))
    assert (more.verdict, more.ratio, more.regression) == ("MORE", None, True)
    assert (less.verdict, less.ratio) == ("LESS", None)
    assert only(compare_runs(none, none, asked("memory"))).verdict == "SAME"
    assert compare_runs(none, some, asked("memory")).mean is None
    some.records.append(make.metered(9.0, tokens=16))
    none.records.append(make.metered(1.0, tokens=16))
    assert [one.ratio for one in compare_runs(none, some, asked("memory")).comparisons] == [None, pytest.approx(9)]


def test_short_windows_of_energy_do_not_tell_small_differences(make: Maker) -> None:
    base, long, short = make.metered(1.0), make.metered(1.08), make.metered(1.08, window_s=1.0)
    assert only(compare_runs(make.run(base), make.run(long), asked("energy"))).verdict == "MORE"
    found = only(compare_runs(make.run(base), make.run(short), asked("energy")))
    assert found.verdict == "AMBIGUOUS"
    assert "larger --budget" in found.reason


@pytest.mark.parametrize("rounds", [1, 2, 6])
def test_a_few_samples_give_no_verdict_however_far_apart(make: Maker, rounds: int) -> None:
    found = side_by_side(make, 1.0, 100.0, rounds=rounds)
    assert (found.outcome, found.ratio, found.interval, found.p) == ("AMBIGUOUS", None, None, 1.0)
    assert found.base == pytest.approx(MS, rel=0.05)
    assert not found.regression
    assert "fewer than 7 rounds" in found.reason


# Two revisions, several processes side by side


def processes(make: Maker, ratios: list[float], rounds: int = 9) -> list[Record]:
    """Base and new with a pair of processes for each ratio; the last round of new is missing."""
    sides: list[Record] = []
    for scale in ([1.0] * len(ratios), ratios):
        parts = [make.timed("loop", MS * one, rounds=rounds, seed=n).timing for n, one in enumerate(scale)]
        timing = make.timing(
            [sample for part in parts if part for sample in part.samples_ns],
            rounds=[number for part in parts if part for number in part.rounds],
            processes=[process for process in range(len(ratios)) for _ in range(rounds)],
            median_ns=MS,
        )
        if sides:
            for values in (timing.samples_ns, timing.rounds, timing.processes):
                assert values
                del values[-1]
        sides.append(make.record(bout="b", timing=timing))
    return sides


@pytest.mark.parametrize(
    ("ratios", "word"),
    [
        ([1.1, 1.11, 1.09, 1.1], "SLOWER"),
        ([0.9, 0.91, 0.9, 0.89], "FASTER"),
        ([1.0, 1.001, 0.999, 1.0], "SAME"),
        ([1.3, 0.9, 1.2, 1.0], "AMBIGUOUS"),
        ([1.1, 1.1], "AMBIGUOUS"),
        ([1.5], "AMBIGUOUS"),
    ],
)
def test_the_spread_between_processes_decides(make: Maker, ratios: list[float], word: str) -> None:
    base, new = processes(make, ratios)
    found = only(compare_runs(make.run(base), make.run(new), PLAIN))
    assert found.outcome == word
    if len(ratios) >= 3:
        assert (found.processes, found.rounds) == (len(ratios), 9 * len(ratios) - 1)
    else:
        assert "fewer than 7 rounds, or 3 processes" in found.reason


# Implementations of one run


def test_implementations_of_one_run_are_compared_case_by_case(make: Maker) -> None:
    run = make.run(*make.bout("b"), make.timed("loop", MS, tokens=16))
    result = compare_implementations(run, "loop", "grouped", PLAIN)
    found = result.compared
    assert [(one.impl, one.outcome) for one in found] == [("loop → grouped", "FASTER")]
    assert [one.reason for one in result.comparisons[1:]] == ["only in base"]
    with pytest.raises(ValueError, match=r"--impl = 'nobody': there are records of .*loop.* in run"):
        compare_implementations(run, "loop", "nobody", PLAIN)


def test_what_another_implementation_cannot_do_is_not_broken(make: Maker) -> None:
    run = make.run(make.timed("loop", MS), make.record("fused", status="unsupported", reason="no GPU", bout="b"))
    for pair in (("loop", "fused"), ("fused", "loop")):
        found = only(compare_implementations(run, *pair, PLAIN))
        assert found.outcome == "NOT COMPARABLE"
        assert "unsupported" in found.reason


def test_implementations_may_have_versions_and_caches_of_their_own(make: Maker) -> None:
    other = make.timed("grouped", 2 * MS, impl={"version": "7"}, timing={"cache": "hot"})
    found = only(compare_implementations(make.run(make.timed("loop", MS), other), "loop", "grouped", PLAIN))
    assert found.outcome == "SLOWER"


def test_only_some_implementations_on_request(make: Maker) -> None:
    run = make.run(*make.bout("b"))
    assert set(by_name(compare_runs(run, run, PLAIN, ["loop", "dense"]))) == {"loop", "dense"}
    with pytest.raises(ValueError, match="--impl = 'nobody'"):
        compare_runs(run, run, PLAIN, ["loop", "nobody"])


# Noise floors, many cases, order


def test_what_identical_code_showed_in_the_bout_is_no_difference(make: Maker) -> None:
    quiet = side_by_side(make, 1.0, 1.05)
    noisy = side_by_side(make, 1.0, 1.05, timing={"noise_floor": 0.08})
    assert quiet.outcome == "SLOWER"
    assert noisy.outcome == "SAME"
    assert quiet.delta == pytest.approx(0.02)
    assert noisy.delta == pytest.approx(math.expm1(0.08))


def test_a_regression_in_one_case_of_many_is_found_and_chance_is_not(make: Maker) -> None:
    cases = range(1, 121)
    base = make.run(*(make.timed("loop", MS, tokens=n, seed=n, noise=0.03) for n in cases))
    new = make.run(
        *(make.timed("loop", MS * (1.5 if n == 7 else 1), tokens=n, seed=1000 + n, noise=0.03) for n in cases)
    )
    result = compare_runs(base, new, PLAIN)
    assert [one.case.split()[4] for one in result.regressions] == ["T=7"]
    assert result.comparisons[0].outcome == "SLOWER"


def test_a_close_call_is_one_alone_and_none_among_many(make: Maker) -> None:
    many = range(1, 61)
    base = make.run(*(make.timed("loop", MS, tokens=n, seed=n) for n in many))
    new = make.run(
        *(make.timed("loop", MS * (1.025 if n == 7 else 1), tokens=n, seed=100 + n, noise=0.006) for n in many)
    )
    alone = make.run(base.records[6]), make.run(new.records[6])
    assert only(compare_runs(alone[0], alone[1], PLAIN)).outcome == "SLOWER"
    result = compare_runs(base, new, PLAIN)
    assert result.regressions == []
    assert result.comparisons[0].reason.startswith("a difference on its own, not surely one among 60 comparisons")


def test_the_worst_comes_first(make: Maker) -> None:
    scales = {"dense": 1.0, "loop": 0.8, "einsum": 1.3, "grouped": 0.6, "batched": 1.8, "fused": 1.0}
    base, new = make.bout("b"), make.bout("b", seed=1, **scales)
    new[5] = make.record("fused", status="crashed", reason="segfault", bout="b")
    result = compare_runs(make.run(*base, make.timed("soft", MS)), make.run(*new), PLAIN)
    assert [one.impl for one in result.comparisons] == [
        "fused",
        "batched",
        "einsum",
        "dense",
        "loop",
        "grouped",
        "soft",
    ]
    assert [one.impl for one in result.regressions] == ["fused", "batched", "einsum"]
    assert result.mean
    assert result.mean.log_ratio == pytest.approx(np.mean(np.log([1.0, 0.8, 1.3, 0.6, 1.8])), abs=0.01)


def test_ambiguous_alone_is_no_regression_and_quiet_records_have_no_notes(make: Maker) -> None:
    found = side_by_side(make, 1.0, 1.02, noise=0.1)
    assert (found.outcome, found.regression) == ("AMBIGUOUS", False)
    assert any(note.startswith("base: an unsteady median") for note in found.notes)
    assert side_by_side(make, 1.0, 1.1).notes == []


NAMES = ["batched", "dense", "einsum", "fused", "grouped", "loop"]
SWAPPED = {"FASTER": "SLOWER", "SLOWER": "FASTER", "BROKEN": "FIXED", "FIXED": "BROKEN"}


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(0.7, 1.4), min_size=1),
    st.sampled_from(sorted(METRICS)),
    st.booleans(),
    st.sampled_from(NAMES),
)
def test_swapping_base_and_new_inverts_every_ratio_and_verdict(
    make: Maker, scales: dict[str, float], metric: str, apart: bool, broken: str
) -> None:
    base, new = make.bout("b1"), make.bout("b2" if apart else "b1", seed=1, **scales)
    for record in (*base, *new):
        scale = scales.get(record.impl.name, 1.0) if record in new else 1.0
        record.memory = Memory(status="ok", peak_bytes=int(1000 * scale))
        record.energy = Energy(status="ok", joules_per_token=scale, window_s=9.0)
    new = [
        make.record(broken, status="error", reason="no", bout=record.bout) if record.impl.name == broken else record
        for record in new
    ]
    runs = make.run(*base), make.run(*new)
    there, back = (by_name(compare_runs(*pair, asked(metric))) for pair in (runs, runs[::-1]))
    for name, one in there.items():
        other = back[name]
        assert other.outcome == SWAPPED.get(one.outcome, one.outcome)
        assert (other.base, other.new, other.delta, other.p) == (one.new, one.base, one.delta, one.p)
        if one.ratio is not None:
            assert other.ratio == pytest.approx(1 / one.ratio)
        if one.interval is not None:
            assert other.interval == pytest.approx((1 / one.interval[1], 1 / one.interval[0]))
