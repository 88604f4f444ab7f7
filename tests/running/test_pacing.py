"""How a budget is shared among bouts."""

from __future__ import annotations

import pytest

from harness.cases.case import Case, PlannedCase
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.environment import Ceilings
from harness.running.pacing import CALLS, EACH_S, FIXED_S, bout_weights

SHAPE = Shape(hidden=256, expert_hidden=128, experts=8, top_k=2)
CEILINGS = Ceilings(
    copy_bytes_per_second=1e9,
    read_bytes_per_second=1e9,
    cached_read_bytes_per_second=1e9,
    gemm_flops_per_second={"bf16": 1e9},
    cache_bytes=1,
    launch_ns=1.0,
)


def planned(tokens: int, *names: str) -> PlannedCase:
    return PlannedCase(case=Case(shape=SHAPE, traffic=Traffic(tokens=tokens)), implementations=names or ("loop",))


def test_without_ceilings_bouts_weigh_by_how_many_take_part() -> None:
    one, two = FIXED_S + EACH_S, FIXED_S + 2 * EACH_S
    assert bout_weights([planned(1), planned(4096, "loop", "grouped")], {}) == [one, two]
    other_dtype = {"cpu": Ceilings(**{f: getattr(CEILINGS, f) for f in CEILINGS.__struct_fields__})}
    other_dtype["cpu"].gemm_flops_per_second = {"fp32": 1e9}
    assert bout_weights([planned(1)], other_dtype) == [one]


def test_a_compute_bound_bout_weighs_by_its_flops_and_implementations() -> None:
    call_s = 6 * 4096 * 2 * 256 * 128 / 1e9
    found = bout_weights([planned(4096), planned(4096, "loop", "grouped")], {"cpu": CEILINGS})
    assert found == pytest.approx([FIXED_S + n * (EACH_S + CALLS * call_s) for n in (1, 2)])


def test_weights_grow_with_tokens() -> None:
    found = bout_weights([planned(2**n) for n in range(12)], {"cpu": CEILINGS})
    assert found == sorted(found)
    assert found[0] > FIXED_S
