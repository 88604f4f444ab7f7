"""The timed part of a bout: the A/A control, what is watched while the clock stands, and who is dropped."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from harness.measure.contestant import ContractError
from harness.measure.gate import DisagreementError
from harness.measure.timing import CONTROL, DroppedError, TimedSection, control_owner, paired
from harness.records.stats import noise_floor

if TYPE_CHECKING:
    from torch import Tensor

    from harness.layer.contract import Forward, Layer, Routing

MS = 1e6
GATE_CALLS = 3


def section(kit: Any, *prepares: Any, case: Any = None, baseline: Any = None, **around: Any) -> TimedSection:
    """Contestants a, b, c, ..., and the dense baseline where one is given, all through the gate."""
    examiner = kit.examiner(case or kit.case())
    entrants = [kit.implementation(prepare, name) for name, prepare in zip("abcd", prepares, strict=False)]
    if baseline:
        entrants.append(kit.implementation(baseline, "dense", family="dense"))
    admissions = [examiner.admit(one, kit.clock, lambda _stage: None) for one in entrants]
    examiner.answers.forget()
    return TimedSection(examiner, kit.around(**around), admissions)


def test_everybody_has_a_timing_and_one_of_them_the_control(kit: Any) -> None:
    timed = section(kit, kit.costing(2 * MS), kit.costing(3 * MS), baseline=kit.costing(MS, kit.plain_ffn)).run(
        1000 * MS, 0
    )
    assert {name: set(timing.samples_ns) for name, timing in timed.timings.items()} == {
        "a": {2 * MS},
        "b": {3 * MS},
        "dense": {MS},
    }
    assert [name for name, timing in timed.timings.items() if timing.control_ns is not None] == ["dense"]
    assert timed.timings["dense"].control_ns == timed.timings["dense"].samples_ns
    assert {timing.noise_floor for timing in timed.timings.values()} == {0.0}
    assert {timing.stopped for timing in timed.timings.values()} == {"budget"}


def test_without_a_baseline_the_first_is_its_own_control(kit: Any) -> None:
    made = section(kit, kit.costing(2 * MS), kit.costing(3 * MS))
    assert control_owner(list(made.admissions.values())) == "a"
    timed = made.run(500 * MS, 0)
    assert timed.timings["a"].control_ns is not None
    assert timed.timings["b"].control_ns is None


def test_the_control_is_the_same_contestant_in_the_same_rounds(kit: Any) -> None:
    calls = Counter[str]()

    def counted(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            calls["a"] += 1
            return kit.experts(layer, x, routing)

        return forward

    made = section(kit, kit.costing(2 * MS, counted))
    timed = made.run(500 * MS, 0)
    timing = timed.timings["a"]
    assert timing.control_ns is not None
    assert calls["a"] == GATE_CALLS + timing.warmup_calls + len(timing.samples_ns) + len(timing.control_ns)
    assert {owner for owner, _ in kit.notes} == {"a"}
    assert CONTROL not in timed.kept


def test_the_noise_floor_is_that_of_the_control(kit: Any) -> None:
    jitter = lambda n: MS * (2 + 0.1 * (n * 7919 % 13))  # noqa: E731
    timed = section(kit, kit.costing(jitter), kit.costing(5 * MS)).run(500 * MS, 0)
    timing = timed.timings["a"]
    assert timing.control_ns is not None
    assert timing.noise_floor == noise_floor(timing.samples_ns, timing.control_ns)
    assert timed.timings["b"].noise_floor == timing.noise_floor
    assert timing.noise_floor is not None
    assert timing.noise_floor > 0


def test_pairs_are_samples_of_the_same_rounds() -> None:
    class Line:
        def __init__(self, **samples: float) -> None:
            self.rounds = [int(name[1:]) for name in samples]
            self.samples_ns = list(samples.values())

    first, second = Line(r0=1.0, r2=2.0, r4=3.0), Line(r0=10.0, r1=11.0, r4=30.0)
    assert paired(first, second) == ([1.0, 3.0], [10.0, 30.0])  # type: ignore[arg-type]


def test_short_calls_are_timed_together_on_fresh_inputs_each(kit: Any) -> None:
    addresses: list[tuple[float, ...]] = []

    def seeing(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            addresses.append(tuple(x[0, :4].tolist()))
            return kit.experts(layer, x, routing)

        return forward

    timed = section(kit, kit.costing(0.25 * MS, seeing)).run(200 * MS, 0)
    timing = timed.timings["a"]
    assert timing.calls_per_sample == 4
    assert set(timing.samples_ns) == {0.25 * MS}
    in_rounds = addresses[GATE_CALLS + timing.warmup_calls :]
    assert len(in_rounds) == 2 * 4 * len(timing.samples_ns)
    assert set(Counter(in_rounds).values()) == {2}  # once by the contestant, once by its control


def test_time_inside_the_clock_is_tallied(kit: Any) -> None:
    around = kit.around()
    made = section(kit, kit.costing(2 * MS), kit.costing(3 * MS))
    made.around = around
    start = kit.clock.now
    made.run(300 * MS, 0)
    assert around.measuring_ns == kit.clock.now - start


def test_what_the_meters_will_want_is_left_of_the_budget(kit: Any) -> None:
    used = []
    for meter_calls in (0, 20):
        made = section(kit, kit.costing(lambda n: MS * (2 + n % 3)), kit.costing(3 * MS))
        start = kit.clock.now
        made.run(500 * MS, meter_calls)
        used.append(kit.clock.now - start)
    assert used[0] - used[1] == pytest.approx(20 * (2 + 3) * MS, abs=15 * MS)


def test_the_work_of_the_baseline_is_its_own(kit: Any) -> None:
    traversed = (
        section(kit, kit.costing(MS), baseline=kit.costing(MS, kit.plain_ffn), case=kit.case(40))
        .run(100 * MS, 0)
        .traversed
    )
    assert (traversed["a"].distinct_experts, traversed["a"].routed_slots) == (4, 80)
    assert (traversed["dense"].distinct_experts, traversed["dense"].routed_slots) == (2, 80)


def test_one_answer_of_each_is_kept_and_right(kit: Any) -> None:
    made = section(kit, kit.costing(MS), kit.costing(2 * MS))
    kept = made.run(300 * MS, 0).kept
    assert kept["a"].draw == kept["b"].draw >= 2
    for name, one in kept.items():
        made.examiner.check_timed(made.admissions[name].contestant, one.draw, one.outputs)


@pytest.mark.parametrize(("scope", "names"), [("experts", ["y", "x", "weights"]), ("layer", ["y", "x"])])
def test_in_training_each_tokens_own_gradients_are_kept_too_and_right(kit: Any, scope: str, names: list[str]) -> None:
    made = section(kit, kit.costing(MS), case=kit.case(pass_="training", scope=scope))
    one = made.run(100 * MS, 0).kept["a"]
    assert list(one.outputs) == names
    found = made.examiner.check_timed(made.admissions["a"].contestant, one.draw, one.outputs)
    assert list(found.tensors) == names


def test_nobody_gets_the_tensors_that_another_had(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered about tensors must not shorten another's call, nor the control's."""
    met: list[Tensor] = []

    def keeping(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            met.append(routing.expert_ids)
            return kit.experts(layer, x, routing)

        return forward

    made = section(kit, kit.costing(2 * MS, keeping), kit.costing(3 * MS, keeping))
    monkeypatch.setattr(made, "warm_up", lambda _rules: None)
    met.clear()
    timings = made.run(300 * MS, 0).timings
    assert len(met) == len(timings["a"].samples_ns) + len(timings["a"].control_ns or []) + len(timings["b"].samples_ns)
    assert len({id(tensor) for tensor in met}) == len({tensor.data_ptr() for tensor in met}) == len(met)


def after(number: int, kit: Any, then: Any, cost: float = MS) -> Any:
    """An implementation that is right for so many calls, and then does something else."""

    def prepare(layer: Layer) -> Forward:
        count = iter(range(10**9))

        def forward(x: Tensor, routing: Routing) -> Any:
            kit.clock.advance(cost)
            y = kit.experts(layer, x, routing)
            return then(x, routing, y) if next(count) >= number else y

        return forward

    return prepare


def raise_(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("then", "error", "says"),
    [
        (lambda _x, _routing, _y: raise_(ZeroDivisionError("five")), ZeroDivisionError, "five"),
        (lambda _x, _routing, _y: raise_(SystemExit(3)), SystemExit, "3"),
        (lambda _x, _routing, _y: None, ContractError, "returned NoneType"),
        (lambda _x, _routing, y: y[:-1], ContractError, "returned shape"),
        (lambda x, _routing, y: x.zero_() * 0 + y, DisagreementError, "a timed call changed its inputs"),
        (lambda _x, routing, y: routing.weights.zero_().sum() + y, DisagreementError, "changed its inputs"),
    ],
    ids=["raises", "exits", "nothing", "another shape", "changes x", "changes weights"],
)
@pytest.mark.parametrize("calls", [GATE_CALLS, GATE_CALLS + 60])
def test_who_fails_while_timed_is_dropped_by_name(
    kit: Any, then: Any, error: type[BaseException], says: str, calls: int
) -> None:
    """In the warm-up and in the rounds."""
    made = section(kit, kit.costing(MS), after(calls, kit, then))
    with pytest.raises(DroppedError) as caught:
        made.run(2000 * MS, 0)
    dropped = caught.value
    if calls == GATE_CALLS and error in {ContractError, DisagreementError}:
        assert kit.notes[-1][1].startswith("round")  # the warm-up looks at nobody's answers
    assert dropped.name == "b"
    assert isinstance(dropped.error, error)
    assert says in str(dropped.error)
    assert kit.notes[-1][0] == "b"


@pytest.mark.parametrize("place", range(4))
def test_one_call_of_a_sample_that_changes_its_inputs_is_enough(kit: Any, place: int) -> None:
    """Four calls make a sample here, and it may be any of them; the warm-up takes 600 calls."""
    late = itertools.count()

    def spoil_one(x: Tensor, _routing: Routing, y: Tensor) -> Tensor:
        return x.zero_() * 0 + y if next(late) == place else y

    made = section(kit, kit.costing(MS), after(GATE_CALLS + 800, kit, spoil_one, 0.25 * MS))
    with pytest.raises(DroppedError) as caught:
        made.run(2000 * MS, 0)
    assert "a timed call changed its inputs" in str(caught.value.error)


def test_the_results_of_one_are_gone_when_the_next_works(kit: Any) -> None:
    """In training they bring gradients, which are as large as the layer."""
    living, seen = set[int](), []

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            kit.clock.advance(MS)
            seen.append(len(living))
            y = kit.experts(layer, x, routing)
            number = len(seen)
            living.add(number)
            weakref.finalize(y, living.discard, number)
            return y

        return forward

    section(kit, prepare, prepare, case=kit.case(pass_="training")).run(100 * MS, 0)
    assert len(seen) > 50
    assert set(seen[2 * GATE_CALLS :]) == {0}
