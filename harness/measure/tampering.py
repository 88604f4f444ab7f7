"""Whether a call changed what it was only lent: the layer's weights and the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.layer.weights import make_weights

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.layer.inputs import Inputs
    from harness.layer.weights import Weights

Fingerprint = dict[str, "Tensor"]


def fingerprint(weights: Weights) -> Fingerprint:
    """Sum all weights' bits along their last dimension: one pass over memory, the same on every device."""
    return {name: _sums(tensor.detach()) for name, tensor in weights.parameters().items()}


def changed_weights(weights: Weights, before: Fingerprint) -> list[str]:
    """Name the weights that are no longer what they were."""
    now = fingerprint(weights)
    return [name for name, sums in before.items() if name not in now or not torch.equal(sums, now[name])]


def restore_weights(weights: Weights, case: Case) -> None:
    """Put back what a case's seed gives, into the same memory, which what others have prepared may point into."""
    fresh = make_weights(case).parameters()
    with torch.no_grad():
        for name, tensor in weights.parameters().items():
            if tensor.shape != fresh[name].shape:
                tensor.data = fresh[name]
            tensor.copy_(fresh[name])


def changed_inputs(inputs: Inputs, pristine: Inputs) -> list[str]:
    """Name the inputs that do not hold the same numbers as ``pristine``."""
    before = pristine.tensors()
    return [name for name, tensor in inputs.tensors().items() if not torch.equal(tensor, before[name])]


def versions(inputs: Inputs) -> tuple[int, ...]:
    """How often torch has written to each input, views included: free, but knows of torch's own writes only."""
    return tuple(tensor._version for tensor in inputs.tensors().values())  # noqa: SLF001 (torch has no other name)


def overwrite(desk: Inputs, source: Inputs) -> Inputs:
    """Put another draw's numbers into the same memory, so that an answer remembered by address is seen to be stale."""
    mine = desk.tensors()

    def written(name: str, tensor: Tensor) -> Tensor:
        """Under expert choice the slots per token, and so the shape, vary from draw to draw."""
        return mine[name].copy_(tensor) if mine[name].shape == tensor.shape else tensor.clone()

    return source.mapped(written)


def _sums(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous()
    words = torch.int64 if flat.shape[-1] * flat.element_size() % 8 == 0 and flat.storage_offset() == 0 else torch.uint8
    return flat.view(words).sum(-1, dtype=torch.int64)
