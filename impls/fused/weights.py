"""How a kernel gets at the experts' weights: by pointers, or through a descriptor for TMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triton.tools.tensor_descriptor import TensorDescriptor

from impls.fused.configuration import TMA_STRIDE_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from impls.fused.configuration import Tiles


def along_rows(weight: Tensor, tiles: Tiles) -> Tensor | TensorDescriptor:
    """Return weights (E, columns, reduction) as a kernel with these tiles takes them."""
    return _as_fetched(weight, [tiles.block_n, tiles.block_k], tma=tiles.tma)


def across_rows(weight: Tensor, tiles: Tiles) -> Tensor | TensorDescriptor:
    """Return weights (E, reduction, columns) as a kernel with these tiles takes them."""
    return _as_fetched(weight, [tiles.block_k, tiles.block_n], tma=tiles.tma)


def _as_fetched(weight: Tensor, block: list[int], *, tma: bool) -> Tensor | TensorDescriptor:
    weight = weight.contiguous()
    if not tma:
        return weight
    if weight.data_ptr() % TMA_STRIDE_BYTES:  # somebody's view into the middle of something
        weight = weight.clone()
    return TensorDescriptor.from_tensor(weight.flatten(0, 1), block)
