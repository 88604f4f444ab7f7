"""DeepGEMM: bf16 grouped products for Hopper and Blackwell, in its contiguous layout.

Written against version 2.6.1 (deep_gemm/__init__.py, csrc/apis/gemm.hpp at 54e2261) and SGLang's build of it,
sgl-deep-gemm 0.2.3.post2, which has the same entry. It computes products only: sorting, padding, activation and the way
back are this adapter's, as they are its caller's everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from impls._dispatch import Placement, combine_rows, gather_tokens, sort_slots
from impls.peers._limits import Limits
from impls.peers._package import Package, peer

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Forward, Layer, Routing

PACKAGE = Package(
    "deep_gemm",
    "pip install sgl-deep-gemm, or DeepGEMM from source",
    oldest="2.1",
    below="3",
    also="a Hopper or Blackwell GPU, nvcc",
)
LIMITS = Limits(
    "deepgemm",
    gated=("silu", "gelu", "relu", "clamped_swiglu"),
    plain=("silu", "gelu", "relu"),
    capabilities=(9, 10),
    multiple=8,
)


@peer("deepgemm", PACKAGE, devices=("cuda",), dtypes=("bf16",), unsupported=LIMITS)
def deepgemm(layer: Layer) -> Forward:
    """Sort slots by expert, gather into runs padded to 128 rows, DeepGEMM, activation, DeepGEMM, gather and weigh.

    Nothing is copied in prepare. Every call pays for the plan: sort, counts, padded starts, each row's expert. Rows are
    as many as the padding can ever come to, ``T*K + E*127``, so that nothing waits for the device; tiles without a row
    are skipped by the kernel, while activation and gather go over them.

    Its contiguous layout is meant for prefill. The masked one, for decoding, is not taken here.
    """
    import deep_gemm

    experts = layer.shape.experts
    alignment = int(deep_gemm.get_mk_alignment_for_contiguous_layout())

    def product(rows: Tensor, weight: Tensor, row_experts: Tensor) -> Tensor:
        """Rows (R, in), weight (E, out, in), row_experts (R,) int32, -1 for none -> (R, out)."""
        out = rows.new_empty(len(rows), weight.shape[1])
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(rows, weight, out, row_experts)
        return out

    def forward(x: Tensor, routing: Routing) -> Tensor:
        placement, row_experts = _place(routing, experts, alignment)
        rows = gather_tokens(x, placement)
        hidden = layer.activate(product(rows, layer.proj_in, row_experts))
        return combine_rows(product(hidden, layer.down, row_experts), routing.weights, placement)

    return forward


def _place(routing: Routing, experts: int, alignment: int) -> tuple[Placement, Tensor]:
    """Start each expert's run at a multiple of ``alignment``; also return each row's expert (R,) int32, or -1."""
    ids, order, ends = sort_slots(routing, experts)
    tokens, k = routing.expert_ids.shape
    slots = len(ids)
    starts = F.pad(ends, (1, 0))
    padding = -starts.diff() % alignment
    shift = F.pad(padding.cumsum(0), (1, 0))[:-1]  # rows of padding before each expert
    slot_rows = torch.arange(slots, device=ids.device) + shift[ids]
    most = slots + min(slots, experts) * (alignment - 1)
    total = -(-most // alignment) * alignment
    row_experts = torch.full((total,), -1, dtype=torch.int32, device=ids.device)
    row_experts.scatter_(0, slot_rows, ids.to(torch.int32))
    row_slots = torch.full((total,), slots, device=ids.device).scatter_(0, slot_rows, order)
    row_tokens = torch.where(row_slots < slots, row_slots // max(k, 1), 0)
    rows = torch.empty_like(order).scatter_(0, order, slot_rows).view(tokens, k)
    return Placement(row_tokens, row_slots, rows, torch.ones_like(rows, dtype=torch.bool)), row_experts
