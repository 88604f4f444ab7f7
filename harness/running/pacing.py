"""How a budget is shared among bouts: evenly would starve a large case and let a small one idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cases.cost import expected_distinct_experts, floor, min_bytes, useful_flops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.cases.case import PlannedCase
    from harness.records.environment import Ceilings

FIXED_S = 1.0
"""What every bout deserves, however small its calls: inputs and the oracle."""
EACH_S = 0.35
"""What every implementation in it deserves: the gate, warm-up, memory, and enough short samples."""
CALLS = 30
"""Calls of each implementation at the floor's speed that a bout is given room for. Few get near it."""
LEAST_SHARE = 0.25
"""Of what is a bout's by its weight: so much it gets whatever those before it took, compiling for instance."""


def bout_weights(planned: Sequence[PlannedCase], ceilings: Mapping[str, Ceilings]) -> list[float]:
    """Return each bout's share of a budget, in seconds that only their ratios matter of.

    A case's calls are estimated by its floor from the measured ceilings; without ceilings by how many take part.
    """
    return [_weight(one, ceilings.get(one.case.device)) for one in planned]


def _weight(planned: PlannedCase, ceilings: Ceilings | None) -> float:
    case = planned.case
    gemm = ceilings.gemm_flops_per_second.get(case.dtype) if ceilings else None
    fixed_s = FIXED_S + EACH_S * len(planned.implementations or ())
    if ceilings is None or not gemm:
        return fixed_s
    tokens, shape = case.traffic.tokens, case.shape
    flops = useful_flops(case, tokens * shape.active_experts)
    moved = min_bytes(case, expected_distinct_experts(shape, tokens))
    call_s = floor(flops, moved, gemm, ceilings.read_bytes_per_second).time_ns / 1e9
    return fixed_s + CALLS * len(planned.implementations or ()) * call_s
