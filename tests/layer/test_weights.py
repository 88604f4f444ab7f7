"""Weights: shapes, scale, seeds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from harness.cases.case import Case
from harness.cases.shape import Router, Shape
from harness.cases.traffic import Traffic
from harness.layer.weights import TORCH_DTYPES, make_weights


def make_case(dtype: Any = "fp32", seed: int = 0, tokens: int = 4, **shape: Any) -> Case:
    sizes: dict[str, Any] = {"hidden": 64, "expert_hidden": 32, "experts": 6, "top_k": 2}
    return Case(shape=Shape(**{**sizes, **shape}), traffic=Traffic(tokens=tokens, seed=seed), dtype=dtype)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layout_is_the_contracts(dtype: str, gated: bool, bias: bool) -> None:
    weights = make_weights(make_case(dtype, gated=gated, bias=bias))
    width = 64 if gated else 32
    first = "gate_up" if gated else "up"
    expected: dict[str, tuple[int, ...]] = {first: (6, width, 64), "down": (6, 64, 32)}
    if bias:
        expected |= {f"{first}_bias": (6, width), "down_bias": (6, 64)}
    parameters = weights.layer.parameters()
    assert {key: tuple(p.shape) for key, p in parameters.items()} == expected
    assert all(p.dtype == TORCH_DTYPES[dtype] and p.is_contiguous() for p in parameters.values())
    assert weights.router.shape == (6, 64)
    assert weights.router.dtype == torch.float32
    assert weights.shared is None


def test_counts_match_the_shape() -> None:
    case = make_case(bias=True, shared_experts=2, shared_hidden=24, shared_gated=True)
    weights = make_weights(case)
    assert sum(p.numel() for p in weights.parameters().values()) == case.shape.total_params
    assert weights.nbytes == 4 * case.shape.total_params


def test_router_stays_in_float32_in_the_byte_count() -> None:
    weights = make_weights(make_case("bf16"))
    assert (
        weights.nbytes == 2 * sum(p.numel() for p in weights.layer.parameters().values()) + 4 * weights.router.numel()
    )


@pytest.mark.parametrize("gated", [True, False])
def test_shared_experts_are_one_ffn(gated: bool) -> None:
    case = make_case(gated=gated, shared_experts=3, shared_hidden=16, shared_gated=gated, activation="gelu")
    shared = make_weights(case).shared
    assert shared is not None
    assert shared.proj_in.shape == ((2 if gated else 1) * 48, 64)
    assert shared.down.shape == (64, 48)
    x = torch.randn(5, 64)
    hidden = x @ shared.proj_in.T
    gelu = torch.nn.functional.gelu
    hidden = gelu(hidden[:, :48]) * hidden[:, 48:] if gated else gelu(hidden)
    expected = hidden @ shared.down.T
    if gated:
        assert shared.gate is not None
        expected = expected * torch.sigmoid(x @ shared.gate.T)
    torch.testing.assert_close(shared(x), expected)


def test_variance_is_one_over_fan_in() -> None:
    weights = make_weights(make_case(bias=True, experts=32, shared_experts=1, shared_hidden=256, shared_gated=True))
    assert weights.shared is not None
    assert weights.shared.gate is not None
    assert weights.shared.gate.std().item() == pytest.approx(1 / 8, rel=0.3), "64 values tell no more"
    named = {**weights.parameters()}
    for key, fan_in in {"gate_up": 64, "down": 32, "router": 64, "shared_proj_in": 64, "shared_down": 256}.items():
        tensor = named[key]
        assert tensor.mean().abs() < 0.1 / fan_in**0.5
        assert tensor.std().item() == pytest.approx(fan_in**-0.5, rel=0.1)
    assert named["down_bias"].std().item() == pytest.approx(0.1, rel=0.1)


def test_same_seed_same_weights_and_tokens_do_not_matter() -> None:
    one, two = (make_weights(make_case(seed=7, tokens=t, shared_experts=1, shared_hidden=8)) for t in (4, 400))
    other = make_weights(make_case(seed=8, shared_experts=1, shared_hidden=8))
    assert one.parameters().keys() == two.parameters().keys()
    for key, tensor in one.parameters().items():
        assert torch.equal(tensor, two.parameters()[key])
        assert not torch.equal(tensor, other.parameters()[key])


def test_experts_differ_from_each_other() -> None:
    gate_up = make_weights(make_case()).layer.proj_in
    assert len({tuple(expert.flatten()[:4].tolist()) for expert in gate_up}) == 6


def test_cases_of_one_layer_key_run_on_the_same_weights() -> None:
    """A worker builds weights once for cases that differ in router or top-k, and only re-labels them."""
    shape = Shape(hidden=16, expert_hidden=8, experts=4, top_k=2, shared_experts=1, shared_hidden=8)
    one = Case(shape=shape, traffic=Traffic(tokens=3))
    other_shape = msgspec.structs.replace(shape, top_k=3, router=Router(kind="sigmoid", scale=2.0))
    other = Case(shape=other_shape, traffic=Traffic(tokens=5))
    assert one.layer_key == other.layer_key
    assert one.layer_key != Case(shape=msgspec.structs.replace(shape, experts=5), traffic=Traffic(tokens=3)).layer_key
    served, made = make_weights(one).serving(other_shape), make_weights(other)
    assert served.layer.shape == made.layer.shape == other_shape
    assert served.shared is not None
    assert served.shared.shape == other_shape
    for name, tensor in made.parameters().items():
        assert torch.equal(tensor, served.parameters()[name])
