"""How far an answer may be from the oracle's: a multiple of what a plain eager computation is, and floors under that.

Rounding, not reduction length, sets the error of accumulations in float32, and only its size is known beforehand: hence
e0, the error of an eager reference in the same dtype on the same inputs. The floors are for the cases where e0 is small
by luck. Of 48 928 answers of eleven correct ways of computing 4 500 random small cases (every router, activation,
dtype and scope, T and k from 0 and 1) these limits refused 24: 22 where float16 overflowed, in the reference too, and
two fp32 gradients of a router at T = 1, whose floor was raised from 32u to 64u afterwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from harness.measure.errors import measure_errors

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.layer.oracle import Answer
    from harness.measure.errors import Errors

UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
FLOORS = {"bf16": 3.0, "fp16": 3.0, "fp32": 16.0}
"""In roundings u. In float32 results differ by the order of their sums."""
LINE_FLOORS = {"bf16": 8.0, "fp16": 8.0, "fp32": 64.0}
"""The same for the worst row and column."""
GRADIENT_SLACK = 2.0
SPOT_SLACK = 2.0
"""With 1.0 five of 46 600 right answers to spot checks of random small cases were refused (float16 overflows apart)."""
ROUTER_FLOORS = {"bf16": 3e-2, "fp16": 3e-2, "fp32": 64 * UNIT_ROUNDOFF["fp32"]}
"""Not in roundings: for the gradients of router and routing weights, which are dot products of rounded vectors."""
CANCELLED = {"bf16": 2.0**-14, "fp16": 2.0**-14, "fp32": 2.0**-4}
"""Share of its natural size below which a router gradient counts as cancelled: of one renormalised expert the softmax's
Jacobian leaves nothing but float32 rounding, seen up to 2**-20."""
KINKED, KINK, MOST_KINK = ("relu", "clamped_swiglu"), 4.0, 0.25
"""Their gradients jump where a hidden unit crosses 0 or the clamp, and rounding moves some across: four units count."""
ROW_SHARES = {"router": 1.0, "weights": 1.0}
ROW_SHARE = 1e-3
"""Rows smaller than this share of the usual row are held against that instead. Rows of a router's, the routing weights'
and the shared experts' gradients are sums that may cancel (share 1); others are small only where 16 bits underflow."""


class Limit(NamedTuple):
    """What one tensor is allowed: ``rel`` as a whole, ``line`` in its worst row or column.

    ``e0`` are the reference's own errors; ``least_norm`` is the least that the tensor's norm counts as.
    """

    rel: float
    line: float
    e0: Errors
    least_norm: float

    def for_some(self, name: str, case: Case, oracle: Answer) -> Limit:
        """Return what the tensor ``name`` is allowed where the oracle computed some tokens of another draw.

        A few tokens are no whole, each may be off as far as a row may, and the worst of another draw is another.
        """
        line = SPOT_SLACK * self.line
        return self._replace(rel=max(self.rel, line), line=line, least_norm=_least_norm(case, name, oracle))


def limits_of(case: Case, oracle: Answer, reference: Answer, rows: Tensor | None = None) -> dict[str, Limit]:
    """Derive every tensor's limits from the errors of a whole reference; ``rows`` are the tokens the oracle computed.

    ``rel = max(2 * e0, 3u)`` and ``line = max(4 * worst row or column of e0, 8u)``, doubled for gradients; float32 and
    the gradients of routers and of kinked activations have floors of their own. Where the reference is not finite only
    the floors are left.
    """
    limits = {}
    for name, truth in oracle.tensors.items():
        mine = reference.tensors[name] if rows is None else reference.tensors[name][rows]
        least_norm = _least_norm(case, name, oracle)
        e0 = errors_of(name, mine, truth, oracle, least_norm)
        rel, line = _floors(case, name)
        slack = 1.0 if name == "y" else GRADIENT_SLACK
        if not e0.nonfinite:
            rel, line = max(2 * e0.rel, rel), max(4 * e0.worst_row, 4 * e0.worst_column, line)
        limits[name] = Limit(slack * rel, slack * line, e0, least_norm)
    return limits


def errors_of(name: str, got: Tensor, truth: Tensor, oracle: Answer, least_norm: float) -> Errors:
    """Errors of one of an answer's tensors, tokens left out whose routing rounding may flip."""
    keep = None
    if name in {"y", "x", "weights"} and oracle.ambiguous is not None and bool(oracle.ambiguous.any()):
        keep = ~oracle.ambiguous
    share = 1.0 if name.startswith("shared_") else ROW_SHARES.get(name, ROW_SHARE)
    return measure_errors(got, truth, keep, row_share=share, least_norm=least_norm, columns=name in {"y", "x"})


def _least_norm(case: Case, name: str, oracle: Answer) -> float:
    """Return the natural size of gradients that are dot products with dy ~ N(0, 1), and may cancel; 0 for the others.

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
    """Return the least limits of a tensor, whole and by line, before slack."""
    shape, u = case.shape, UNIT_ROUNDOFF[case.dtype]
    rel, line = FLOORS[case.dtype] * u, LINE_FLOORS[case.dtype] * u
    if name in {"router", "weights"}:
        return ROUTER_FLOORS[case.dtype], 4 * ROUTER_FLOORS[case.dtype]
    if shape.activation in KINKED and name != "y" and case.dtype != "fp32":
        flip = min(MOST_KINK, KINK / math.sqrt(shape.active_experts * shape.expert_hidden))
        return max(rel, flip / math.sqrt(max(1, case.traffic.tokens))), max(line, flip)
    return rel, line
