"""The experts' activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
SWIGLU_ALPHA = 1.702
SWIGLU_LIMIT = 7.0


def clamped_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gpt-oss: ``(up + 1) * gate * sigmoid(1.702 * gate)``, gate clamped from above and up from both sides at 7.

    Source: transformers ``GptOssExperts`` (``alpha``, ``limit``).
    """
    gate = gate.clamp(max=SWIGLU_LIMIT)
    up = up.clamp(min=-SWIGLU_LIMIT, max=SWIGLU_LIMIT)
    return (up + 1) * (gate * torch.sigmoid(SWIGLU_ALPHA * gate))


def activate(hidden: Tensor, activation: str, *, gated: bool) -> Tensor:
    """Turn the first projection's output into the second's input: (..., 2I) -> (..., I) gated, (..., I) plain.

    Raises
    ------
    KeyError
        for an activation that no Shape can hold.
    """
    if activation == "clamped_swiglu":
        return clamped_swiglu(*hidden.chunk(2, dim=-1))
    function = ELEMENTWISE[activation]
    if not gated:
        return function(hidden)
    gate, up = hidden.chunk(2, dim=-1)
    return function(gate) * up
