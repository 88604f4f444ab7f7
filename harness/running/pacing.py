"""How a budget is shared among bouts: evenly would starve a large case and let a small one idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cases.cost import expected_distinct_experts, floor, min_bytes, useful_flops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.cases.case import PlannedCase
    from harness.records.environment import Ceilings

FIXED_S = 2.0
"""What every bout deserves, however small its calls: oracle, warm-up, and enough short samples."""
CALLS = 15
"""Calls of each implementation at the floor's speed that a bout is given room for, relative to ``FIXED_S``."""


def bout_weights(planned: Sequence[PlannedCase], ceilings: Mapping[str, Ceilings]) -> list[float]:
    """Return each bout's share of a budget, in seconds that only their ratios matter of.

    A case's calls are estimated by its floor from the measured ceilings; without ceilings all bouts weigh the same.
    """
    return [_weight(one, ceilings.get(one.case.device)) for one in planned]


def _weight(planned: PlannedCase, ceilings: Ceilings | None) -> float:
    case = planned.case
    gemm = ceilings.gemm_flops_per_second.get(case.dtype) if ceilings else None
    if ceilings is None or not gemm:
        return FIXED_S
    tokens, shape = case.traffic.tokens, case.shape
    flops = useful_flops(case, tokens * shape.active_experts)
    moved = min_bytes(case, expected_distinct_experts(shape, tokens))
    call_s = floor(flops, moved, gemm, ceilings.read_bytes_per_second).time_ns / 1e9
    return FIXED_S + CALLS * len(planned.implementations or ()) * call_s
