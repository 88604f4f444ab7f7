"""The agreement gate: what does not compute the layer is never timed.

The tolerance is not a constant but twice the error of a plain eager computation in the same dtype on the same inputs
(e0), both taken against float64; rounding, not reduction length, sets the error of accumulations in float32. The row
criterion finds a single wrong token that the whole tensor's norm would dilute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.records.record import Agreement, TensorError

if TYPE_CHECKING:
    from harness.layer.oracle import Answer

UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
GRADIENT_SLACK = 2.0
ROUTER_GRADIENT_FLOOR = 2e-2
"""In 16 bit; the softmax's Jacobian cancels, and what is left is mostly rounding."""
FP32_FLOOR = 16 * 2.0**-24
"""float32 results differ by the order of their sums, which the eager reference shares with some contestants by luck."""


@dataclass
class _Errors:
    """Relative Frobenius errors of one tensor against the oracle, whole and for its worst row."""

    rel: float
    worst_row: float
    max_abs: float
    cosine: float
    nonfinite: int


def measure_errors(got: Tensor, oracle: Tensor, keep: Tensor | None = None, *, even_rows: bool = False) -> _Errors:
    """Errors of ``got`` against ``oracle``; a row is the first dimension's entry. ``keep`` (rows,) leaves rows out.

    A row's error is relative to its own norm, and a row the oracle has as zero must be exactly zero. With
    ``even_rows`` it is relative to at least the root mean square of all rows' norms: for gradients whose rows are sums
    that may cancel to almost nothing.
    """
    rows = len(oracle)
    error2, truth2 = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    got2, dot, max_abs, truth_max, nonfinite = 0.0, 0.0, 0.0, 0.0, 0
    step = max(1, int(4e6 // max(1, oracle[0].numel()))) if rows else 1
    for start in range(0, rows, step):  # in blocks: float64 copies of a whole gradient may not fit
        part = slice(start, start + step)
        a, b = got[part].double().flatten(1), oracle[part].double().flatten(1)
        if keep is not None:
            a, b = a * keep[part, None], b * keep[part, None]
        nonfinite += int((~torch.isfinite(a)).sum())
        error = a - b
        error2[part], truth2[part] = error.square().sum(1).cpu(), b.square().sum(1).cpu()
        got2 += float(a.square().sum())
        dot += float((a * b).sum())
        max_abs = max(max_abs, float(error.abs().max())) if error.numel() else max_abs
        truth_max = max(truth_max, float(b.abs().max())) if b.numel() else truth_max
    whole = math.sqrt(float(truth2.sum()))
    distance = math.sqrt(float(error2.sum())) if nonfinite == 0 else math.inf
    scale2 = truth2.clamp(min=float(truth2.mean())) if even_rows and rows else truth2
    per_row = torch.where(error2 == 0, torch.zeros_like(error2), (error2 / scale2).sqrt())
    worst = float(per_row.nan_to_num(nan=math.inf).max()) if rows else 0.0
    norm = whole * math.sqrt(got2) if nonfinite == 0 else math.nan
    return _Errors(
        rel=0.0 if distance == 0 else (distance / whole if whole else math.inf),
        worst_row=worst,
        max_abs=max_abs / truth_max if truth_max else max_abs,
        cosine=dot / norm if norm else 1.0,
        nonfinite=nonfinite,
    )


def judge_tensor(name: str, got: Tensor, oracle: Tensor, reference: Tensor, keep: Tensor | None) -> TensorError:
    """Errors and tolerances of one tensor.

    ``rel_tolerance = max(2 * e0, 2u)`` and ``row_tolerance = max(4 * worst row of e0, 8u)``, doubled for gradients; the
    router's gradient and float32 have floors of their own.
    """
    even_rows = name in {"router", "weights"}
    errors = measure_errors(got, oracle, keep, even_rows=even_rows)
    e0 = measure_errors(reference, oracle, keep, even_rows=even_rows)
    u = UNIT_ROUNDOFF[got.dtype]
    slack = 1.0 if name == "y" else GRADIENT_SLACK
    floor = max(2 * u, FP32_FLOOR if got.dtype == torch.float32 else 0.0)
    if even_rows and u > UNIT_ROUNDOFF[torch.float32]:
        floor = max(floor, ROUTER_GRADIENT_FLOOR)
    return TensorError(
        rel_error=errors.rel,
        worst_row=errors.worst_row,
        max_abs=errors.max_abs,
        cosine=errors.cosine,
        nonfinite=errors.nonfinite,
        rel_tolerance=slack * max(2 * e0.rel, floor),
        row_tolerance=slack * max(4 * e0.worst_row, 4 * floor),
        reference_rel_error=e0.rel,
        reference_worst_row=e0.worst_row,
    )


def judge(got: dict[str, Tensor], oracle: Answer, reference: Answer, rows: Tensor | None = None) -> Agreement:
    """Hold a call's outputs against the oracle's. ``rows`` says which tokens the oracle computed, None for all.

    The rule that decided is ``<tensor>: <criterion>``; the first tensor to fail decides, y before the gradients.
    """
    tokens = len(got["y"])
    ambiguous = oracle.ambiguous
    keep = None if ambiguous is None or not bool(ambiguous.any()) else ~ambiguous
    tensors, rule = {}, ""
    for name, truth in oracle.tensors.items():
        mine = got[name] if rows is None or name != "y" else got[name][rows]
        found = judge_tensor(name, mine, truth, reference.tensors[name], keep if len(truth) == len(got["y"]) else None)
        tensors[name] = _finite(found)
        rule = rule or _broken_rule(name, found)
    return Agreement(
        passed=not rule,
        rule=rule or "within tolerance of the float64 oracle",
        checks=1,
        rows_checked=len(oracle.tensors["y"]),
        rows_total=tokens,
        ambiguous_tokens=0 if ambiguous is None else int(ambiguous.sum()),
        tensors=tensors,
    )


def _broken_rule(name: str, error: TensorError) -> str:
    if error.nonfinite:
        return f"{name}: {error.nonfinite} values are NaN or infinite"
    if error.rel_error > error.rel_tolerance:
        return f"{name}: relative error {error.rel_error:.2g} above {error.rel_tolerance:.2g}"
    if error.worst_row > error.row_tolerance:
        return f"{name}: worst row's relative error {error.worst_row:.2g} above {error.row_tolerance:.2g}"
    return ""


def _finite(error: TensorError) -> TensorError:
    """JSON knows no infinity: write the largest float for it."""
    largest = torch.finfo(torch.float64).max
    for field in ("rel_error", "worst_row", "max_abs", "cosine"):
        value = getattr(error, field)
        if not math.isfinite(value):
            setattr(error, field, 0.0 if field == "cosine" else largest)
    return error
