"""What Triton's interpreter gets wrong about bf16, and that our helpers get it right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.fused.dot import dot, narrow

SIZE = 16


@triton.jit
def product_kernel(a, b, out, OURS: tl.constexpr, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    sums = tl.zeros((SIZE, SIZE), tl.float32)
    left, right = tl.load(a + places), tl.load(b + places)
    sums = dot(left, right, sums) if OURS else tl.dot(left, right, sums)
    tl.store(out + places, sums)


@triton.jit
def cast_kernel(values, out, OURS: tl.constexpr, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)
    loaded = tl.load(values + places)
    tl.store(out + places, narrow(loaded, out.dtype.element_ty) if OURS else loaded.to(out.dtype.element_ty))


def product(dtype: torch.dtype, ours: bool) -> tuple[Tensor, Tensor]:
    a, b = (torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    out = torch.empty(SIZE, SIZE)
    product_kernel[(1,)](a, b, out, OURS=ours, SIZE=SIZE)
    return out, a.float() @ b.float()


def cast(values: Tensor, ours: bool) -> Tensor:
    out = torch.empty(len(values), dtype=torch.bfloat16)
    cast_kernel[(1,)](values, out, OURS=ours, SIZE=len(values))
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_our_product_is_right_in_every_dtype(dtype: Any) -> None:
    out, expected = product(dtype, ours=True)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_the_interpreter_still_multiplies_bf16_wrongly() -> None:
    """When this fails Triton has mended it, and ``dot`` need not widen any more."""
    out, expected = product(torch.bfloat16, ours=False)
    assert not torch.allclose(out, expected, rtol=0.1, atol=0.1)


def test_our_rounding_to_bf16_is_torchs() -> None:
    random = torch.randn(1018, generator=torch.Generator().manual_seed(0)) * 10
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, torch.inf, 3.4e38])
    values = torch.cat([random, ties])
    assert torch.equal(cast(values, ours=True), values.to(torch.bfloat16))
    assert torch.isnan(cast(torch.full((16,), torch.nan), ours=True)).all()


def test_the_interpreter_still_cuts_bf16_off() -> None:
    """When this fails Triton has mended it, and ``narrow`` need not round any more."""
    values = torch.full((16,), 1 + 1.9 * 2**-8)
    assert not torch.equal(cast(values, ours=False), values.to(torch.bfloat16))
