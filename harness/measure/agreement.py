"""The agreement rule: what does not compute the layer is never timed.

The tolerance is not a constant but twice the error of a plain eager computation in the same dtype on the same inputs
(e0), both taken against float64; rounding, not reduction length, sets the error of accumulations in float32. The whole
tensor's norm finds what is slightly wrong everywhere, the row criterion a single wrong token, which that norm would
dilute, and the column criterion a single wrong output feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from harness.measure.errors import Errors, measure_errors
from harness.records.record import Agreement, TensorError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.layer.oracle import Answer

UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
GRADIENT_SLACK = 2.0
FLOORS = {"bf16": 3.0, "fp16": 3.0, "fp32": 16.0}
"""In roundings u, because e0 may be small by luck. In float32 results differ by the order of their sums."""
LINE_FLOORS = {"bf16": 8.0, "fp16": 8.0, "fp32": 64.0}
"""The same for the worst row and column."""
ROUTER_GRADIENT_FLOOR = 2e-2
"""In 16 bit, for the gradients of router and routing weights: dot products of two rounded vectors, which may cancel."""
CANCELLED = {"bf16": 2.0**-14, "fp16": 2.0**-14, "fp32": 2.0**-4}
"""Share of its natural size below which a router gradient counts as cancelled: of one renormalised expert the softmax's
Jacobian leaves nothing but float32 rounding, seen up to 2**-20."""
KINK, MOST_KINK = 4.0, 0.25
"""relu's gradient jumps where a hidden unit changes sign, and rounding flips some: a few units' worth is allowed."""
ROW_SHARES = {"y": 1e-3, "x": 1e-3, "router": 1.0, "weights": 1.0}
EXPERT_ROW_SHARE = 1e-3
"""Rows smaller than this share of the usual row are held against that instead. Rows of a router's, the routing weights'
and the shared experts' gradients are sums that may cancel (share 1); others are small only where 16 bits underflow."""


class Limit(NamedTuple):
    """What one tensor is allowed. ``e0`` are the reference's own errors, ``least_norm`` the least a norm counts as."""

    rel: float
    line: float
    e0: Errors
    least_norm: float


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


def limits_of(case: Case, oracle: Answer, reference: Answer, rows: Tensor | None = None) -> dict[str, Limit]:
    """Derive every tensor's tolerances from the reference's errors.

    ``rel = max(2 * e0, 3u)`` and ``line = max(4 * worst row or column of e0, 8u)``, doubled for gradients; float32,
    gradients of routers and of relu have floors of their own. A reference that is not finite leaves the floors.
    """
    limits = {}
    for name, truth in oracle.tensors.items():
        mine = reference.tensors[name] if rows is None else reference.tensors[name][rows]
        least = _least_norm(case, name, oracle)
        e0 = _errors(name, mine, truth, _kept(name, oracle), least)
        rel, line = _floors(case, name)
        slack = 1.0 if name == "y" else GRADIENT_SLACK
        usable = e0.nonfinite == 0
        limits[name] = Limit(
            rel=slack * max(2 * e0.rel if usable else 0.0, rel),
            line=slack * max(4 * max(e0.worst_row, e0.worst_column) if usable else 0.0, line),
            e0=e0,
            least_norm=least,
        )
    return limits


def judge(got: dict[str, Tensor], standard: Standard) -> Agreement:
    """Hold a call's outputs against what they should be.

    The rule that decided is ``<tensor>: <criterion>``; the first tensor to fail decides, y before the gradients. What
    the oracle did not compute (tokens outside ``rows``, gradients of a spot check) must at least be finite.
    """
    oracle, rows = standard.oracle, standard.rows
    tensors, rule = {}, ""
    for name, value in got.items():
        if name not in oracle.tensors:
            rule = rule or _not_finite(name, int((~torch.isfinite(value)).sum()), None)
            continue
        mine = value if rows is None else value[rows]
        limit = standard.limits[name]
        found = _errors(name, mine, oracle.tensors[name], _kept(name, oracle), limit.least_norm)
        lost = found.nonfinite if rows is None else int((~torch.isfinite(value)).sum())
        rule = rule or _not_finite(name, lost, limit) or _broken_rule(name, found, limit)
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


