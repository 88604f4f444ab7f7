"""How far one tensor is from another, whole, by row and by column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ELEMENTS = 4_000_000
"""Compared at once: a float64 copy of a whole gradient may not fit."""


@dataclass(frozen=True)
class Errors:
    """Relative Frobenius errors of a tensor, its worst row and its worst column (0 where columns were not asked for).

    ``max_abs`` is the largest difference over the largest true value. Where ``nonfinite`` values were found the errors
    are infinite.
    """

    rel: float
    worst_row: float
    worst_column: float
    max_abs: float
    cosine: float
    nonfinite: int


def count_nonfinite(tensor: Tensor) -> int:
    """How many elements are NaN or infinite, looked for block by block."""
    return sum(int((~block.isfinite()).sum()) for block in tensor.flatten().split(BLOCK_ELEMENTS))


@dataclass
class _Sums:
    """What adds up over blocks of rows; squares of error and truth by row and by column."""

    row_error2: Tensor
    row_truth2: Tensor
    column_error2: Tensor
    column_truth2: Tensor
    got2: float = 0.0
    dot: float = 0.0
    max_abs: float = 0.0
    max_truth: float = 0.0
    nonfinite: int = 0

    def add(self, start: int, got: Tensor, truth: Tensor, *, columns: bool) -> None:
        """Count one block, both (rows, elements) in float64."""
        part = slice(start, start + len(got))
        self.nonfinite += int((~torch.isfinite(got)).sum())
        error = got - truth
        error2, truth2 = error.square(), truth.square()
        self.row_error2[part], self.row_truth2[part] = error2.sum(1).cpu(), truth2.sum(1).cpu()
        if columns:
            self.column_error2 += error2.sum(0).cpu()
            self.column_truth2 += truth2.sum(0).cpu()
        self.got2 += float(got.square().sum())
        self.dot += float((got * truth).sum())
        if error.numel():
            self.max_abs = max(self.max_abs, float(error.abs().max()))
            self.max_truth = max(self.max_truth, float(truth.abs().max()))


def measure_errors(
    got: Tensor,
    truth: Tensor,
    keep: Tensor | None = None,
    *,
    row_share: float = 0.0,
    least_norm: float = 0.0,
    columns: bool = False,
) -> Errors:
    """Errors of ``got`` against ``truth``, computed in float64; a row is the first dimension's entry.

    A row's error is relative to its own norm, or to ``row_share`` of the rows' root mean square where that is larger; a
    row that is truly zero must be exactly zero, unless the share is 1. A column's is relative to at least the columns'
    root mean square. The whole's is relative to its norm, or to ``least_norm`` where that is larger (a row's to its
    share of that). ``keep`` (rows,) leaves rows out, though not their NaN.
    """
    got, truth = got.detach(), truth.detach()
    rows, width = len(truth), truth[0].numel() if len(truth) else 0
    sums = _Sums(*torch.zeros(2, rows, dtype=torch.float64), *torch.zeros(2, width * columns, dtype=torch.float64))
    step = max(1, BLOCK_ELEMENTS // max(1, width))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        a, b = got[part].double().flatten(1), truth[part].double().flatten(1)
        if keep is not None:
            a, b = a * keep[part, None], b * keep[part, None]
        sums.add(start, a, b, columns=columns)
    return _errors_from(sums, rows if keep is None else int(keep.sum()), row_share, least_norm)


def _errors_from(sums: _Sums, rows: int, row_share: float, least_norm: float) -> Errors:
    if sums.nonfinite:
        return Errors(math.inf, math.inf, math.inf, math.inf, math.nan, sums.nonfinite)
    norm, distance = math.sqrt(float(sums.row_truth2.sum())), math.sqrt(float(sums.row_error2.sum()))
    size = max(norm, least_norm)
    row_least2 = row_share**2 * size**2 / max(1, rows)
    row_scale2 = sums.row_truth2.clamp(min=row_least2)
    if row_share < 1:
        row_scale2 = torch.where(sums.row_truth2 == 0, 0.0, row_scale2)
    column_scale2 = sums.column_truth2.clamp(min=norm**2 / max(1, len(sums.column_truth2)))
    product = norm * math.sqrt(sums.got2)
    return Errors(
        rel=_ratio(distance, size),
        worst_row=_worst(sums.row_error2, row_scale2),
        worst_column=_worst(sums.column_error2, column_scale2),
        max_abs=sums.max_abs / sums.max_truth if sums.max_truth else sums.max_abs,
        cosine=sums.dot / product if product else 1.0,
        nonfinite=0,
    )


def _ratio(distance: float, size: float) -> float:
    if distance == 0:
        return 0.0
    return distance / size if size else math.inf


def _worst(error2: Tensor, scale2: Tensor) -> float:
    """Largest relative error of a line; one without an error has none, whatever its size."""
    ratios = torch.where(error2 == 0, 0.0, (error2 / scale2).sqrt())
    return float(ratios.max()) if len(ratios) else 0.0
