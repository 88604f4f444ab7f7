"""Trials in the worker: who takes part, what is planted behind whom, and what is left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from harness.layer.weights import make_weights
from harness.measure import calibration as rooms
from harness.measure.calibration import RefusedError, TrialSeries
from harness.measure.timing import TimedSection
from harness.records.estimates import MIN_ROUNDS
from harness.records.trials import BASE, BASELINE, CONTROL, PLANTED_PERCENT, planted_name

if TYPE_CHECKING:
    from harness.layer.contract import Forward, Layer
    from harness.measure.rounds import Entry
    from harness.records.trials import Trial

MS = 1e6
PLANTED = [planted_name(percent) for percent in PLANTED_PERCENT]


class Delays:
    """Plants by moving the fake clock on; remembers what it was asked for."""

    def __init__(self, clock: Any, least_ns: float = 0.0) -> None:
        self.clock, self.least_ns = clock, least_ns
        self.asked: list[float] = []

    def delay(self, nanoseconds: float) -> Any:
        self.asked.append(nanoseconds)
        return lambda: self.clock.advance(nanoseconds)


@pytest.fixture
def delays(kit: Any, monkeypatch: pytest.MonkeyPatch) -> Delays:
    made = Delays(kit.clock)
    monkeypatch.setattr(rooms, "planter_for", lambda _device, _clock: made)
    return made


def trials(kit: Any, prepare: Any, count: int = 2, trial_ns: float = 500 * MS, **given: Any) -> list[Trial]:
    """Trials of an implementation; ``baseline`` is another, ``first`` and ``process`` as given."""
    case = given.pop("case", None) or kit.case()
    series = TrialSeries(case, make_weights(case), kit.around(), given.pop("process", 0))
    baseline = given.pop("baseline", None)
    implementation = kit.implementation(prepare, **given.pop("impl", {}))
    return list(series.run(implementation, baseline, given.pop("first", 0), count, trial_ns))


def dense(kit: Any, cost: float = MS, **given: Any) -> Any:
    return kit.implementation(kit.costing(cost, kit.plain_ffn), "dense", family="dense", **given)


def test_planted_slowdowns_are_just_what_a_call_takes_longer(kit: Any, delays: Delays) -> None:
    one, two = trials(kit, kit.costing(2 * MS), baseline=dense(kit))
    assert list(one.lines) == [BASE, CONTROL, BASELINE, *PLANTED]
    assert one.call_ns == 2 * MS
    for name, line in one.lines.items():
        own = MS if name == BASELINE else 2 * MS
        assert set(line.samples_ns) == {own + line.planted_ns}
        assert line.rounds == list(range(len(line.samples_ns)))
    assert {percent: line.planted_ns for percent, line in one.planted.items()} == {
        percent: percent / 100 * 2 * MS for percent in PLANTED_PERCENT
    }
    assert delays.asked == [0.02 * MS, 0.04 * MS, 0.1 * MS, 0.2 * MS] * 2
    assert (one.number, two.number) == (0, 1)


def test_all_lines_meet_in_the_same_rounds_until_the_time_is_over(kit: Any, delays: Delays) -> None:
    for trial in trials(kit, kit.costing(30 * MS), baseline=dense(kit, 0.1 * MS), trial_ns=30_000 * MS):
        rounds = {tuple(line.rounds) for line in trial.lines.values()}
        assert len(rounds) == 1
        spent = sum(sum(line.samples_ns) * line.calls_per_sample for line in trial.lines.values())
        assert 0.8 * 30_000 * MS < spent < 1.3 * 30_000 * MS
    assert delays.asked


def test_calls_longer_than_a_trial_are_timed_a_few_times_all_the_same(kit: Any, delays: Delays) -> None:
    (trial,) = trials(kit, kit.costing(300 * MS), 1, baseline=dense(kit), trial_ns=100 * MS)
    assert {tuple(line.rounds) for line in trial.lines.values()} == {tuple(range(MIN_ROUNDS))}
    assert delays.asked


def test_short_calls_are_timed_together(kit: Any, delays: Delays) -> None:
    (trial,) = trials(kit, kit.costing(0.25 * MS), 1)
    assert {line.calls_per_sample for line in trial.lines.values()} == {4}
    assert set(trial.lines[planted_name(10)].samples_ns) == {0.275 * MS}, "every call is slowed down"
    assert delays.asked[0] == 0.0025 * MS


def test_every_trial_has_another_order(kit: Any, delays: Delays) -> None:
    seen: list[str] = []
    look = TimedSection.seen

    def spying(section: TimedSection, entry: Entry, draw: int, inputs: Any, result: Any) -> None:
        seen.append(entry.name)
        look(section, entry, draw, inputs, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimedSection, "seen", spying)
        found = trials(kit, kit.costing(5 * MS), 2)
    half = len(seen) // 2
    assert len(found[0].lines[BASE].rounds) == len(found[1].lines[BASE].rounds)
    assert Counter(seen[:half]) == Counter(seen[half:])
    assert seen[:half] != seen[half:]
    assert delays.asked


def test_slowdowns_too_small_for_the_device_are_left_out(kit: Any, delays: Delays) -> None:
    delays.least_ns = 0.05 * MS
    (trial,) = trials(kit, kit.costing(2 * MS), 1)
    assert list(trial.planted) == [0.0, 5.0, 10.0]


def test_numbers_and_process_are_as_asked(kit: Any, delays: Delays) -> None:
    found = trials(kit, kit.costing(2 * MS), 3, first=40, process=2)
    assert [(trial.process, trial.number) for trial in found] == [(2, 40), (2, 41), (2, 42)]
    assert all(trial.cpu.capacity_s >= 0 for trial in found)
    assert delays.asked


def test_the_gate_is_passed_once_a_worker(kit: Any, delays: Delays) -> None:
    trials(kit, kit.costing(2 * MS), 3, baseline=dense(kit))
    stages = Counter(kit.notes)
    assert stages["mine", "prepare"] == stages["dense", "prepare"] == stages["mine", "warm-up"] == 1
    assert delays.asked


def test_what_the_clock_says_of_the_pace_is_the_median(kit: Any, delays: Delays) -> None:
    """One call in five takes ten times as long: slowdowns are shares of an ordinary call all the same."""
    found = trials(kit, kit.costing(lambda n: 20 * MS if n % 5 == 0 else 2 * MS), 2)
    assert {trial.call_ns for trial in found} == {2 * MS}
    assert delays.asked


@pytest.mark.parametrize(
    "baseline",
    [
        pytest.param({"unsupported_by": lambda _case: "not today"}, id="unsupported"),
        pytest.param({"prepare": None}, id="disagrees"),
        pytest.param({"name": "mine"}, id="the implementation itself"),
    ],
)
def test_a_baseline_that_cannot_run_is_left_out(kit: Any, delays: Delays, baseline: dict[str, Any]) -> None:
    if "prepare" in baseline:
        baseline = {"prepare": wrong(kit)}
    other = kit.implementation(**{"prepare": kit.plain_ffn, "name": "dense", "family": "dense", **baseline})
    (trial,) = trials(kit, kit.costing(2 * MS), 1, baseline=other)
    assert list(trial.lines) == [BASE, CONTROL, *PLANTED]
    assert delays.asked


def wrong(kit: Any, after: int = 0, then: Any = lambda y: y + 1) -> Any:
    """Right for so many calls, and then not."""

    def prepare(layer: Layer) -> Forward:
        calls = iter(range(10**9))

        def forward(x: Any, routing: Any) -> Any:
            kit.clock.advance(MS)
            y = kit.experts(layer, x, routing)
            return then(y) if next(calls) >= after else y

        return forward

    return prepare


def raising(error: BaseException) -> Any:
    def then(_y: object) -> None:
        raise error

    return then


@pytest.mark.parametrize(
    ("prepare", "impl", "says"),
    [
        (lambda kit: kit.correct, {"unsupported_by": lambda _case: "needs a GPU"}, "mine: unsupported: needs a GPU"),
        (lambda kit: kit.correct, {"untimed_by": lambda _case: "no clock"}, "mine: unsupported: no clock"),
        (wrong, {}, "mine: disagrees: "),
        (lambda kit: wrong(kit, 0, raising(SystemExit(3))), {}, "mine: error: SystemExit: 3"),
        (lambda kit: wrong(kit, 60, raising(MemoryError("full"))), {}, "mine: oom: MemoryError: full"),
        (lambda kit: wrong(kit, 60, lambda y: y[:1]), {}, "mine: error: returned shape"),
    ],
    ids=[
        "unsupported",
        "only checked",
        "disagrees",
        "raises in the gate",
        "raises in a round",
        "breaks the contract in a round",
    ],
)
def test_who_cannot_be_timed_is_refused_with_a_reason(
    kit: Any, delays: Delays, prepare: Any, impl: dict[str, Any], says: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        trials(kit, prepare(kit), 1, impl=impl)
    assert str(caught.value).startswith(says)
    assert delays.least_ns == 0


def test_an_execution_that_cannot_be_is_refused(kit: Any) -> None:
    with pytest.raises(RefusedError, match="CUDA graphs need a CUDA device"):
        trials(kit, kit.correct, 1, case=kit.case(execution="graph"))


def test_training_is_calibrated_like_the_rest(kit: Any, delays: Delays) -> None:
    (trial,) = trials(kit, kit.costing(2 * MS), 1, case=kit.case(pass_="training"), trial_ns=200 * MS)
    assert set(trial.lines[planted_name(5)].samples_ns) == {2.1 * MS}
    assert delays.asked