def _errors(name: str, got: Tensor, truth: Tensor, keep: Tensor | None, least_norm: float) -> Errors:
    shared = name.startswith("shared_")
    share = 1.0 if shared else ROW_SHARES.get(name, EXPERT_ROW_SHARE)
    return measure_errors(got, truth, keep, row_share=share, least_norm=least_norm, columns=name in {"y", "x"})


def _kept(name: str, oracle: Answer) -> Tensor | None:
    """Which rows count, None for all: tokens whose routing rounding may flip are left out."""
    if name not in {"y", "x", "weights"} or oracle.ambiguous is None or not bool(oracle.ambiguous.any()):
        return None
    return ~oracle.ambiguous


def _least_norm(case: Case, name: str, oracle: Answer) -> float:
    """Return what a gradient's norm counts as at least: these two are dot products of dy ~ N(0, 1), which may cancel.

    A routing weight's is like dy . out, and no y is longer than the longest out; a logit's is like dy . y, and the
    router's matrix gets that times x ~ N(0, 1).
    """
    y = oracle.tensors["y"]
    if name == "weights":
        return float(y.double().norm()) / case.shape.router.scale
    if name == "router":
        return CANCELLED[case.dtype] * math.sqrt(y.shape[1]) * float(y.double().norm())
    return 0.0


def _floors(case: Case, name: str) -> tuple[float, float]:
    """Least tolerances of a tensor, whole and by line, before slack."""
    shape, u = case.shape, UNIT_ROUNDOFF[case.dtype]
    rel, line = FLOORS[case.dtype] * u, LINE_FLOORS[case.dtype] * u
    if case.dtype == "fp32":
        return rel, line
    if name in {"router", "weights"}:
        return max(rel, ROUTER_GRADIENT_FLOOR), max(line, 4 * ROUTER_GRADIENT_FLOOR)
    if shape.activation == "relu" and name != "y":
        units = shape.active_experts * shape.expert_hidden
        flip = min(MOST_KINK, KINK / math.sqrt(units))
        return max(rel, flip / math.sqrt(max(1, case.traffic.tokens))), max(line, flip)
    return rel, line


def _broken_rule(name: str, error: Errors, limit: Limit) -> str:
    if error.rel > limit.rel:
        return f"{name}: relative error {error.rel:.2g} above {limit.rel:.2g}"
    if error.worst_row > limit.line:
        return f"{name}: worst row's relative error {error.worst_row:.2g} above {limit.line:.2g}"
    if error.worst_column > limit.line:
        return f"{name}: worst column's relative error {error.worst_column:.2g} above {limit.line:.2g}"
    return ""


def _not_finite(name: str, count: int, limit: Limit | None) -> str:
    if not count:
        return ""
    excuse = "; the eager reference's are too, the dtype cannot hold this layer" if limit and limit.e0.nonfinite else ""
    return f"{name}: {count} values are NaN or infinite{excuse}"


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
    allowed = (
        1.5 * standard.limits["y"].line
    )  # both are that far from the oracle at most, the reference a quarter of it
    found = measure_errors(y, reference, ~vouched, row_share=ROW_SHARES["y"])
    if found.worst_row <= allowed:
        return ""
    return f"y: worst row is {found.worst_row:.2g} from the eager reference, above {allowed:.2g}"


def _as_record(error: Errors, limit: Limit) -> TensorError:
    """Write errors down; JSON knows no infinity, so the largest float stands for it."""
    return TensorError(
        rel_error=_finite(error.rel),
        worst_row=_finite(error.worst_row),
        max_abs=_finite(error.max_abs),
        cosine=error.cosine if math.isfinite(error.cosine) else 0.0,
        nonfinite=error.nonfinite,
        rel_tolerance=limit.rel,
        row_tolerance=limit.line,
        reference_rel_error=_finite(limit.e0.rel),
        reference_worst_row=_finite(limit.e0.worst_row),
        worst_column=_finite(error.worst_column),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else torch.finfo(torch.float64).max
