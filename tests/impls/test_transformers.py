"""transformers' own experts modules as an outside oracle, with our weights copied in.

They check the oracle, the layout of Layer and the activations at the same time as the implementations.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from harness.layer.activations import clamped_swiglu
from harness.layer.oracle import experts_training

if TYPE_CHECKING:
    from harness.layer.contract import Layer

SIZES = {"hidden_size": 64, "num_experts_per_tok": 2}
MODELS = {
    "mixtral": ("Mixtral", "silu", {"num_local_experts": 8, "intermediate_size": 32}),
    "qwen3_moe": ("Qwen3Moe", "silu", {"num_experts": 8, "moe_intermediate_size": 32}),
    "olmoe": ("Olmoe", "silu", {"num_experts": 8, "intermediate_size": 32}),
    "gpt_oss": ("GptOss", "clamped_swiglu", {"num_local_experts": 8, "intermediate_size": 32}),
}


def experts_module(model: str, implementation: str) -> nn.Module:
    word, _, settings = MODELS[model]
    package = f"transformers.models.{model}"
    config = getattr(importlib.import_module(f"{package}.configuration_{model}"), f"{word}Config")(**SIZES, **settings)
    config._experts_implementation = implementation
    module = getattr(importlib.import_module(f"{package}.modeling_{model}"), f"{word}Experts")(config)
    assert isinstance(module, nn.Module)
    return module


def interleave(gate_up: Tensor) -> Tensor:
    """[gate; up] rows to gate0, up0, gate1, up1, ..., as gpt-oss keeps them."""
    return torch.stack(gate_up.chunk(2, dim=1), dim=2).flatten(1, 2)


def apart(gate_up: Tensor) -> Tensor:
    return torch.cat([gate_up[:, ::2], gate_up[:, 1::2]], dim=1)


def theirs(layer: Layer, model: str) -> dict[str, Tensor]:
    """Our parameters under their names, in their layout."""
    named = layer.parameters()
    if model != "gpt_oss":
        return {"gate_up_proj": named["gate_up"], "down_proj": named["down"]}
    return {
        "gate_up_proj": interleave(named["gate_up"]).mT,
        "down_proj": named["down"].mT,
        "gate_up_proj_bias": interleave(named["gate_up_bias"]),
        "down_proj_bias": named["down_bias"],
    }


def ours(gradients: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Their gradients under our names, in our layout."""
    if model != "gpt_oss":
        return {"gate_up": gradients["gate_up_proj"], "down": gradients["down_proj"]}
    return {
        "gate_up": apart(gradients["gate_up_proj"].mT),
        "down": gradients["down_proj"].mT,
        "gate_up_bias": apart(gradients["gate_up_proj_bias"]),
        "down_bias": gradients["down_proj_bias"],
    }


def ask_transformers(model: str, problem: Any, dtype: torch.dtype, implementation: str = "eager") -> dict[str, Tensor]:
    inputs, layer = problem.inputs, problem.weights.layer
    module = experts_module(model, implementation).to(dtype)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(theirs(layer, model)[key])
    x, weights = inputs.x.to(dtype).requires_grad_(), inputs.routing.weights.to(dtype).requires_grad_()
    y = module(x, inputs.routing.expert_ids, weights)
    names = [key for key, _ in module.named_parameters()]
    dx, dweights, *found = torch.autograd.grad(y, [x, weights, *module.parameters()], inputs.dy.to(dtype))
    return {"y": y.detach(), "x": dx, "weights": dweights, **ours(dict(zip(names, found, strict=True)), model)}


def make_problem(lab: Any, model: str, scale: float = 1.0, dtype: str = "fp32") -> Any:
    problem = lab.problem(dtype=dtype, activation=MODELS[model][1], bias=model == "gpt_oss")
    return problem.with_x(problem.inputs.x * scale)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scale", [1.0, 8.0], ids=["as drawn", "beyond the clamp"])
def test_oracle_is_transformers_in_float64(lab: Any, model: str, scale: float) -> None:
    problem = make_problem(lab, model, scale)
    inputs = problem.inputs
    y, gradients = experts_training(problem.weights.layer, inputs.x.double(), inputs.routing, inputs.dy.double())
    expected = ask_transformers(model, problem, torch.float64)
    assert expected.keys() == {"y", *gradients}
    for key, mine in {"y": y, **gradients}.items():
        torch.testing.assert_close(mine, expected[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", MODELS)
def test_implementations_agree_with_transformers(lab: Any, moe: str, model: str) -> None:
    problem = make_problem(lab, model)
    expected = ask_transformers(model, problem, torch.float64)
    for key, mine in lab.ask(moe, problem).items():
        torch.testing.assert_close(mine.double(), expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_transformers_passes_our_rule(lab: Any, model: str, implementation: str, dtype: str) -> None:
    """The tolerance lets others' correct implementations through, not only ours."""
    problem = make_problem(lab, model, dtype=dtype)
    got = ask_transformers(model, problem, problem.inputs.x.dtype, implementation)
    lab.assert_agrees("loop", problem, got)


def test_clamped_swiglu_is_gpt_oss() -> None:
    module = experts_module("gpt_oss", "eager")
    gate, up = 10 * torch.randn(2, 50, 32, dtype=torch.float64)
    interleaved = torch.stack([gate, up], dim=-1).flatten(1)
    apply_gate: Any = module._apply_gate
    torch.testing.assert_close(clamped_swiglu(gate, up), apply_gate(interleaved), rtol=0, atol=1e-15)
