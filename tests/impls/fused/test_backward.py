"""The training pass of the fused kernels under Triton's interpreter: every gradient, and what is kept for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.layer.contract import Routing
from harness.layer.oracle import experts_training
from impls.fused.autograd import train
from impls.fused.configuration import Configuration, Tiles

SIZES: dict[str, Any] = {"hidden": 48, "expert_hidden": 24, "experts": 4}
"""Small: the interpreter takes about a millisecond for every few operations of every program."""
EVEN = Configuration("prefill", *[Tiles(16, 32, 32, 4, 2)] * 5)
UNEVEN = Configuration(
    "prefill",
    Tiles(16, 32, 64, 4, 2),
    Tiles(16, 64, 32, 4, 2),
    Tiles(16, 64, 32, 4, 2),
    Tiles(16, 32, 64, 8, 3),
    Tiles(32, 64, 16, 4, 2),
)
ROUTINGS = {
    "one expert takes all": [[3]] * 20,
    "first and last expert empty": [[1 + t % 2] for t in range(20)],
    "dropped slots anywhere": [[4, t % 4] if t % 3 else [t % 4, 4] for t in range(20)],
    "some tokens without any expert": [[4, 4] if t % 3 else [t % 4, (t + 3) % 4] for t in range(20)],
    "everything dropped": [[4, 4]] * 20,
    "every expert": [[0, 1, 2, 3]] * 20,
}


def ask(problem: Any, configuration: Configuration = EVEN, wanted: set[str] | None = None) -> dict[str, Tensor]:
    """y and the gradients of one training pass; of the inputs ``wanted`` only, where given."""
    layer, inputs = problem.weights.layer, problem.inputs
    named = {"x": inputs.x, "weights": inputs.routing.weights, **layer.parameters()}
    leaves = {key: tensor.detach().requires_grad_(wanted is None or key in wanted) for key, tensor in named.items()}
    parameters: Any = {key: leaves[key] for key in layer.parameters()}
    layer = dataclasses.replace(layer, **parameters)
    y = train(leaves["x"], Routing(inputs.routing.expert_ids, leaves["weights"]), layer, configuration)
    wanted_leaves = {key: leaf for key, leaf in leaves.items() if leaf.requires_grad}
    found = torch.autograd.grad(y, list(wanted_leaves.values()), inputs.dy)
    assert all(g.dtype == leaf.dtype for g, leaf in zip(found, wanted_leaves.values(), strict=True))
    return {"y": y.detach(), **dict(zip(wanted_leaves, found, strict=True))}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "shape",
    [
        {"activation": "silu", "bias": True},
        {"activation": "silu", "gated": False},
        {"activation": "gelu", "bias": True},
        {"activation": "relu", "gated": False, "bias": True},
        {"activation": "clamped_swiglu", "bias": True},
    ],
    ids=str,
)
def test_every_gradient_agrees(lab: Any, shape: dict[str, Any], dtype: str) -> None:
    problem = lab.problem(21, dtype=dtype, **SIZES, **shape)
    lab.assert_agrees("fused", problem, ask(problem))


@settings(max_examples=8, deadline=None)
@given(
    tokens=st.integers(1, 24),
    hidden=st.integers(1, 40),
    expert_hidden=st.integers(1, 40),
    experts=st.integers(1, 4),
    gated=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from(["fp32", "bf16"]),
    uneven=st.booleans(),
    data=st.data(),
)
def test_any_size_and_any_routing_agree(
    lab: Any, data: st.DataObject, experts: int, uneven: bool, **sizes: Any
) -> None:
    tokens = sizes.pop("tokens")
    top_k = data.draw(st.integers(1, experts))
    orders = st.permutations(range(experts)).map(lambda order: order[:top_k])
    ids = torch.tensor(data.draw(st.lists(orders, min_size=tokens, max_size=tokens)))
    ids[torch.tensor(data.draw(st.lists(st.booleans(), min_size=ids.numel(), max_size=ids.numel()))).view_as(ids)] = (
        experts
    )
    problem = lab.problem(tokens, experts=experts, top_k=top_k, **sizes).routed(ids)
    with lab.poison():
        lab.assert_agrees("fused", problem, ask(problem, UNEVEN if uneven else EVEN))


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS.keys())
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_not_reached_has_a_gradient_of_exactly_zero(lab: Any, routing: list[list[int]], dtype: str) -> None:
    problem = lab.problem(20, dtype=dtype, bias=True, **SIZES).routed(routing)
    with lab.poison():
        got = lab.assert_agrees("fused", problem, ask(problem))
    ids = problem.inputs.routing.expert_ids
    unused = torch.ones(5, dtype=torch.bool).index_fill(0, ids.unique(), value=False)[:4]
    assert not any(got[key][unused].any() for key in problem.weights.layer.parameters())
    assert not got["weights"][ids == 4].any()
    assert not got["x"][(ids == 4).all(1)].any()


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_few_tokens(lab: Any, tokens: int, bias: bool) -> None:
    problem = lab.problem(tokens, dtype="bf16", bias=bias, **SIZES)
    with lab.poison():
        lab.assert_agrees("fused", problem, ask(problem))


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "clamped_swiglu"])
def test_in_float32_close_to_autograd_in_float64(lab: Any, activation: str) -> None:
    """Large inputs, so that many gates and ups are clamped."""
    problem = lab.problem(23, activation=activation, bias=True, hidden=50, expert_hidden=37, experts=4)
    problem = problem.with_x(problem.inputs.x * 5)
    x, dy = problem.inputs.x.double(), problem.inputs.dy.double()
    y, gradients = experts_training(problem.weights.layer, x, problem.inputs.routing, dy)
    for key, got in ask(problem, UNEVEN).items():
        truth = y if key == "y" else gradients[key]
        torch.testing.assert_close(got.double(), truth.double(), rtol=1e-4, atol=1e-5 * float(truth.abs().max()))


def test_weight_zero_of_a_kept_slot_has_a_gradient(lab: Any) -> None:
    problem = lab.problem(12, **SIZES)
    weights = problem.inputs.routing.weights.clone()
    weights[::2, 0] = 0
    problem = problem.routed(problem.inputs.routing.expert_ids, weights)
    assert lab.assert_agrees("fused", problem, ask(problem))["weights"][::2, 0].all()


def test_strided_tensors(lab: Any) -> None:
    problem = lab.problem(19, bias=True, **SIZES)
    layer, inputs = problem.weights.layer, problem.inputs
    strided = {
        "x": inputs.x,
        "dy": inputs.dy,
    }
    wide = {key: torch.stack([tensor, tensor], dim=-1)[..., 0] for key, tensor in strided.items()}
    routing = Routing(
        *(torch.stack([t, t], dim=-1)[..., 0] for t in (inputs.routing.expert_ids, inputs.routing.weights))
    )
    turned = dataclasses.replace(layer, down=layer.down.detach().mT.contiguous().mT, gate_up=layer.gate_up.detach())
    got = ask(
        dataclasses.replace(
            problem,
            inputs=dataclasses.replace(inputs, **wide, routing=routing),
            weights=dataclasses.replace(problem.weights, layer=turned),
        )
    )
    assert all(torch.equal(got[key], value) for key, value in ask(problem).items())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_same_question_same_bits(lab: Any, dtype: str) -> None:
    problem = lab.problem(24, dtype=dtype, bias=True, **SIZES)
    first = ask(problem)
    assert all(torch.equal(first[key], again) for key, again in ask(problem).items())


INPUTS = ("x", "weights", "gate_up", "down", "gate_up_bias", "down_bias")


@settings(max_examples=6, deadline=None)
@given(wanted=st.sets(st.sampled_from(INPUTS), min_size=1))
def test_only_what_is_asked_for_is_computed(lab: Any, wanted: set[str]) -> None:
    problem = lab.problem(9, bias=True, hidden=20, expert_hidden=12, experts=2)
    everything, some = ask(problem), ask(problem, wanted=wanted)
    assert set(some) == {"y", *wanted}
    assert all(torch.equal(everything[key], value) for key, value in some.items())


def test_gradients_accumulate_and_the_graph_can_be_retained(lab: Any) -> None:
    problem = lab.problem(9, **SIZES)
    layer, inputs = problem.weights.layer, problem.inputs
    x = inputs.x.detach().requires_grad_()
    y = train(x, inputs.routing, layer, EVEN)
    (first,) = torch.autograd.grad(y, x, inputs.dy, retain_graph=True)
    y.backward(inputs.dy)
    assert x.grad is not None
    assert torch.equal(x.grad, first)
    for parameter in layer.parameters().values():
        parameter.grad = None
    with pytest.raises(RuntimeError, match="second time"):
        y.backward(inputs.dy)


def test_gradients_of_gradients_are_refused(lab: Any) -> None:
    problem = lab.problem(5, **SIZES)
    x = problem.inputs.x.detach().requires_grad_()
    y = train(x, problem.inputs.routing, problem.weights.layer, EVEN)
    (dx,) = torch.autograd.grad(y, x, problem.inputs.dy.requires_grad_(), create_graph=True)
    problem.inputs.dy.requires_grad_(False)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
