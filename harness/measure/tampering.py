"""Whether a call changed what it was only lent: the layer's weights and the inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harness.layer.contract import Routing
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
    pairs = {
        "x": (inputs.x, pristine.x),
        "expert_ids": (inputs.routing.expert_ids, pristine.routing.expert_ids),
        "routing weights": (inputs.routing.weights, pristine.routing.weights),
    }
    if inputs.dy is not None and pristine.dy is not None:
        pairs["dy"] = inputs.dy, pristine.dy
    return [name for name, (mine, theirs) in pairs.items() if not torch.equal(mine, theirs)]


def versions(inputs: Inputs) -> tuple[int, ...]:
    """How often torch has written to each input, views included: free, but knows of torch's own writes only."""
    tensors = (inputs.x, inputs.routing.expert_ids, inputs.routing.weights, inputs.dy)
    return tuple(tensor._version for tensor in tensors if tensor is not None)  # noqa: SLF001 (torch has no other name)


def overwrite(desk: Inputs, source: Inputs) -> Inputs:
    """Put another draw's numbers into the same memory, so that an answer remembered by address is seen to be stale."""
    for mine, theirs in ((desk.x, source.x), (desk.dy, source.dy)):
        if mine is not None and theirs is not None:
            mine.copy_(theirs)
    ids, weights = source.routing.expert_ids, source.routing.weights
    if desk.routing.expert_ids.shape == ids.shape:
        routing = Routing(desk.routing.expert_ids.copy_(ids), desk.routing.weights.copy_(weights))
    else:  # under expert choice the slots per token vary from draw to draw
        routing = Routing(ids.clone(), weights.clone())
    return replace(source, x=desk.x, dy=desk.dy, routing=routing)


def _sums(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous()
    words = torch.int64 if flat.shape[-1] * flat.element_size() % 8 == 0 and flat.storage_offset() == 0 else torch.uint8
    return flat.view(words).sum(-1, dtype=torch.int64)
