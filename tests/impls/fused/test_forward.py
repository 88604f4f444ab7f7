"""The forward pass in both regimes against the float64 oracle, under Triton's interpreter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.layer.contract import Routing
from harness.measure.tampering import changed_inputs
from impls.fused.combine import combine
from impls.fused.configuration import Configuration, Regime, Tiles
from impls.fused.defaults import default
from impls.fused.forward import FusedForward

REGIMES: tuple[Regime, ...] = ("decode", "prefill")
DTYPES = ["fp32", "bf16", "fp16"]
EXPERTS = {
    "silu gated": {"activation": "silu"},
    "gelu plain": {"activation": "gelu", "gated": False},
    "relu plain bias": {"activation": "relu", "gated": False, "bias": True},
    "relu gated": {"activation": "relu"},
    "clamped_swiglu bias": {"activation": "clamped_swiglu", "bias": True},
}
ROUTINGS = {
    "one expert takes all": [[3]] * 20,
    "most experts empty": [[1, 6]] * 20,
    "dropped slots anywhere": [[8, t % 8] if t % 3 else [t % 8, 8] for t in range(20)],
    "some tokens without any expert": [[8, 8] if t % 3 else [t % 8, (t + 3) % 8] for t in range(20)],
    "everything dropped": [[8, 8]] * 20,
    "every expert": [[7, 6, 5, 4, 3, 2, 1, 0]] * 20,
    "k other than the shape's": [[t % 8, (t + 1) % 8, 8] for t in range(20)],
    "a single slot": [[5]],
}


def small_tiles(regime: Regime, tokens: int = 16) -> Configuration:
    """Several tiles along every axis, also where the layer is small."""
    rows = 16 if regime == "prefill" else max(16, 1 << (tokens - 1).bit_length())
    return Configuration(regime, Tiles(rows, 16, 32, 4, 2), Tiles(rows, 32, 16, 4, 2))


def ask(problem: Any, regime: Regime) -> dict[str, Tensor]:
    forward = FusedForward(problem.weights.layer, small_tiles(regime, len(problem.inputs.x)))
    with torch.no_grad():
        return {"y": forward(problem.inputs.x, problem.inputs.routing)}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", EXPERTS.values(), ids=list(EXPERTS))
def test_every_kind_of_expert_agrees(lab: Any, shape: dict[str, Any], dtype: str, regime: Regime) -> None:
    problem = lab.problem(21, dtype=dtype, pass_="forward", hidden=50, expert_hidden=37, experts=5, **shape)
    got = lab.assert_agrees("fused", problem, ask(problem, regime))
    assert got["y"].dtype == problem.inputs.x.dtype


@pytest.mark.parametrize("regime", REGIMES)
@settings(max_examples=12, deadline=None)
@given(
    tokens=st.integers(1, 40),
    hidden=st.integers(1, 70),
    expert_hidden=st.integers(1, 70),
    experts=st.integers(1, 9),
    top_k=st.integers(1, 9),
    bias=st.booleans(),
    gated=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    dropped=st.floats(0, 0.5),
)
def test_any_size_agrees(lab: Any, regime: Regime, tokens: int, dtype: str, dropped: float, **shape: Any) -> None:
    shape["top_k"] = min(shape["top_k"], shape["experts"])
    problem = lab.problem(tokens, dtype=dtype, pass_="forward", **shape)
    ids = problem.inputs.routing.expert_ids
    lost = torch.rand(ids.shape, generator=torch.Generator().manual_seed(tokens)) < dropped
    problem = problem.routed(torch.where(lost, shape["experts"], ids))
    with lab.poison():
        got = ask(problem, regime)
    lab.assert_agrees("fused", problem, got)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=list(ROUTINGS))
def test_any_routing_agrees_on_poisoned_memory(lab: Any, routing: list[list[int]], regime: Regime) -> None:
    problem = lab.problem(len(routing), dtype="bf16", pass_="forward", bias=True).routed(routing)
    with lab.poison():
        got = ask(problem, regime)
    lab.assert_agrees("fused", problem, got)


@pytest.mark.parametrize("router", ["expert_choice", "mixture", "switch"])
@pytest.mark.parametrize("regime", REGIMES)
def test_routers_of_another_width(lab: Any, router: str, regime: Regime) -> None:
    problem = lab.problem(18, router=router, pass_="forward", top_k=1 if router == "switch" else 2)
    lab.assert_agrees("fused", problem, ask(problem, regime))


@pytest.mark.parametrize("tokens", [0, 1, 16, 17, 33])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_default_configuration_agrees(lab: Any, tokens: int, dtype: str) -> None:
    problem = lab.problem(tokens, dtype=dtype, pass_="forward", bias=True)
    regime = default(problem.case.shape, tokens, dtype, "forward").regime
    assert regime == ("decode" if tokens <= 16 else "prefill")
    lab.assert_agrees("fused", problem)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # numpy's; the result is right
@pytest.mark.parametrize("regime", REGIMES)
def test_far_beyond_the_clamp_and_where_sigmoid_is_flat(lab: Any, regime: Regime) -> None:
    for activation in ("clamped_swiglu", "silu"):
        problem = lab.problem(8, activation=activation, pass_="forward", bias=True)
        problem = problem.with_x(problem.inputs.x * 80)
        lab.assert_agrees("fused", problem, ask(problem, regime))


@pytest.mark.parametrize("regime", REGIMES)
def test_strided_x_and_routing(lab: Any, regime: Regime) -> None:
    problem = lab.problem(19, pass_="forward")
    expected = ask(problem, regime)["y"]
    x, ids, weights = problem.inputs.x, problem.inputs.routing.expert_ids, problem.inputs.routing.weights
    by_column, by_row = x.T.contiguous().T, torch.cat([x, x], 1)[:, : x.shape[1]]
    for strided in (by_column, by_row):
        assert not strided.is_contiguous()
        inputs = dataclasses.replace(
            problem.inputs, x=strided, routing=Routing(ids.T.contiguous().T, weights.T.contiguous().T)
        )
        again = ask(dataclasses.replace(problem, inputs=inputs), regime)["y"]
        assert again.is_contiguous()
        assert torch.equal(again, expected)


@pytest.mark.parametrize("regime", REGIMES)
def test_weights_that_lie_in_another_order(lab: Any, regime: Regime) -> None:
    problem = lab.problem(19, pass_="forward")
    layer = problem.weights.layer
    turned = {name: getattr(layer, name).mT.contiguous().mT for name in ("gate_up", "down")}
    assert not any(weight.is_contiguous() for weight in turned.values())
    weights = dataclasses.replace(problem.weights, layer=dataclasses.replace(layer, **turned))
    again = ask(dataclasses.replace(problem, weights=weights), regime)
    assert torch.equal(again["y"], ask(problem, regime)["y"])


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_question_same_bits_and_nothing_given_is_changed(lab: Any, dtype: str, regime: Regime) -> None:
    problem, other = (lab.problem(t, dtype=dtype, pass_="forward", bias=True) for t in (20, 11))
    before = problem.inputs.clone()
    first = ask(problem, regime)["y"]
    ask(other, regime)
    assert torch.equal(first, ask(problem, regime)["y"])
    assert not changed_inputs(problem.inputs, before)


def test_duplicated_tokens_have_one_answer(lab: Any) -> None:
    problem = lab.problem(6, pass_="forward")
    ids, weights = problem.inputs.routing.expert_ids, problem.inputs.routing.weights
    doubled = problem.with_x(problem.inputs.x.repeat(2, 1)).routed(ids.repeat(2, 1), weights.repeat(2, 1))
    for regime in REGIMES:
        y = ask(doubled, regime)["y"]
        torch.testing.assert_close(y[:6], y[6:])  # numpy's products depend on where a row stands


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 9),
    top_k=st.integers(1, 40),
    columns=st.integers(1, 70),
    weighed=st.booleans(),
    in_place=st.booleans(),
)
def test_combine_adds_up_what_was_kept(tokens: int, top_k: int, columns: int, weighed: bool, in_place: bool) -> None:
    generator = torch.Generator().manual_seed(tokens)
    count = tokens * top_k
    rows = torch.randn(count, columns, generator=generator)
    weights = torch.rand(tokens, top_k, generator=generator) if weighed else None
    kept = torch.rand(tokens, top_k, generator=generator) < 0.7
    row = torch.arange(count) if in_place else torch.randperm(count, generator=generator)
    places = torch.where(kept, torch.zeros_like(row.view(tokens, top_k)) if in_place else row.view(tokens, top_k), -1)
    values = rows[row].view(tokens, top_k, columns) * kept[..., None]
    expected = (values if weights is None else values * weights[..., None]).sum(1)
    rows[row.view(tokens, top_k)[~kept]] = torch.nan
    if in_place:
        got = combine(rows, torch.where(kept, 0, 7), weights, torch.float32, dropped=7)
    else:
        got = combine(rows, places.int(), weights, torch.float32)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo looks at it behind the graph break
def test_compiled_it_is_one_operator_and_the_same_answer(lab: Any) -> None:
    torch._dynamo.reset()
    for pass_ in ("forward", "training"):
        problem = lab.problem(9, pass_=pass_)
        forward, inputs = FusedForward(problem.weights.layer), problem.inputs

        def layer(x: Tensor, routing: Routing, forward: FusedForward = forward) -> Tensor:
            return forward(x, routing) + 1

        with torch.set_grad_enabled(pass_ == "training"):
            compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=pass_ == "forward")
            x = inputs.x.clone().requires_grad_(pass_ == "training")
            y, expected = compiled(x, inputs.routing), layer(x, inputs.routing)
        assert torch.equal(y, expected)
        if pass_ == "training":
            assert torch.equal(*(torch.autograd.grad(one, x, inputs.dy)[0] for one in (y, expected)))


def test_a_prepared_layer_is_let_go(lab: Any) -> None:
    """The operator that torch.compile sees knows prepared layers by number, and must not keep their weights alive."""
    from impls.fused import forward as module

    prepared = FusedForward(lab.problem(1, pass_="forward").weights.layer)
    number = prepared.number
    assert module._prepared[number] is prepared
    del prepared
    assert number not in module._prepared


def test_it_tells_with_which_configuration_a_case_runs(lab: Any) -> None:
    problem = lab.problem(5, pass_="forward")
    chosen = FusedForward(problem.weights.layer).chosen(problem.case)
    assert chosen.values["regime"] == "decode"
    assert not chosen.tuned
    fixed = FusedForward(problem.weights.layer, small_tiles("prefill")).chosen(problem.case)
    assert fixed.values == {"regime": "prefill", "first": "16x16x32 4w 2s", "second": "16x32x16 4w 2s"}
    assert not fixed.tuned, "somebody asked for it, nobody measured it"
