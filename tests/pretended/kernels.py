"""Kernels under Triton's interpreter, on the values of pretended tensors."""

from __future__ import annotations

from typing import Any
from unittest import mock

from torch import Tensor

from tests.pretended.streams import Graph, aside
from tests.pretended.tensors import FarTensor, values_of


def kernels_on_values() -> Any:
    """Kernels under Triton's interpreter take only what lies on the GPU, and work on its values."""
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(isinstance(one, Tensor) and not isinstance(one, FarTensor) for one in (*args, *kwargs.values())):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        near, named = [_argument(one) for one in args], {name: _argument(one) for name, one in kwargs.items()}
        with aside():
            run(self, *near, **named)
        if Graph.capturing:
            Graph.capturing[-1].steps.append(lambda: run(self, *near, **named))

    return mock.patch.object(GridExecutor, "__call__", launch)


def _argument(given: Any) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    if isinstance(given, TensorDescriptor):
        return TensorDescriptor(_argument(given.base), given.shape, given.strides, given.block_shape, given.padding)
    if isinstance(given, tuple):
        return type(given)(*map(_argument, given)) if hasattr(given, "_fields") else tuple(map(_argument, given))
    return values_of(given)
