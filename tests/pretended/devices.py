"""Sees which devices callers name, before torch looks for a CUDA runtime, and every operation before its kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch as dispatching
from torch.utils._pytree import tree_map_only

from tests.pretended.streams import host_waits
from tests.pretended.tensors import FarTensor, operate, values_of


class _ToGpu(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, near: Tensor) -> Tensor:
        return FarTensor(near.detach())

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Any:
        return values_of(gradient)


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, far: Tensor) -> Any:
        return values_of(far).clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return FarTensor(gradient)


class NamedDevices(TorchFunctionMode):
    """Sees the devices that callers name, before torch looks for a CUDA runtime."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}:
            return _moved(func, *args, **kwargs)
        if func is torch.nn.functional.one_hot and isinstance(args[0], FarTensor):
            return FarTensor(func(args[0].near, *args[1:], **kwargs))
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            return _to_gpu(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def _to_gpu(made: Any) -> Any:
    return made if isinstance(made, FarTensor) else tree_map_only(Tensor, _ToGpu.apply, made)


def _moved(func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to`` and its short forms: the device first, then the rest."""
    names = {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: "cuda"}
    given = [*args, *kwargs.values(), *([names[func]] if func in names else [])]
    target = next((torch.device(one) for one in given if isinstance(one, str | torch.device)), None)
    like = next((one for one in given if isinstance(one, Tensor)), None)
    target = like.device if like is not None else target
    if target and target.type != tensor.device.type:
        if target.type == "cpu":
            host_waits("copy to the host")
        tensor = (_ToHost if target.type == "cpu" else _ToGpu).apply(tensor)  # type: ignore[no-untyped-call]
    dtype = like.dtype if like is not None else next((one for one in given if isinstance(one, torch.dtype)), None)
    return torch.Tensor.to(tensor, dtype or tensor.dtype, copy=bool(kwargs.get("copy")))


class SeenOperations(dispatching.TorchDispatchMode):
    """Sees what reaches the kernels, when no argument lies on the GPU, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return operate(func, args, kwargs or {})
