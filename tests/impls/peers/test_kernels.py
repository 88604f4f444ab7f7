"""Kernels without a layer around them: DeepGEMM and triton_kernels are called as published, and agree."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.layer.contract import Routing

ALIGNMENT = 128
GATED: dict[str, dict[str, Any]] = {
    "silu": {},
    "gelu": {"activation": "gelu"},
    "clamped": {"activation": "clamped_swiglu"},
    "plain": {"gated": False},
    "mixture": {"router": "mixture"},
}
WITH_BIAS: dict[str, dict[str, Any]] = {
    "bias": {"bias": True},
    "gpt-oss": {"activation": "clamped_swiglu", "bias": True},
    "plain-bias": {"gated": False, "bias": True},
}
PROBLEMS: dict[str, dict[str, Any]] = {"tokens": {}, "one-token": {"tokens": 1}, "top-1": {"top_k": 1}}


@pytest.fixture
def deepgemm(bench: Any) -> str:
    """DeepGEMM's contiguous product: whole blocks of rows of one expert, of which -1 says that there are none."""

    def m_grouped_bf16_gemm_nt_contiguous(a: Tensor, b: Tensor, d: Tensor, grouped_layout: Tensor) -> None:
        assert {a.dtype, b.dtype, d.dtype} == {torch.bfloat16}
        assert grouped_layout.dtype == torch.int32
        assert a.is_contiguous()
        assert b.stride(-1) == 1
        assert d.shape == (len(a), b.shape[1])
        assert grouped_layout.shape == (len(a),)
        assert len(a) % ALIGNMENT == 0
        for block in range(0, len(a), ALIGNMENT):
            rows = slice(block, block + ALIGNMENT)
            expert = int(grouped_layout[block])
            assert set(grouped_layout[rows].tolist()) <= {expert, -1}, "a block of two experts"
            d[rows] = torch.nan if expert < 0 else (a[rows].float() @ b[expert].float().T).to(d.dtype)

    bench.module(
        "deep_gemm",
        get_mk_alignment_for_contiguous_layout=lambda: ALIGNMENT,
        m_grouped_bf16_gemm_nt_contiguous=m_grouped_bf16_gemm_nt_contiguous,
    )
    bench.load("deepgemm")
    return "deepgemm"


@pytest.mark.parametrize("changes", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("kind", GATED)
def test_deepgemm_is_called_as_it_asks(lab: Any, deepgemm: str, kind: str, changes: dict[str, Any]) -> None:
    problem = lab.problem(**{"dtype": "bf16", "pass_": "forward"} | GATED[kind] | changes)
    with lab.poison():
        lab.assert_agrees(deepgemm, problem)


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_runs_start_at_multiples_whatever_the_load(data: st.DataObject) -> None:
    place = importlib.import_module("impls.peers.deepgemm")._place
    experts, k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    tokens, alignment = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 4, 8]))
    choice = st.lists(st.integers(0, experts - 1), min_size=k, max_size=k)
    ids = torch.tensor(data.draw(st.lists(choice, min_size=tokens, max_size=tokens)))
    placement, row_experts = place(Routing(ids, torch.ones(ids.shape)), experts, alignment)
    assert len(row_experts) == len(placement.tokens) == len(placement.slots)
    assert len(row_experts) % alignment == 0
    assert torch.equal(row_experts[placement.rows].long(), ids)
    assert torch.equal(placement.tokens[placement.rows], torch.arange(tokens)[:, None].expand(tokens, k))
    assert placement.rows.flatten().unique().numel() == ids.numel()
    assert int((row_experts >= 0).sum()) == ids.numel()
    for block in row_experts.view(-1, alignment):
        here = set(block.tolist()) - {-1}
        assert len(here) <= 1
        assert not here or int(block[0]) >= 0, "the first row tells the block's expert"


class FnSpecs(NamedTuple):
    """Of triton_kernels' ``matmul``."""

    name: str
    fn: Any
    fn_arg_names: tuple[str, ...] = ()
    reduction_n: int = 1


class FusedActivation(NamedTuple):
    """Of triton_kernels' ``matmul``."""

    specs: FnSpecs
    fn_args: tuple[Any, ...]


@dataclass
class Ragged:
    """What ``make_ragged_tensor_metadata`` knows: the rows of each expert."""

    slice_sizes: Tensor
    total: int


@pytest.fixture
def triton_kernels(bench: Any, tools: Any) -> str:
    """triton_kernels' ``matmul``: rows gathered, ragged over the experts, weighed, scattered."""

    def make_ragged_tensor_metadata(slice_sizes: Tensor, n_total_rows: int) -> Ragged:
        assert slice_sizes.dtype == torch.int32
        assert int(slice_sizes.sum()) == n_total_rows
        return Ragged(slice_sizes, n_total_rows)

    def matmul(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        a_ragged_metadata: Ragged,
        gather_indx: Tensor | None = None,
        scatter_indx: Tensor | None = None,
        gammas: Tensor | None = None,
        fused_activation: FusedActivation | None = None,
    ) -> Tensor:
        assert all(index is None or index.dtype == torch.int32 for index in (gather_indx, scatter_indx))
        assert bias is None or bias.dtype == torch.float32
        assert gammas is None or gammas.dtype == torch.float32
        assert a.shape[1] == b.shape[1]
        rows = a if gather_indx is None else a[gather_indx.long()]
        assert len(rows) == a_ragged_metadata.total
        experts = torch.arange(len(b)).repeat_interleave(a_ragged_metadata.slice_sizes)
        out = torch.einsum("rk,rkn->rn", rows.float(), b.float()[experts])
        out = out if bias is None else out + bias[experts]
        if fused_activation is not None:
            assert fused_activation.specs[0::2] == ("swiglu", ("alpha", "limit"))
            assert fused_activation.specs.reduction_n == 2
            out = tools.oai_swiglu(out[:, 0::2], out[:, 1::2], *fused_activation.fn_args)
        out = (out if gammas is None else out * gammas[:, None]).to(a.dtype)
        return out if scatter_indx is None else torch.empty_like(out).index_copy_(0, scatter_indx.long(), out)

    bench.module("triton_kernels.matmul", FnSpecs=FnSpecs, FusedActivation=FusedActivation, matmul=matmul)
    bench.module("triton_kernels.swiglu", swiglu_fn=object())
    bench.module("triton_kernels.tensor", make_ragged_tensor_metadata=make_ragged_tensor_metadata)
    bench.load("triton_kernels")
    return "triton_kernels"


@pytest.mark.parametrize("changes", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("kind", GATED | WITH_BIAS)
def test_triton_kernels_is_called_as_it_asks(lab: Any, triton_kernels: str, kind: str, changes: dict[str, Any]) -> None:
    problem = lab.problem(**{"dtype": "bf16", "pass_": "forward"} | (GATED | WITH_BIAS)[kind] | changes)
    lab.assert_agrees(triton_kernels, problem)


def test_another_package_called_triton_kernels_is_not_taken(bench: Any) -> None:
    bench.module("triton_kernels.rotary_embedding")
    assert "another package" in bench.load("triton_kernels").PACKAGE.lacking
