"""A contestant's calls: what they compute, what they are given, and what the contract says of the result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.layer.contract import Forward, Layer, Routing
from harness.layer.inputs import make_inputs
from harness.layer.oracle import solve
from harness.layer.weights import make_weights
from harness.measure.contestant import Contestant, ContractError, check_contract
from harness.records.record import Chosen


def contestant(kit: Any, case: Any, prepare: Any = None, **given: Any) -> Contestant:
    return Contestant(kit.implementation(prepare or kit.correct, **given), make_weights(case), case)


@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("family", ["loop", "dense"])
def test_a_call_gives_y_and_every_gradient_of_its_scope(kit: Any, family: str, scope: str, pass_: str) -> None:
    shared = {"shared_experts": 1, "shared_hidden": 8, "shared_gated": True} if scope == "layer" else {}
    case = kit.case(dtype="fp32", pass_=pass_, scope=scope, **shared)
    one = contestant(kit, case, kit.plain_ffn if family == "dense" else kit.correct, family=family)
    inputs = make_inputs(case, one.weights, 0)
    call = one.call(inputs)
    outputs = call.outputs(call())
    expected = solve(
        one.weights, case, call.inputs if family == "dense" else inputs, torch.float64, baseline=one.is_baseline
    )
    assert set(outputs) == set(expected.tensors)
    for name, truth in expected.tensors.items():
        assert torch.allclose(outputs[name].double(), truth.double(), rtol=1e-3, atol=1e-4), name
        assert not outputs[name].requires_grad


def test_a_forward_pass_keeps_no_graph_and_training_piles_nothing_up(kit: Any) -> None:
    forward = contestant(kit, kit.case())
    assert forward.call(make_inputs(forward.case, forward.weights, 0))()[0].grad_fn is None
    training = contestant(kit, kit.case(pass_="training"))
    inputs = make_inputs(training.case, training.weights, 0)
    first, second = training.call(inputs)(), training.call(inputs)()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(parameter.grad is None for parameter in training.weights.parameters().values())


def test_the_halves_of_a_training_call_make_the_whole(kit: Any) -> None:
    one = contestant(kit, kit.case(pass_="training"))
    call = one.call(make_inputs(one.case, one.weights, 0))
    y = call.forward_only()
    assert all(torch.equal(a, b) for a, b in zip((y, *call.backward(y)), call(), strict=True))


def test_a_gradient_that_is_missing_counts_as_zero(kit: Any) -> None:
    def prepare(layer: Layer) -> Forward:
        return lambda x, routing: kit.experts(layer, x, Routing(routing.expert_ids, routing.weights.detach()))

    one = contestant(kit, kit.case(pass_="training"), prepare)
    call = one.call(make_inputs(one.case, one.weights, 0))
    outputs = call.outputs(call())
    assert outputs["weights"].shape == (12, 2)
    assert not outputs["weights"].any()


def test_in_scope_layer_the_routing_is_the_routers_own_affair(kit: Any) -> None:
    given: list[Routing] = []

    def prepare(layer: Layer) -> Forward:
        def forward(x: Tensor, routing: Routing) -> Any:
            given.append(routing)
            return kit.experts(layer, x, routing)

        return forward

    one = contestant(kit, kit.case(scope="layer"), prepare)
    inputs = make_inputs(one.case, one.weights, 0)
    call = one.call(inputs)
    call()
    assert call.inputs.routing.expert_ids.numel() == 0
    assert torch.equal(given[0].expert_ids, inputs.routing.expert_ids)


def test_the_baseline_sends_every_token_through_the_first_k_experts(kit: Any) -> None:
    one = contestant(kit, kit.case(), family="dense")
    routing = one.call(make_inputs(one.case, one.weights, 0)).inputs.routing
    assert routing.expert_ids.tolist() == [[0, 1]] * 12
    assert routing.weights.tolist() == [[1.0, 1.0]] * 12


class Odd(Tensor):
    pass


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (None, "returned NoneType, the contract asks for a torch.Tensor"),
        ([1.0], "returned list, the contract asks for a torch.Tensor"),
        (torch.zeros(3, 4).as_subclass(Odd), "returned Odd, the contract asks for a torch.Tensor"),
        (torch.nn.Parameter(torch.zeros(3, 4)), "returned Parameter, the contract asks for a torch.Tensor"),
        (torch.zeros(4, 3), r"returned shape \(4, 3\), the contract asks for \(3, 4\)"),
        (torch.zeros(3, 4, dtype=torch.float64), "returned dtype torch.float64, the contract asks for torch.float32"),
        (torch.zeros(3, 4, device="meta"), "returned device meta, the contract asks for cpu"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_breaks_the_contract_is_named(y: Any, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        check_contract(y, torch.zeros(3, 4))


def test_what_keeps_the_contract_passes() -> None:
    check_contract(torch.ones(4, 3).T, torch.zeros(3, 4))


def test_one_that_prepares_nothing_is_told_so(kit: Any) -> None:
    with pytest.raises(ContractError, match="prepare returned NoneType, the contract asks for a function of x and"):
        kit.admit(lambda _layer: None, kit.case())


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_an_implementation_that_returns_nothing_is_told_so(kit: Any, pass_: str) -> None:
    with pytest.raises(ContractError, match="returned NoneType"):
        kit.admit(lambda _layer: lambda _x, _routing: None, kit.case(pass_=pass_))


@pytest.mark.parametrize("name", ["x", "down"])
def test_an_answer_lies_in_memory_of_its_own(kit: Any, name: str) -> None:
    """Else what the harness does to an answer, it would do to what was only lent."""
    case = kit.case(expert_hidden=32, experts=12)

    def prepare(layer: Layer) -> Forward:
        return lambda x, _routing: x.view(12, 32) if name == "x" else layer.down[:, 0]

    with pytest.raises(ContractError, match=f"returned the memory of {name}, the contract asks for"):
        kit.admit(prepare, case)


def test_the_baseline_has_the_weights_of_k_experts(kit: Any) -> None:
    case = kit.case(shared_experts=1, shared_hidden=8, scope="layer")
    weights = make_weights(case)
    named = {name: tensor.nbytes for name, tensor in weights.parameters().items()}
    shared = named["shared_proj_in"] + named["shared_down"]
    whole = Contestant(kit.implementation(), weights, case)
    baseline = Contestant(kit.implementation(kit.plain_ffn, family="dense"), weights, case)
    assert whole.weights_bytes == sum(named.values())
    assert baseline.weights_bytes == (named["gate_up"] + named["down"]) * 2 // 4 + shared


class Telling:
    """A forward that says with which configuration it runs."""

    def __init__(self, forward: Forward, says: object) -> None:
        self.forward, self.says = forward, says

    def __call__(self, x: Tensor, routing: Routing) -> Tensor:
        return self.forward(x, routing)

    def chosen(self, case: Any) -> object:
        return {"case": case} if self.says == "nonsense" else self.says


@pytest.mark.parametrize("says", [Chosen(values={"block": 64}, tuned=True, source="own"), None])
def test_a_forward_may_tell_its_configuration(kit: Any, says: Chosen | None) -> None:
    one = contestant(kit, kit.case(), lambda layer: Telling(kit.correct(layer), says))
    assert one.configuration() == says


def test_most_have_none_to_tell(kit: Any) -> None:
    assert contestant(kit, kit.case()).configuration() is None


def test_what_it_tells_must_be_a_chosen(kit: Any) -> None:
    one = contestant(kit, kit.case(), lambda layer: Telling(kit.correct(layer), "nonsense"))
    with pytest.raises(ContractError, match="chosen returned dict"):
        one.configuration()


def test_a_record_keeps_it(kit: Any) -> None:
    says = Chosen(values={"block": 64}, tuned=True, source="own")
    told = kit.implementation(lambda layer: Telling(kit.correct(layer), says), name="told")
    bad = kit.implementation(lambda layer: Telling(kit.correct(layer), "nonsense"), name="bad")
    records = kit.bout([told, bad, kit.implementation()], around=kit.around(timed=False))
    assert records["told"].configuration == says
    assert records["mine"].configuration is None
    assert records["bad"].status == "error"
