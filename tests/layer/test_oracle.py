"""The oracle against a token-by-token loop, a dense formula under autograd, and finite differences."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.contract import Layer, Routing
from harness.layer.inputs import Inputs, dense_routing, make_inputs, router_logits
from harness.layer.oracle import experts_forward, experts_training, solve
from harness.layer.routers import route, routing_margin
from harness.layer.weights import SharedExperts, Weights, make_weights
from harness.measure.tampering import changed_inputs

if TYPE_CHECKING:
    from collections.abc import Callable

TINY: dict[str, Any] = {"hidden": 6, "expert_hidden": 8, "experts": 4, "top_k": 2}
KINDS = [
    ("silu", True, False),
    ("silu", False, True),
    ("gelu", True, True),
    ("gelu", False, False),
    ("relu", True, False),
    ("relu", False, True),
    ("clamped_swiglu", True, True),
]
LAYER_SHAPES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "renormalised": {"router": Router(renormalise=True, scale=2.5)},
    "topk_softmax with bias": {"router": Router(kind="topk_softmax"), "bias": True, "activation": "clamped_swiglu"},
    "sigmoid with shared": {
        "router": Router(kind="sigmoid", renormalise=True, selection_bias=True, scale=2.5),
        "shared_experts": 2,
        "shared_hidden": 5,
    },
    "gated shared, plain": {
        "shared_experts": 1,
        "shared_hidden": 7,
        "shared_gated": True,
        "gated": False,
        "activation": "gelu",
    },
    "noisy_topk": {"router": Router(kind="noisy_topk")},
    "mixture": {"router": Router(kind="mixture")},
    "switch": {"router": Router(kind="switch", capacity_factor=0.5), "top_k": 1},
    "expert_choice": {"router": Router(kind="expert_choice")},
    "all experts": {"top_k": 4},
}


def make_case(tokens: int = 5, dtype: Any = "fp32", seed: int = 0, **shape: Any) -> Case:
    made = Shape(**{**TINY, **shape})
    return Case(shape=made, traffic=Traffic(tokens=tokens, seed=seed), dtype=dtype, pass_="training")


def in_scope(case: Case, scope: str, pass_: str = "training") -> Case:
    return msgspec.structs.replace(case, scope=scope, pass_=pass_)


def erf_gelu(z: float) -> float:
    return z * 0.5 * (1 + math.erf(z / math.sqrt(2)))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


PLAIN: dict[str, Callable[[float], float]] = {
    "silu": lambda z: z * sigmoid(z),
    "gelu": erf_gelu,
    "relu": lambda z: max(z, 0.0),
}


def one_expert(layer: Layer, expert: int, x: list[float]) -> list[float]:
    """down(act(gate x) * up x) in Python's own floats."""

    def project(weight: Tensor, bias: Tensor | None, vector: list[float]) -> list[float]:
        out = [math.fsum(w * v for w, v in zip(row, vector, strict=True)) for row in weight.tolist()]
        return out if bias is None else [a + b for a, b in zip(out, bias.tolist(), strict=True)]

    bias_in = None if layer.proj_in_bias is None else layer.proj_in_bias[expert]
    bias_out = None if layer.down_bias is None else layer.down_bias[expert]
    hidden = project(layer.proj_in[expert], bias_in, x)
    if layer.shape.gated:
        half = len(hidden) // 2
        pairs = zip(hidden[:half], hidden[half:], strict=True)
        if layer.shape.activation == "clamped_swiglu":
            clamped = ((min(g, 7.0), max(-7.0, min(u, 7.0))) for g, u in pairs)
            hidden = [(u + 1) * g * sigmoid(1.702 * g) for g, u in clamped]
        else:
            hidden = [PLAIN[layer.shape.activation](g) * u for g, u in pairs]
    else:
        hidden = [PLAIN[layer.shape.activation](z) for z in hidden]
    return project(layer.down[expert], bias_out, hidden)


@pytest.mark.parametrize(("activation", "gated", "bias"), KINDS)
def test_forward_is_the_definition_token_by_token(activation: str, gated: bool, bias: bool) -> None:
    case = make_case(activation=activation, gated=gated, bias=bias)
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    ids = inputs.routing.expert_ids.clone()
    ids[1, 0] = 4  # dropped
    routing = Routing(ids, torch.where(ids < 4, inputs.routing.weights, 0.0))
    x = 4 * inputs.x.double()  # reaches the clamp
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for token in range(5):
        for expert, weight in zip(ids[token].tolist(), routing.weights[token].tolist(), strict=True):
            if expert < 4:
                out = one_expert(weights.layer, expert, x[token].tolist())
                expected[token] += weight * torch.tensor(out, dtype=torch.float64)
    torch.testing.assert_close(experts_forward(weights.layer, x, routing), expected, rtol=1e-13, atol=1e-13)


