"""Other layouts of a layer's weights, and of its routing, that several peers ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from harness import Layer


def interleave(rows: Tensor) -> Tensor:
    """[gate; up] (E, 2I, ...) to gate 0, up 0, gate 1, up 1, ...: a copy."""
    return torch.stack(rows.chunk(2, dim=1), dim=2).flatten(1, 2)


def swap_halves(rows: Tensor) -> Tensor:
    """[gate; up] (E, 2I, ...) to [up; gate]: a copy."""
    gate, up = rows.chunk(2, dim=1)
    return torch.cat([up, gate], dim=1)


def put(module: nn.Module, **tensors: Tensor) -> None:
    """Replace a module's parameters by tensors, which keep what they were computed from: gradients reach the layer."""
    for name, tensor in tensors.items():
        delattr(module, name)
        setattr(module, name, tensor)


def relaid(layer: Layer) -> torch.set_grad_enabled:
    """Copy weights under this, in prepare: in training the copies stay tied to the layer, for every call's gradients.

    Laying gradients back is then inside the time of every backward pass. Only steps whose backward keeps nothing may
    stand under it, or the second call would find it freed.
    """
    return torch.set_grad_enabled(layer.down.requires_grad)
