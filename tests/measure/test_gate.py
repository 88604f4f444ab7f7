"""How the gate asks: in which order, on what memory, and what it counts as time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from torch import Tensor

from harness.measure import gate
from harness.measure.contestant import Contestant
from harness.measure.gate import DisagreementError

if TYPE_CHECKING:
    from harness.layer.contract import Forward, Layer, Routing


def test_prepare_and_the_first_call_are_timed_and_nothing_else(kit: Any) -> None:
    def prepare(layer: Layer) -> Any:
        kit.clock.advance(7_000)
        return kit.costing(lambda n: [500, 100, 300][n])(layer)

    admission = kit.admit(prepare, kit.case())
    assert (admission.prepare_ns, admission.first_call_ns, admission.call_ns) == (7_000, 500, 300)
    assert [stage for _, stage in kit.notes] == ["prepare", "first call", "poisoned call", "repeated call"]
    assert admission.agreement.checks == 2


def test_a_first_call_that_compiles_is_not_taken_for_a_slow_one(kit: Any) -> None:
    admission = kit.admit(kit.costing(lambda n: [9 * gate.SLOW_NS, 2000, 1000][n]), kit.case())
    assert admission.agreement.deterministic is True
    assert admission.call_ns == 1000


def test_a_slow_call_is_not_repeated(kit: Any) -> None:
    admission = kit.admit(kit.costing(gate.SLOW_NS), kit.case())
    assert kit.notes[-1] == ("", "poisoned call")
    assert admission.agreement.deterministic is None
    assert admission.call_ns == gate.SLOW_NS


def test_answers_that_differ_from_call_to_call_pass_and_are_marked(kit: Any) -> None:
    def prepare(layer: Layer) -> Forward:
        count = itertools.count()
        return lambda x, routing: kit.experts(layer, x, routing) * (1 + 1e-7 * next(count))

    agreement = kit.admit(prepare, kit.case()).agreement
    assert agreement.passed
    assert agreement.deterministic is False


def test_both_draws_lie_in_the_same_memory_and_are_not_the_oracles(kit: Any) -> None:
    seen: list[tuple[int, float]] = []

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            seen.append((x.data_ptr(), x.sum().item()))
            return kit.experts(layer, x, routing)

        return forward

    examiner = kit.examiner(kit.case())
    examiner.admit(kit.implementation(prepare), kit.clock, lambda _stage: None)
    addresses, sums = zip(*seen, strict=True)
    assert len(set(addresses)) == 1
    assert examiner.answers.draw(0).x.data_ptr() not in addresses
    assert sums[0] == sums[2] != sums[1]


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_only_one_call_meets_poison_and_it_is_never_captured(
    kit: Any, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph would keep what fills the memory, and replay it in every timed call."""
    met: list[tuple[str, bool]] = []

    def executed(_case: Any, compute: Any) -> Any:
        def run(inputs: Any) -> Any:
            met.append(("executed", False))
            return compute(inputs)

        return run if execution == "graph" else compute

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            met.append(("computed", bool(torch.empty(9).isnan().all())))
            return kit.experts(layer, x, routing)

        return forward

    monkeypatch.setattr("harness.measure.contestant.execute_as", executed)
    examiner = kit.examiner(kit.case())
    examiner.case = msgspec.structs.replace(examiner.case, execution=execution)
    admission = examiner.admit(kit.implementation(prepare), kit.clock, lambda _stage: None)
    computed = [poison for what, poison in met if what == "computed"]
    if execution == "eager":
        assert computed == [False, True, False]
    else:
        assert met == [
            ("executed", False),
            ("computed", False),
            ("computed", True),
            ("executed", False),
            ("computed", False),
            ("executed", False),
            ("computed", False),
        ]
    assert admission.agreement.checks == (2 if execution == "eager" else 3)


def test_what_it_raises_is_passed_on_and_the_weights_are_put_back_first(kit: Any) -> None:
    def prepare(layer: Layer) -> Forward:
        def forward(_x: Tensor, _routing: Routing) -> Any:
            raise SystemExit(2)

        return forward

    with pytest.raises(SystemExit):
        kit.admit(prepare, kit.case())


class TestTheTimedAnswer:
    def contestant(self, kit: Any, examiner: Any, **given: Any) -> Contestant:
        return Contestant(kit.implementation(**given), examiner.weights, examiner.case)

    @pytest.mark.parametrize("pass_", ["forward", "training"])
    def test_a_right_one_passes_after_the_gates_answers_are_gone(self, kit: Any, pass_: str) -> None:
        examiner = kit.examiner(kit.case(pass_=pass_))
        one = self.contestant(kit, examiner)
        examiner.answers.forget()
        y = one.call(examiner.answers.fresh(17))()[0]
        assert examiner.check_timed(one, 17, y).checks == 1

    def test_one_to_another_question_does_not(self, kit: Any) -> None:
        examiner = kit.examiner(kit.case())
        one = self.contestant(kit, examiner)
        y = one.call(examiner.answers.fresh(16))()[0]
        with pytest.raises(DisagreementError, match=r"^a timed call, checked after the clock stopped: y: rel"):
            examiner.check_timed(one, 17, y)

    def test_the_baseline_is_held_against_its_own_function(self, kit: Any) -> None:
        examiner = kit.examiner(kit.case())
        one = self.contestant(kit, examiner, prepare=kit.plain_ffn, family="dense")
        y = one.call(examiner.answers.fresh(5))()[0]
        assert examiner.check_timed(one, 5, y).passed
        other = self.contestant(kit, examiner)
        with pytest.raises(DisagreementError):
            examiner.check_timed(one, 5, other.call(examiner.answers.fresh(5))()[0])
