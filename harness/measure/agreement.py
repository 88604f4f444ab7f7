"""The agreement rule: what does not compute the layer is never timed.

The whole tensor's norm finds what is slightly wrong everywhere, the row criterion a single wrong token, which that norm
would dilute, and the column criterion a single wrong output feature.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.measure.errors import count_nonfinite, measure_errors
from harness.measure.tolerances import ROW_SHARE, errors_of
from harness.records.record import Agreement, TensorError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.layer.oracle import Answer
    from harness.measure.errors import Errors
    from harness.measure.tolerances import Limit

STAND_IN_SLACK = 1.5
"""The reference is not the oracle: an answer may be one limit from the truth and the reference a quarter of it."""


@dataclass(frozen=True)
class Standard:
    """What the answers to one draw are held against.

    ``rows`` are the tokens the oracle computed, None for all. ``reference_y`` (T, H) is what tokens are held against
    that the oracle left out or whose routing rounding may flip; None leaves them unjudged.
    """

    oracle: Answer
    limits: dict[str, Limit]
    rows: Tensor | None = None
    reference_y: Tensor | None = None


def judge(got: dict[str, Tensor], standard: Standard) -> Agreement:
    """Hold a call's outputs against what they should be.

    The rule that decided is ``<tensor>: <criterion>``; the first tensor to fail decides, y before the gradients. What
    the oracle did not compute (tokens outside ``rows``, gradients of a spot check) must at least be finite.
    """
    oracle, rows = standard.oracle, standard.rows
    tensors, rule = {}, ""
    for name, value in got.items():
        if name not in oracle.tensors:
            rule = rule or _not_finite(name, value, None)
            continue
        mine, limit = value if rows is None else value[rows], standard.limits[name]
        found = errors_of(name, mine, oracle.tensors[name], oracle, limit.least_norm)
        rule = rule or _not_finite(name, value, limit) or _broken_rule(name, found, limit)
        tensors[name] = _as_record(found, limit)
    rule = rule or _stand_in_rule(got["y"], standard)
    return Agreement(
        passed=not rule,
        rule=rule or "within tolerance of the float64 oracle",
        checks=1,
        rows_checked=len(oracle.tensors["y"]),
        rows_total=len(got["y"]),
        ambiguous_tokens=0 if oracle.ambiguous is None else int(oracle.ambiguous.sum()),
        tensors=tensors,
    )


def _not_finite(name: str, value: Tensor, limit: Limit | None) -> str:
    count = count_nonfinite(value)
    if not count:
        return ""
    excuse = (
        "; so are some of the eager reference: the dtype cannot hold this layer" if limit and limit.e0.nonfinite else ""
    )
    return f"{name}: {count} values are NaN or infinite{excuse}"


def _broken_rule(name: str, error: Errors, limit: Limit) -> str:
    if error.rel > limit.rel:
        return f"{name}: relative error {error.rel:.2g} above {limit.rel:.2g}"
    if error.worst_row > limit.line:
        return f"{name}: worst row's relative error {error.worst_row:.2g} above {limit.line:.2g}"
    if error.worst_column > limit.line:
        return f"{name}: worst column's relative error {error.worst_column:.2g} above {limit.line:.2g}"
    return ""


def _stand_in_rule(y: Tensor, standard: Standard) -> str:
    """Judge tokens the oracle does not vouch for by the reference, which routes as the call does; '' when they pass."""
    reference, oracle = standard.reference_y, standard.oracle
    if reference is None:
        return ""
    vouched = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    covered = slice(None) if standard.rows is None else standard.rows
    vouched[covered] = True if oracle.ambiguous is None else ~oracle.ambiguous
    if bool(vouched.all()):
        return ""
    allowed = STAND_IN_SLACK * standard.limits["y"].line
    found = measure_errors(y, reference, ~vouched, row_share=ROW_SHARE)
    if found.worst_row <= allowed:
        return ""
    return f"y: worst row is {found.worst_row:.2g} from the eager reference's, above {allowed:.2g}"


def _as_record(error: Errors, limit: Limit) -> TensorError:
    """Write errors down; JSON knows no infinity, so the largest float stands for it."""
    return TensorError(
        rel_error=_finite(error.rel),
        worst_row=_finite(error.worst_row),
        worst_column=_finite(error.worst_column),
        max_abs=_finite(error.max_abs),
        cosine=error.cosine if math.isfinite(error.cosine) else 0.0,
        nonfinite=error.nonfinite,
        rel_tolerance=_finite(limit.rel),
        row_tolerance=_finite(limit.line),
        reference_rel_error=_finite(limit.e0.rel),
        reference_worst_row=_finite(limit.e0.worst_row),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else sys.float_info.max