def dense_formula(layer: Layer, x: Tensor, routing: Routing) -> Tensor:
    """All experts on all tokens, weighed by a (T, E) matrix: one expression that autograd can follow."""
    one_hot = torch.nn.functional.one_hot(routing.expert_ids, layer.shape.experts + 1)[..., :-1]
    matrix = (one_hot * routing.weights[..., None]).sum(1)
    hidden = torch.einsum("th,efh->tef", x, layer.proj_in)
    if layer.proj_in_bias is not None:
        hidden = hidden + layer.proj_in_bias
    out = torch.einsum("tei,ehi->teh", layer.activate(hidden), layer.down)
    if layer.down_bias is not None:
        out = out + layer.down_bias
    return torch.einsum("te,teh->th", matrix, out)


def in_double(layer: Layer) -> Layer:
    doubles: dict[str, Any] = {key: p.detach().double().requires_grad_() for key, p in layer.parameters().items()}
    return dataclasses.replace(layer, **doubles)


@pytest.mark.parametrize(("activation", "gated", "bias"), KINDS)
def test_gradients_are_autograds_of_a_dense_formula(activation: str, gated: bool, bias: bool) -> None:
    case = make_case(17, activation=activation, gated=gated, bias=bias)
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    ids = inputs.routing.expert_ids.clone()
    ids[3] = 4
    ids[ids == 2] = 4  # expert 2 gets nothing
    gates = torch.where(ids < 4, inputs.routing.weights, 0.0)
    assert inputs.dy is not None
    x, dy = inputs.x.double(), inputs.dy.double()
    y, gradients = experts_training(weights.layer, x, Routing(ids, gates), dy)

    layer = in_double(weights.layer)
    leaves = {"x": x.requires_grad_(), "weights": gates.double().requires_grad_(), **layer.parameters()}
    expected = dense_formula(layer, leaves["x"], Routing(ids, leaves["weights"]))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(expected, list(leaves.values()), dy)
    assert gradients.keys() == leaves.keys()
    for key, gradient in zip(leaves, found, strict=True):
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-12, atol=1e-12)
    assert not any(gradients[key][2].any() for key in layer.parameters())


def test_gradients_of_16_bit_layers_are_kept_in_float32() -> None:
    case = make_case(dtype="bf16")
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    answer = solve(weights, case, inputs, torch.float64).tensors
    assert answer["x"].dtype == answer["y"].dtype == torch.float64
    assert answer["gate_up"].dtype == torch.float32
    assert solve(weights, case, inputs, torch.bfloat16).tensors["gate_up"].dtype == torch.bfloat16


class Solved(Function):
    """The oracle as a differentiable function, its gradients its own: for gradcheck."""

    @staticmethod
    def forward(ctx: Any, problem: tuple[Case, Weights, Inputs], names: list[str], *leaves: Tensor) -> Tensor:
        case, weights, inputs = bind(problem, dict(zip(names, leaves, strict=True)))
        ctx.problem, ctx.names, ctx.leaves = problem, names, leaves
        return solve(weights, in_scope(case, case.scope, "forward"), inputs, torch.float64).tensors["y"]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        case, weights, inputs = bind(ctx.problem, dict(zip(ctx.names, ctx.leaves, strict=True)))
        answer = solve(weights, case, dataclasses.replace(inputs, dy=dy), torch.float64).tensors
        return (None, None, *(answer[name].double() for name in ctx.names))


def bind(problem: tuple[Case, Weights, Inputs], leaves: dict[str, Tensor]) -> tuple[Case, Weights, Inputs]:
    """Put tensors in the place of those of the same name."""
    case, weights, inputs = problem
    own: dict[str, Any] = {key: leaves[key] for key in weights.layer.parameters()}
    layer = dataclasses.replace(weights.layer, **own)
    shared = weights.shared
    if shared is not None:
        shared = SharedExperts(shared.shape, leaves["shared_proj_in"], leaves["shared_down"], leaves.get("shared_gate"))
    routing = inputs.routing
    if "weights" in leaves:
        routing = Routing(routing.expert_ids, leaves["weights"])
    bound = Weights(layer, leaves.get("router", weights.router), shared)
    return case, bound, dataclasses.replace(inputs, x=leaves["x"], routing=routing)


