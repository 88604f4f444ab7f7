"""What a training pass of the fused kernels keeps for the backward pass, and how much it holds at once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from harness.layer.contract import Routing
from impls.fused.autograd import train
from impls.fused.configuration import Configuration, Tiles

CONFIGURATION = Configuration("prefill", *[Tiles(16, 64, 64, 4, 2)] * 5)
TOKENS, H, I, E, K = 40, 96, 32, 4, 3
N = TOKENS * K
SIZES: dict[str, Any] = {"hidden": H, "expert_hidden": I, "experts": E, "top_k": K}


class Held(TorchDispatchMode):
    """Counts the bytes of storages made while it is on: those alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_iter(args) if isinstance(tensor, Tensor)}
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given | self._known:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if size:
            gc.collect()  # on Python 3.13 Triton's interpreter leaves cycles behind, which kernels would not
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def test_what_is_saved_for_the_backward_pass(lab: Any) -> None:
    """x, the routing weights, the layer's own weights, z and the placement; of N * H elements nothing."""
    problem = lab.problem(TOKENS, dtype="bf16", bias=True, **SIZES)
    layer, inputs = problem.weights.layer, problem.inputs
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = inputs.x.detach().requires_grad_()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        train(x, inputs.routing, layer, CONFIGURATION)
    given = {t.data_ptr() for t in (x, inputs.routing.weights, *layer.parameters().values())}
    own = [tensor for tensor in saved if tensor.data_ptr() not in given]
    floating = [tensor for tensor in own if tensor.is_floating_point()]
    assert [tuple(tensor.shape) for tensor in floating] == [(N, 2 * I)]
    assert all(tensor.dtype == torch.int32 for tensor in own if not tensor.is_floating_point())
    assert max(tensor.numel() for tensor in own) < N * H
    assert sum(tensor.nbytes for tensor in own if not tensor.is_floating_point()) <= 4 * (2 * N + 3 * (N // 16 + E) + 2)


def peaks(problem: Any, *, retain: bool = False) -> tuple[int, int]:
    """Most bytes at once of one training pass, forward and backward, beyond what was given and what is returned."""
    layer, inputs = problem.weights.layer, problem.inputs
    x, weights = inputs.x.detach().requires_grad_(), inputs.routing.weights.detach().requires_grad_()
    leaves = [x, weights, *layer.parameters().values()]
    with Held() as held:
        y = train(x, Routing(inputs.routing.expert_ids, weights), layer, CONFIGURATION)
        forward = held.peak - y.nbytes
        held.peak = held.alive
        gradients = torch.autograd.grad(y, leaves, inputs.dy, retain_graph=retain)
        backward = held.peak - y.nbytes - sum(gradient.nbytes for gradient in gradients)
        assert held.alive >= y.nbytes + sum(gradient.nbytes for gradient in gradients)
    return forward, backward


def test_how_much_is_held_at_once(lab: Any) -> None:
    """Forward z, the hidden units and the experts' outputs; backward what the module's docstring says."""
    problem = lab.problem(TOKENS, dtype="bf16", bias=True, **SIZES)
    forward, backward = peaks(problem)
    small = 4 * (4 * N + 4 * (N // 16 + E))
    assert forward <= 2 * N * (3 * I + H) + small
    assert backward <= 2 * max(5 * N * I, 3 * N * I + N * H) + small


def test_z_is_given_up_once_it_was_read_unless_the_graph_is_retained(lab: Any) -> None:
    problem = lab.problem(TOKENS, dtype="bf16", bias=True, **SIZES)
    assert peaks(problem, retain=True)[1] == peaks(problem)[1] + 2 * N * 2 * I
