"""Inputs: fresh for each draw, the same for each seed; in scope ``layer`` the router sees the traffic in x itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.inputs import Inputs, dense_routing, make_inputs, router_logits
from harness.layer.routers import route
from harness.layer.traffic import make_logits
from harness.layer.weights import TORCH_DTYPES, make_weights
from harness.measure.tampering import changed_inputs

if TYPE_CHECKING:
    from harness.layer.contract import Routing

SIZES: dict[str, Any] = {"hidden": 64, "expert_hidden": 16, "experts": 8, "top_k": 2}


def make_case(tokens: int = 96, spread: str = "uniform", seed: int = 0, **settings: Any) -> Case:
    keys = {"dtype", "pass_", "scope"}
    case = {key: value for key, value in settings.items() if key in keys}
    shape = {**SIZES, **{key: value for key, value in settings.items() if key not in keys}}
    return Case(shape=Shape(**shape), traffic=Traffic(tokens=tokens, spread=spread, seed=seed), **case)


def draw(case: Case, number: int = 0) -> Inputs:
    return make_inputs(case, make_weights(case), number)


def counts(routing: Routing) -> Tensor:
    return torch.bincount(routing.expert_ids.flatten(), minlength=8)


@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_shapes_and_dtypes(scope: str, dtype: str) -> None:
    inputs = draw(make_case(scope=scope, dtype=dtype, pass_="training"))
    assert inputs.x.shape == (96, 64)
    assert inputs.x.dtype == TORCH_DTYPES[dtype]
    assert inputs.dy is not None
    assert inputs.dy.shape == inputs.x.shape
    assert inputs.dy.dtype == inputs.x.dtype
    assert inputs.routing.expert_ids.shape == (96, 2)
    assert inputs.routing.expert_ids.dtype == torch.int64
    assert inputs.routing.weights.dtype == torch.float32
    assert not inputs.routing.weights.requires_grad


def test_forward_has_no_gradient_from_above() -> None:
    assert draw(make_case()).dy is None


@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("kind", ["softmax", "noisy_topk"])
def test_fresh_for_every_draw_the_same_for_every_seed(scope: str, kind: Any) -> None:
    case = make_case(scope=scope, pass_="training", router=Router(kind=kind))
    weights = make_weights(case)
    first, again, second = (make_inputs(case, weights, number) for number in (0, 0, 1))
    assert not changed_inputs(first, again)
    assert not torch.equal(first.x, second.x)
    assert not torch.equal(first.routing.expert_ids, second.routing.expert_ids)
    assert not torch.equal(first.routing.weights, second.routing.weights)
    assert first.dy is not None
    assert second.dy is not None
    assert not torch.equal(first.dy, second.dy)
    other = draw(make_case(scope=scope, pass_="training", router=Router(kind=kind), seed=1))
    assert not torch.equal(first.x, other.x)


def test_draws_of_neighbouring_seeds_do_not_meet() -> None:
    one, two = draw(make_case(seed=0), 1), draw(make_case(seed=1), 0)
    assert not torch.equal(one.x, two.x)


def test_x_is_standard_normal() -> None:
    x = draw(make_case(4096)).x
    assert x.mean().abs() < 0.01
    assert x.std().item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    "spread", ["uniform", "gaussian:1", "zipf:1.2", "single_hot", "k_hot", "tile:16", "temporal:0.5"]
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_router_sees_the_traffic_in_x(spread: str, dtype: str) -> None:
    """x @ router.T are the asked logits up to rounding, so that the layer's own routing has the asked skew."""
    case = make_case(spread=spread, scope="layer", dtype=dtype)
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    asked = make_logits(case.shape, case.traffic, draw=0)
    seen = router_logits(inputs.x, weights.router)
    torch.testing.assert_close(seen, asked, rtol=0, atol=1e-4 if dtype == "fp32" else 5e-2)
    assert torch.equal(inputs.routing.expert_ids, route(seen, case.shape).expert_ids)
    moved = (counts(inputs.routing) - counts(route(asked, case.shape))).abs().sum()
    assert moved <= (0 if dtype == "fp32" else 8)


@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("number", [0, 1])
def test_single_hot_really_is(scope: str, number: int) -> None:
    case = make_case(spread="single_hot", scope=scope, dtype="bf16")
    found = counts(draw(case, number).routing)
    assert found.max() == 96
    assert found.sort().values[-2] < 40


@pytest.mark.parametrize("scope", ["experts", "layer"])
def test_k_hot_really_is(scope: str) -> None:
    found = counts(draw(make_case(spread="k_hot", scope=scope, dtype="bf16")).routing)
    assert sorted(found.tolist()) == [0] * 6 + [96, 96]


def test_more_experts_than_hidden_units_still_gives_finite_inputs() -> None:
    """Then no x has the asked logits; the nearest one is taken, and the routing is what the router makes of it."""
    case = make_case(hidden=8, experts=32, scope="layer")
    inputs = draw(case)
    assert torch.isfinite(inputs.x).all()
    assert inputs.x.abs().max() < 1e3
    assert (inputs.routing.expert_ids < 32).all()


@pytest.mark.parametrize("kind", ["mixture", "expert_choice", "switch", "sigmoid"])
@pytest.mark.parametrize("scope", ["experts", "layer"])
def test_every_router_keeps_the_contract(kind: Any, scope: str) -> None:
    top_k = 1 if kind == "switch" else 2
    router = Router(kind=kind, selection_bias=kind == "sigmoid")
    case = make_case(scope=scope, top_k=top_k, router=router, spread="zipf:1")
    inputs = draw(case)
    ids, weights = inputs.routing.expert_ids, inputs.routing.weights
    assert ids.shape == weights.shape
    assert not weights[ids == 8].any()
    for row in ids.tolist():
        kept = [expert for expert in row if expert < 8]
        assert len(set(kept)) == len(kept)
    assert (inputs.selection_bias is not None) == (kind == "sigmoid")


@pytest.mark.parametrize("scope", ["experts", "layer"])
def test_no_tokens(scope: str) -> None:
    inputs = draw(make_case(0, scope=scope, pass_="training"))
    assert inputs.x.shape == (0, 64)
    assert inputs.routing.expert_ids.shape == (0, 2)


def test_dense_routing_is_the_first_k_experts_with_weight_one() -> None:
    routing = dense_routing(3, make_case(top_k=3).shape, "cpu")
    assert routing.expert_ids.tolist() == [[0, 1, 2]] * 3
    assert torch.equal(routing.weights, torch.ones(3, 3))
    mixture = make_case(router=Router(kind="mixture")).shape
    assert dense_routing(2, mixture, "cpu").expert_ids.tolist() == [list(range(8))] * 2


@pytest.mark.parametrize("field", ["x", "dy", "expert_ids", "weights"])
def test_a_change_in_place_is_noticed(field: str) -> None:
    inputs = draw(make_case(pass_="training"))
    copy = inputs.clone()
    assert not changed_inputs(inputs, copy)
    holder: Any = copy.routing if field in {"expert_ids", "weights"} else copy
    getattr(holder, field)[3, 1] += 1
    assert changed_inputs(inputs, copy)
    assert not changed_inputs(inputs, dataclasses.replace(inputs))