def check_by_finite_differences(case: Case, weights: Weights, inputs: Inputs) -> None:
    named = weights.parameters() if case.scope == "layer" else weights.layer.parameters()
    leaves = {"x": inputs.x, **named} | ({} if case.scope == "layer" else {"weights": inputs.routing.weights})
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves.values()]
    solved: Any = Solved.apply
    assert torch.autograd.gradcheck(lambda *d: solved((case, weights, inputs), list(leaves), *d), doubles)


@pytest.mark.parametrize(("activation", "gated", "bias"), [k for k in KINDS if k[0] != "relu"])
def test_gradients_by_finite_differences(activation: str, gated: bool, bias: bool) -> None:
    case = make_case(activation=activation, gated=gated, bias=bias)
    weights = make_weights(case)
    check_by_finite_differences(case, weights, make_inputs(case, weights, 0))


@pytest.mark.parametrize("shape", LAYER_SHAPES.values(), ids=LAYER_SHAPES.keys())
def test_gradients_of_the_whole_layer_by_finite_differences(shape: dict[str, Any]) -> None:
    """Router and shared experts included, where no choice of experts is near to flipping."""
    case = in_scope(make_case(seed=2, **shape), "layer")
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    logits = router_logits(inputs.x, weights.router)
    noisy = logits if inputs.router_noise is None else logits + inputs.router_noise
    assert routing_margin(noisy, case.shape, selection_bias=inputs.selection_bias).min() > 1e-4
    check_by_finite_differences(case, weights, inputs)


