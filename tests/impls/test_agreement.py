"""Every implementation against the float64 oracle, over all that a Shape can ask of an expert."""

from __future__ import annotations

from typing import Any

import pytest
import torch

KINDS = [
    (activation, gated)
    for activation in ("silu", "gelu", "relu", "clamped_swiglu")
    for gated in (True, False)
    if gated or activation != "clamped_swiglu"
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pass_", ["forward", "training"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("activation", "gated"), KINDS, ids=[f"{a}-{'gated' if g else 'plain'}" for a, g in KINDS])
def test_agrees_with_the_oracle(
    lab: Any, name: str, activation: str, gated: bool, bias: bool, pass_: str, dtype: str
) -> None:
    problem = lab.problem(dtype=dtype, pass_=pass_, activation=activation, gated=gated, bias=bias)
    got = lab.assert_agrees(name, problem)
    assert got["y"].dtype == problem.inputs.x.dtype
    if pass_ == "training":
        assert all(got[key].dtype == p.dtype for key, p in problem.weights.layer.parameters().items())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("top_k", [1, 8])
def test_agrees_at_a_larger_size(lab: Any, name: str, dtype: str, top_k: int) -> None:
    lab.assert_agrees(name, lab.problem(257, dtype=dtype, hidden=256, expert_hidden=128, experts=16, top_k=top_k))


def test_a_layer_out_of_range_of_the_clamp(lab: Any, name: str) -> None:
    """Activations beyond clamped_swiglu's limit of 7, where a forgotten clamp shows."""
    problem = lab.problem(activation="clamped_swiglu", pass_="forward", bias=True)
    problem = problem.with_x(problem.inputs.x * 10)
    hidden = torch.nn.functional.linear(problem.inputs.x, problem.weights.layer.gate_up[0])
    assert (hidden.abs() > 7).float().mean() > 0.2
    lab.assert_agrees(name, problem)


def test_the_rule_catches_a_wrong_answer(lab: Any) -> None:
    """Weights off by 2 % and one token without its last slot: what the rule is for."""
    problem = lab.problem(dtype="bf16", pass_="forward")
    got = lab.ask("loop", problem)
    with pytest.raises(AssertionError, match="y: error"):
        lab.assert_agrees("loop", problem, {"y": got["y"] * 1.02})
    one_slot_less = problem.inputs.routing.weights.clone()
    one_slot_less[5, 1] = 0
    partial = lab.ask("loop", problem.routed(problem.inputs.routing.expert_ids, one_slot_less))
    with pytest.raises(AssertionError, match="y: "):
        lab.assert_agrees("loop", problem, partial)
