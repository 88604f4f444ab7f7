"""The activations' derivatives inside a kernel, against torch's autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.layer.activations import activate
from impls.fused.slopes import gated_value_and_slopes, value_and_slope

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's numpy; inf is right
SIZE = 32
POINTS = [0.0, -0.0, 1e-3, -1e-3, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.999, -6.999, 7.0, -7.0, 7.001, -7.001, 30.0, -30.0]


@triton.jit
def plain_kernel(z, value, slope, NAME: tl.constexpr, BLOCK: tl.constexpr):
    each = tl.arange(0, BLOCK)
    found, found_slope = value_and_slope(tl.load(z + each), NAME)
    tl.store(value + each, found)
    tl.store(slope + each, found_slope)


@triton.jit
def gated_kernel(gate, up, value, by_gate, by_up, NAME: tl.constexpr, BLOCK: tl.constexpr):
    each = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found, slope, slope_up = gated_value_and_slopes(tl.load(gate + each), tl.load(up + each), NAME)
    tl.store(value + each, found)
    tl.store(by_gate + each, slope)
    tl.store(by_up + each, slope_up)


def points() -> Tensor:
    """Points where something bends, or where an exponential leaves float32, and random ones."""
    some = torch.randn(SIZE - len(POINTS) - 2, generator=torch.Generator().manual_seed(0)) * 4
    return torch.cat([torch.tensor([*POINTS, 200.0, -200.0]), some])


def truth(activation: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [given.double().requires_grad_() for given in inputs]
    value = activate(torch.stack(leaves, dim=-1), activation, gated=len(leaves) > 1).squeeze(-1)
    return (value.detach(), *torch.autograd.grad(value.sum(), leaves))


def assert_close(got: list[Tensor], expected: tuple[Tensor, ...], *inputs: Tensor) -> None:
    """To float32's accuracy of what is multiplied: gelu's cancels where it is next to 0, here as in torch."""
    scale = torch.stack([1 + given.abs() for given in inputs]).prod(dim=0).double()
    for mine, theirs in zip(got, expected, strict=True):
        assert ((mine.double() - theirs).abs() <= 4e-7 * scale).all()


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_plain(activation: str) -> None:
    z = points()
    got = [torch.empty_like(z) for _ in range(2)]
    plain_kernel[(1,)](z, *got, NAME=activation, BLOCK=SIZE)
    assert_close(got, truth(activation, z), z)


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "clamped_swiglu"])
def test_gated_for_every_pair(activation: str) -> None:
    gate, up = (grid.flatten().contiguous() for grid in torch.meshgrid(points(), points(), indexing="ij"))
    got = [torch.empty_like(gate) for _ in range(3)]
    gated_kernel[(SIZE,)](gate, up, *got, NAME=activation, BLOCK=SIZE)
    assert_close(got, truth(activation, gate, up), gate, up)


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "clamped_swiglu"])
def test_what_is_not_a_number_stays_one(activation: str) -> None:
    nan, one = torch.full((SIZE,), float("nan")), torch.ones(SIZE)
    for gate, up in ((nan, one), (one, nan)):
        value: Any = torch.empty(SIZE)
        gated_kernel[(1,)](gate, up, value, torch.empty(SIZE), torch.empty(SIZE), NAME=activation, BLOCK=SIZE)
        assert value.isnan().all()
