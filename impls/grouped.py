"""Family grouped: slots sorted by expert and one grouped matrix product over the ragged runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Case, Forward, Layer, Routing, implementation
from impls._dispatch import Placement, combine_rows, gather_tokens, sort_slots

ALIGNMENT_BYTES = 16
"""``torch.nn.functional.grouped_mm`` wants every matrix row to start on a multiple of this."""

MAX_CUDA_EXPERTS = 1023
"""Its CUDA kernel takes fewer than 1024 groups."""


def unsupported(case: Case) -> str | None:
    """Say which of ``grouped_mm``'s limits a case breaks, or None (torch 2.11 to 2.13)."""
    shape = case.shape
    width = (2 if shape.gated else 1) * shape.expert_hidden
    for name, size in (("H", shape.hidden), ("2I" if shape.gated else "I", width), ("I", shape.expert_hidden)):
        if size * case.dtype_bytes % ALIGNMENT_BYTES:
            multiple = ALIGNMENT_BYTES // case.dtype_bytes
            return f"torch's grouped_mm needs {name} = {size} to be a multiple of {multiple} in {case.dtype} (16 bytes)"
    if case.execution == "compile" and case.dtype != "bf16":
        return f"torch.compile knows grouped_mm in bf16 only, not {case.dtype}"
    return _unsupported_on_cuda(case) if case.device.startswith("cuda") else None


def _unsupported_on_cuda(case: Case) -> str | None:
    if case.dtype != "bf16":
        return f"torch's grouped_mm has a CUDA kernel for bf16 only; {case.dtype} would be a loop on the host"
    if case.shape.experts > MAX_CUDA_EXPERTS:
        return f"torch's grouped_mm takes at most {MAX_CUDA_EXPERTS} experts on CUDA, not {case.shape.experts}"
    capability = torch.cuda.get_device_capability(case.device)
    if capability < (8, 0):
        return f"torch's grouped_mm needs compute capability 8.0, this device has {capability[0]}.{capability[1]}"
    if capability < (9, 0) and case.execution == "graph":
        return "below compute capability 9.0 torch's grouped_mm is a loop on the host, which no CUDA graph can hold"
    return None


@implementation("grouped", family="grouped", passes=("forward", "training"), unsupported=unsupported)
def grouped(layer: Layer) -> Forward:
    """Sort slots by expert, gather, ``grouped_mm``, activation, ``grouped_mm``, gather back, weigh and sum.

    Never waits for the device: the ends of the runs stay there, so that a CUDA graph can hold it. On the CPU, and on
    CUDA below compute capability 9.0, torch's grouped_mm is itself a loop over the experts, which on CUDA does wait.

    Writes ``T*K * (3H + 4I) * s`` bytes for gated experts, s bytes an element: permuted input, gate and up, activated
    gate, product, output by row and output by slot. Dropped slots are sorted behind the last run and not computed.

    Computes the rows that are wanted and no others whatever the skew, and reads only experts that were hit: the plain
    choice for prefill and training. It moves T*K*H elements more often than fused kernels do, and at few tokens a
    sort and several gathers stand beside very small products.
    """
    experts = layer.shape.experts

    def forward(x: Tensor, routing: Routing) -> Tensor:
        placement, ends = _place(routing, experts)
        rows = gather_tokens(x, placement)
        hidden = layer.activate(_linear(rows, layer.proj_in, layer.proj_in_bias, ends))
        out = _linear(hidden, layer.down, layer.down_bias, ends)
        return combine_rows(out, routing.weights, placement)

    return forward


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """Rows (R, in), weight (E, out, in), bias (E, out) -> (R, out); rows behind the last end stay uninitialised."""
    out = F.grouped_mm(rows, weight.mT, offs=ends)
    return out if bias is None else out + _bias_rows(bias, ends, len(rows))


def _bias_rows(bias: Tensor, ends: Tensor, rows: int) -> Tensor:
    """Each row's bias (R, out), as a grouped product of ones with the biases.

    Its gradient is then a product as well: summed in float32, in a fixed order, and never over the rows behind the last
    end, which hold garbage there too. Only one of the columns of ones counts; the others are there for the alignment.
    """
    columns = ALIGNMENT_BYTES // bias.element_size()
    ones = torch.ones(rows, columns, dtype=bias.dtype, device=bias.device)
    return F.grouped_mm(ones, F.pad(bias[:, None], (0, 0, 0, columns - 1)), offs=ends)


def _place(routing: Routing, experts: int) -> tuple[Placement, Tensor]:
    """Give each slot the row it has in the order of experts, and say where each expert's rows end (E,) int32."""
    _, order, ends = sort_slots(routing, experts)
    tokens, width = routing.expert_ids.shape
    kept = routing.expert_ids < experts
    rows = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    # Dropped slots read row 0 and weigh it with 0. It must hold a number even when every slot was dropped.
    ends[-1:].clamp_(min=min(1, len(order)))
    rows = torch.where(kept, rows.view(tokens, width), 0)
    return Placement(order // max(width, 1), order, rows, kept), ends
