"""How a kernel gets at weights, and at rows that lie together: by pointers, or through a descriptor for TMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triton.tools.tensor_descriptor import TensorDescriptor

from impls.fused.configuration import TMA_STRIDE_BYTES

if TYPE_CHECKING:
    from torch import Tensor

    from impls.fused.configuration import Tiles


def along_rows(weight: Tensor, tiles: Tiles, *, parts: int) -> Tensor | TensorDescriptor:
    """Return weights (E, parts * columns, reduction) as a kernel with these tiles takes them; gate and up are parts.

    A descriptor shows (E * parts, columns, reduction) in tiles of (parts, block_n, block_k).
    """
    weight = weight.contiguous()
    if not tiles.tma:
        return weight
    experts, rows, reduction = weight.shape
    by_part = weight.view(experts * parts, rows // parts, reduction)
    return TensorDescriptor.from_tensor(_aligned(by_part), [parts, tiles.block_n, tiles.block_k])


def across_rows(weight: Tensor, tiles: Tiles) -> Tensor | TensorDescriptor:
    """Return weights (E, reduction, columns) as a kernel with these tiles takes them.

    A descriptor shows (E, reduction, columns) in tiles of (1, block_k, block_n).
    """
    weight = weight.contiguous()
    if not tiles.tma:
        return weight
    return TensorDescriptor.from_tensor(_aligned(weight), [1, tiles.block_k, tiles.block_n])


def packed_rows(rows: Tensor, tiles: Tiles) -> Tensor | TensorDescriptor:
    """Return rows (N, reduction) in the order of their experts as a kernel with these tiles takes them.

    A descriptor shows tiles of (block_m, block_k). Where one reaches beyond an expert's last row it holds the next
    expert's, whose products are not stored.
    """
    return TensorDescriptor.from_tensor(rows, [tiles.block_m, tiles.block_k]) if tiles.tma else rows


def _aligned(weight: Tensor) -> Tensor:
    """Copy somebody's view into the middle of something; TMA begins at multiples of 16 bytes only."""
    return weight.clone() if weight.data_ptr() % TMA_STRIDE_BYTES else weight
