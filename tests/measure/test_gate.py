"""How the gate asks: in which order, on what memory, and what it counts as time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from torch import Tensor

from harness.layer.contract import Routing
from harness.layer.oracle import PER_TOKEN
from harness.measure import gate
from harness.measure.contestant import Contestant
from harness.measure.gate import DisagreementError

if TYPE_CHECKING:
    from harness.layer.contract import Forward, Layer


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


def answered(one: Contestant, examiner: Any, draw: int) -> dict[str, Tensor]:
    """What a timed call gives token by token."""
    call = one.call(examiner.answers.fresh(draw))
    return {name: tensor for name, tensor in call.outputs(call()).items() if name in PER_TOKEN}


class Stale(torch.autograd.Function):
    """Right forward; backward gives some of the first call's gradients for ever."""

    @staticmethod
    def forward(ctx: Any, memory: dict[str, Tensor], names: list[str], kit: Any, layer: Layer, *given: Any) -> Any:
        x, ids, weights, *_parameters = given
        ctx.save_for_backward(x, ids, weights)
        ctx.memory, ctx.names, ctx.kit, ctx.layer = memory, names, kit, layer
        return kit.experts(layer, x, Routing(ids, weights))

    @staticmethod
    def backward(ctx: Any, *dy: Any) -> Any:
        x, ids, weights = ctx.saved_tensors
        leaves = {"x": x.detach().requires_grad_(), "weights": weights.detach().requires_grad_()}
        leaves |= ctx.layer.parameters()
        with torch.enable_grad():
            y = ctx.kit.experts(ctx.layer, leaves["x"], Routing(ids, leaves["weights"]))
        found = dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dy[0], allow_unused=True), strict=True))
        for name in ctx.names:
            found[name] = ctx.memory.setdefault(name, found[name])
        return None, None, None, None, found.pop("x"), None, found.pop("weights"), *found.values()


@pytest.mark.parametrize(
    ("stale", "rule"),
    [
        (["x"], "x: rel"),
        (["weights"], "weights: rel"),
        (["gate_up"], "gate_up: the gradient is the same for other inputs"),
        (["down"], "down: the gradient is the same for other inputs"),
        ([], ""),
    ],
    ids=str,
)
def test_remembered_gradients_do_not_pass(kit: Any, stale: list[str], rule: str) -> None:
    def prepare(layer: Layer) -> Forward:
        memory: dict[str, Tensor] = {}

        def forward(x: Tensor, routing: Routing) -> Any:
            given = (x, routing.expert_ids, routing.weights, *layer.parameters().values())
            return Stale.apply(memory, stale, kit, layer, *given)  # type: ignore[no-untyped-call]

        return forward

    case = kit.case(40, pass_="training")
    if stale:
        assert kit.refused(prepare, case).startswith(rule)
    else:
        assert kit.admit(prepare, case).agreement.passed


class TestTheTimedAnswer:
    def contestant(self, kit: Any, examiner: Any, **given: Any) -> Contestant:
        return Contestant(kit.implementation(**given), examiner.weights, examiner.case)

    @pytest.mark.parametrize("pass_", ["forward", "training"])
    def test_a_right_one_passes_after_the_gates_answers_are_gone(self, kit: Any, pass_: str) -> None:
        examiner = kit.examiner(kit.case(pass_=pass_))
        one = self.contestant(kit, examiner)
        examiner.answers.forget()
        agreement = examiner.check_timed(one, 17, answered(one, examiner, 17))
        assert agreement.checks == 1
        assert list(agreement.tensors) == (["y"] if pass_ == "forward" else ["y", "x", "weights"])

    @pytest.mark.parametrize("stale", ["x", "weights"])
    def test_gradients_of_another_question_are_found_out(self, kit: Any, stale: str) -> None:
        examiner = kit.examiner(kit.case(40, pass_="training"))
        one = self.contestant(kit, examiner)
        outputs = answered(one, examiner, 17) | {stale: answered(one, examiner, 16)[stale]}
        with pytest.raises(DisagreementError, match=rf"^a timed call, checked after the clock stopped: {stale}: rel"):
            examiner.check_timed(one, 17, outputs)

    def test_one_to_another_question_does_not(self, kit: Any) -> None:
        examiner = kit.examiner(kit.case())
        one = self.contestant(kit, examiner)
        with pytest.raises(DisagreementError, match=r"^a timed call, checked after the clock stopped: y: rel"):
            examiner.check_timed(one, 17, answered(one, examiner, 16))

    def test_the_baseline_is_held_against_its_own_function(self, kit: Any) -> None:
        examiner = kit.examiner(kit.case())
        one = self.contestant(kit, examiner, prepare=kit.plain_ffn, family="dense")
        assert examiner.check_timed(one, 5, answered(one, examiner, 5)).passed
        other = self.contestant(kit, examiner)
        with pytest.raises(DisagreementError):
            examiner.check_timed(one, 5, answered(other, examiner, 5))
