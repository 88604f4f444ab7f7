"""Tensors that say ``cuda:0`` and keep their values on the CPU, and what happens to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch as dispatching
from torch.utils._pytree import tree_map_only

from tests.pretended.streams import Graph, host_waits, tensors

aten = torch.ops.aten
CROSSING = {aten.copy_.default, aten._to_copy.default}
CUDA = torch.device("cuda:0")
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.bincount.default,
}
"""Sizes or values that the host has to know before it goes on."""
FACTORIES = {"empty", "empty_strided", "zeros", "ones", "full", "new_empty", "new_empty_strided", "new_zeros"}


class FarTensor(Tensor):
    """Values in ``near``. To torch's C++ it is a tensor of the CPU, so that autograd asks for no CUDA runtime."""

    near: Tensor
    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[FarTensor], near: Tensor) -> FarTensor:  # noqa: PYI034
        made: FarTensor = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return operate(func, args, kwargs or {})

    device = property(lambda _self: CUDA)
    is_cuda = property(lambda _self: True)
    is_cpu = property(lambda _self: False)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FarTensor({self.near!r})"

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def untyped_storage(self) -> Any:
        return self.near.untyped_storage()

    def tolist(self) -> Any:
        host_waits("tolist")
        return self.near.tolist()


def operate(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the values, after the questions a GPU would ask."""
    given = tensors((args, kwargs))
    on_gpu = any(isinstance(tensor, FarTensor) for tensor in given)
    device = _named_device(func, kwargs, on_gpu=on_gpu)
    if on_gpu:
        _check_devices(func, given)
        if _needs_the_host(func, args, given, device):
            host_waits(str(func))
    named = {**kwargs, "device": torch.device("cpu")} if device else kwargs
    compute = _integer_histc if func is aten.histc.default and not args[0].is_floating_point() else func
    values = values_of(args), values_of(named)
    made = compute(*values[0], **values[1])
    if Graph.capturing:
        Graph.capturing[-1].keep(compute, *values, made)
    if func is aten.copy_.default:
        return args[0]
    if device == "cpu" or not (on_gpu or device):
        return made
    wrapped = tree_map_only(Tensor, FarTensor, made)
    if device or compute is not func:  # new memory
        return wrapped
    return dispatching.return_and_correct_aliasing(func, args, kwargs, wrapped)


def _named_device(func: Any, kwargs: dict[str, Any], *, on_gpu: bool) -> str | None:
    """The kind of device an operation is asked to make its result on; autograd's own C++ names the one it sees."""
    in_backward = torch._C._current_graph_task_id() != -1
    if in_backward and (func._opname in FACTORIES or (func is aten._to_copy.default and on_gpu)):
        return "cuda"
    return torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None


def _check_devices(func: Any, given: list[Tensor]) -> None:
    """Numbers without dimensions may lie anywhere."""
    if func not in CROSSING and any(tensor.dim() and not isinstance(tensor, FarTensor) for tensor in given):
        shapes = [tuple(tensor.shape) for tensor in given]
        raise RuntimeError(f"Expected all tensors to be on the same device, {func} got {shapes}")


def _needs_the_host(func: Any, args: Any, given: list[Tensor], device: str | None) -> bool:
    by_mask = func._opname == "index" and any(tensor.dtype == torch.bool for tensor in tensors(args[1]))
    unsized = func is aten.repeat_interleave.Tensor
    across = func is aten.copy_.default and not all(isinstance(tensor, FarTensor) for tensor in given)
    return func in WAITING or by_mask or unsized or across or (func is aten._to_copy.default and device == "cpu")


def _integer_histc(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """CUDA counts whole numbers, the CPU does not."""
    return torch.histc(values.float(), *args, **kwargs)


def values_of(tree: Any) -> Any:
    return tree_map_only(FarTensor, lambda far: far.near, tree)