@pytest.mark.parametrize("shape", LAYER_SHAPES.values(), ids=LAYER_SHAPES.keys())
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_layer_is_router_experts_and_shared(shape: dict[str, Any], pass_: str) -> None:
    case = in_scope(make_case(9, seed=1, **shape), "layer", pass_)
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    x = inputs.x.double()
    logits = router_logits(x, weights.router.double())
    bias, noise = (None if t is None else t.double() for t in (inputs.selection_bias, inputs.router_noise))
    expected = dense_formula(in_double(weights.layer), x, route(logits, case.shape, selection_bias=bias, noise=noise))
    if weights.shared:
        shared = weights.shared
        hidden = x @ shared.proj_in.double().T
        gate, up = (hidden, None) if not case.shape.gated else hidden.chunk(2, -1)
        function: Any = {"silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}[case.shape.activation]
        out = (function(gate) if up is None else function(gate) * up) @ shared.down.double().T
        expected = expected + (out if shared.gate is None else out * torch.sigmoid(x @ shared.gate.double().T))
    got = solve(weights, case, inputs, torch.float64).tensors
    torch.testing.assert_close(got["y"], expected, rtol=1e-12, atol=1e-12)
    names = {"y", "x", *weights.parameters()} if pass_ == "training" else {"y"}
    assert got.keys() == names


def test_a_router_whose_weights_are_constant_has_no_gradient() -> None:
    """A softmax over the one expert chosen is 1 whatever the logits."""
    case = in_scope(make_case(router=Router(kind="topk_softmax"), top_k=1), "layer")
    weights = make_weights(case)
    assert not solve(weights, case, make_inputs(case, weights, 0), torch.float64).tensors["router"].any()


@pytest.mark.parametrize("scope", ["experts", "layer"])
def test_rows_are_those_of_the_whole(scope: str) -> None:
    case = in_scope(make_case(20, shared_experts=1, shared_hidden=3), scope, "forward")
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    rows = torch.tensor([1, 7, 19])
    whole, some = (solve(weights, case, inputs, torch.float64, r) for r in (None, rows))
    torch.testing.assert_close(some.tensors["y"], whole.tensors["y"][rows], rtol=1e-13, atol=1e-13)
    if whole.ambiguous is not None and some.ambiguous is not None:
        assert torch.equal(some.ambiguous, whole.ambiguous[rows])


@pytest.mark.parametrize("shape", LAYER_SHAPES.values(), ids=LAYER_SHAPES.keys())
@pytest.mark.parametrize("scope", ["experts", "layer"])
def test_what_is_a_tokens_own_needs_no_other_token(shape: dict[str, Any], scope: str) -> None:
    case = in_scope(make_case(9, seed=1, **shape), scope, "training")
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    rows = torch.tensor([1, 7])
    whole, some = (solve(weights, case, inputs, torch.float64, r).tensors for r in (None, rows))
    assert list(some) == (["y", "x", "weights"] if scope == "experts" else ["y", "x"])
    for name, got in some.items():
        torch.testing.assert_close(got, whole[name][rows], rtol=1e-12, atol=1e-12)


def test_near_ties_are_ambiguous_and_clear_choices_are_not() -> None:
    case = in_scope(make_case(6, hidden=16), "layer", "forward")
    weights = make_weights(case)
    inputs = make_inputs(case, weights, 0)
    assert not solve(weights, case, inputs, torch.float64).ambiguous.any()  # type: ignore[union-attr]
    tied = dataclasses.replace(weights, router=weights.router[:1].expand(4, -1).contiguous())
    assert solve(tied, case, inputs, torch.float64).ambiguous.all()  # type: ignore[union-attr]


@pytest.mark.parametrize("largest", [1.0, 1000.0])
def test_a_tie_is_near_within_four_float32_roundings_of_the_largest_logit(largest: float) -> None:
    case = in_scope(make_case(6, hidden=16), "layer", "forward")
    weights = dataclasses.replace(make_weights(case), router=torch.eye(4, 16))
    inputs = make_inputs(case, weights, 0)
    for gap, near in ((3, True), (5, False)):
        logits = largest - torch.arange(4) * gap * largest * 2.0**-23
        x = torch.zeros_like(inputs.x)
        x[:, :4] = logits
        found = solve(weights, case, dataclasses.replace(inputs, x=x), torch.float64).ambiguous
        assert found is not None
        assert found.all() if near else not found.any()


@pytest.mark.parametrize("scope", ["experts", "layer"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
def test_no_tokens(scope: str, pass_: str) -> None:
    case = in_scope(make_case(0, shared_experts=1, shared_hidden=3), scope, pass_)
    weights = make_weights(case)
    got = solve(weights, case, make_inputs(case, weights, 0), torch.float64).tensors
    assert got["y"].shape == (0, 6)
    assert not any(tensor.any() for tensor in got.values())


def test_baseline_is_a_plain_ffn() -> None:
    """Experts 0..k-1 as one FFN of width k*I, shared experts beside it, no router."""
    case = in_scope(make_case(7, bias=True, shared_experts=1, shared_hidden=3), "layer")
    weights = make_weights(case)
    drawn = make_inputs(case, weights, 0)
    inputs = Inputs(drawn.x, dense_routing(7, case.shape, "cpu"), drawn.dy, None, None)
    got = solve(weights, case, inputs, torch.float64, baseline=True).tensors
    layer, x = in_double(weights.layer), drawn.x.double()
    assert layer.proj_in_bias is not None
    assert layer.down_bias is not None
    assert weights.shared is not None
    hidden = layer.activate(torch.einsum("th,efh->tef", x, layer.proj_in[:2]) + layer.proj_in_bias[:2])
    expected = torch.einsum("tei,ehi->th", hidden, layer.down[:2]) + layer.down_bias[:2].sum(0)
    shared = weights.shared
    expected = expected + SharedExperts(case.shape, shared.proj_in.double(), shared.down.double(), None)(x)
    torch.testing.assert_close(got["y"], expected.detach(), rtol=1e-12, atol=1e-12)
    assert got.keys() == {"y", "x", *weights.layer.parameters(), *shared.parameters()}


def test_nothing_is_changed() -> None:
    case = in_scope(make_case(9, shared_experts=1, shared_hidden=3, shared_gated=True), "layer")
    weights = make_weights(case)
    for parameter in weights.parameters().values():
        parameter.requires_grad_()
    inputs = make_inputs(case, weights, 0)
    before, kept = inputs.clone(), {k: p.detach().clone() for k, p in weights.parameters().items()}
    for dtype in (torch.float32, torch.float64):
        answer = solve(weights, case, inputs, dtype)
        assert not any(tensor.requires_grad for tensor in answer.tensors.values())
    assert not changed_inputs(inputs, before)
    assert all(torch.equal(p, kept[k]) and p.requires_grad for k, p in weights.parameters().items())
