"""What holds for every routing: found by hypothesis, or true exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.layer.contract import Layer, Routing
from harness.layer.oracle import experts_training
from harness.measure.tampering import changed_inputs

CONTRACT_IN_FLOAT64 = ("loop", "einsum", "batched", "soft", "dense")
"""All but grouped: torch's grouped_mm knows no float64."""


@st.composite
def routings(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """Experts, and ids (T, K) in any order with dropped slots anywhere; no expert twice in a token."""
    experts = draw(st.integers(1, 9))
    width = draw(st.integers(1, experts))
    one_token = st.permutations(range(experts)).map(lambda order: order[:width])
    ids = draw(st.lists(one_token, max_size=12))
    dropped = draw(st.lists(st.booleans(), min_size=len(ids) * width, max_size=len(ids) * width))
    return experts, [
        [experts if dropped[t * width + k] else expert for k, expert in enumerate(row)] for t, row in enumerate(ids)
    ]


@settings(max_examples=60, deadline=None)
@given(case=routings(), gated=st.booleans(), bias=st.booleans(), seed=st.integers(0, 3))
def test_any_routing_agrees(lab: Any, case: tuple[int, list[list[int]]], gated: bool, bias: bool, seed: int) -> None:
    experts, ids = case
    sizes = {"hidden": 16, "expert_hidden": 8, "experts": experts, "top_k": 1}
    problem = lab.problem(len(ids), **sizes, gated=gated, bias=bias, seed=seed)
    routed = problem.routed(torch.tensor(ids, dtype=torch.int64).reshape(len(ids), len(ids[0]) if ids else 1))
    with lab.poison():
        for name in lab.moe:
            lab.assert_agrees(name, routed)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_weights_scale_exactly(lab: Any, moe: str, dtype: str) -> None:
    """Twice the routing weights, twice the output: a power of two changes no rounding."""
    problem = lab.problem(dtype=dtype, pass_="forward")
    ids, weights = problem.inputs.routing.expert_ids, problem.inputs.routing.weights
    once, twice = (lab.ask(moe, problem.routed(ids, weights * factor))["y"] for factor in (1, 2))
    assert torch.equal(2 * once, twice)


def test_order_of_tokens_and_slots_does_not_matter(lab: Any, moe: str) -> None:
    problem = lab.problem(pass_="forward", top_k=4)
    ids, weights = problem.inputs.routing.expert_ids, problem.inputs.routing.weights
    tokens = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    shuffled = problem.with_x(problem.inputs.x[tokens]).routed(ids[tokens].flip(1), weights[tokens].flip(1))
    torch.testing.assert_close(lab.ask(moe, shuffled)["y"], lab.ask(moe, problem)["y"][tokens], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_same_question_same_answer(lab: Any, name: str, dtype: str) -> None:
    """Bit for bit, one prepared forward asked three times, and again after another question."""
    problem, other = lab.problem(dtype=dtype, bias=True), lab.problem(17, dtype=dtype, bias=True)
    first = lab.ask(name, problem)
    lab.ask(name, other)
    for _ in range(3):
        again = lab.ask(name, problem)
        assert all(torch.equal(first[key], again[key]) for key in first)


def test_one_prepared_forward_serves_many_calls(lab: Any, name: str) -> None:
    """Nothing is remembered of an earlier call, and each can be followed by a backward pass."""
    problem = lab.problem()
    layer, inputs = problem.weights.layer, problem.seen_by(name).inputs
    forward = lab.implementation(name).prepare(layer)
    parameters = list(layer.parameters().values())

    def gradients(x: Tensor) -> tuple[Tensor, ...]:
        y = forward(x, Routing(inputs.routing.expert_ids[: len(x)], inputs.routing.weights[: len(x)]))
        return (y, *torch.autograd.grad(y, parameters, inputs.dy[: len(x)]))

    first = gradients(inputs.x)
    gradients(inputs.x[:7] * 2)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(inputs.x), strict=True))


@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_nothing_it_was_given_is_changed(lab: Any, name: str, pass_: str) -> None:
    problem = lab.problem(pass_=pass_, bias=True)
    before = problem.inputs.clone()
    parameters = {key: p.detach().clone() for key, p in problem.weights.layer.parameters().items()}
    lab.ask(name, problem)
    assert not changed_inputs(problem.inputs, before)
    assert all(torch.equal(p, parameters[key]) for key, p in problem.weights.layer.parameters().items())


@pytest.mark.parametrize("name", CONTRACT_IN_FLOAT64)
@pytest.mark.parametrize("activation", ["silu", "clamped_swiglu"])
def test_every_gradient_by_finite_differences(lab: Any, name: str, activation: str) -> None:
    problem = lab.problem(5, hidden=6, expert_hidden=8, experts=4, activation=activation, bias=True)
    layer = _double(problem.weights.layer)
    routing = problem.seen_by(name).inputs.routing
    ids = routing.expert_ids.clone()
    if name != "dense":
        ids[0, 1] = 4
    leaves = (
        problem.inputs.x.double(),
        torch.where(ids < 4, routing.weights, 0).double(),
        *layer.parameters().values(),
    )

    def function(x: Tensor, weights: Tensor, *parameters: Tensor) -> Tensor:
        named: dict[str, Any] = dict(zip(layer.parameters(), parameters, strict=True))
        y: Tensor = lab.implementation(name).prepare(dataclasses.replace(layer, **named))(x, Routing(ids, weights))
        return y

    assert torch.autograd.gradcheck(function, tuple(leaf.detach().requires_grad_() for leaf in leaves))


@pytest.mark.parametrize("name", CONTRACT_IN_FLOAT64)
def test_float64_gradients_equal_the_oracles(lab: Any, name: str) -> None:
    """Without rounding in the way, the oracle's answer to 12 digits."""
    problem = lab.problem(19, bias=True)
    layer, inputs = _double(problem.weights.layer), problem.seen_by(name).inputs
    x, dy = inputs.x.double().requires_grad_(), inputs.dy.double()
    weights = inputs.routing.weights.double().requires_grad_()
    y, oracle = experts_training(problem.weights.layer, x.detach(), inputs.routing, dy)
    got = lab.implementation(name).prepare(layer)(x, Routing(inputs.routing.expert_ids, weights))
    leaves = {"x": x, **layer.parameters()} | ({} if name == "dense" else {"weights": weights})
    found = torch.autograd.grad(got, list(leaves.values()), dy)
    torch.testing.assert_close(got, y, rtol=1e-12, atol=1e-12)
    for key, gradient in zip(leaves, found, strict=True):
        torch.testing.assert_close(gradient, oracle[key], rtol=1e-12, atol=1e-12)


def _double(layer: Layer) -> Layer:
    parameters: dict[str, Any] = {key: p.detach().double().requires_grad_() for key, p in layer.parameters().items()}
    return dataclasses.replace(layer, **parameters)
