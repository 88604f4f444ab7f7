"""A ceiling is the best that was ever seen, figure by figure."""

from __future__ import annotations

from typing import Any


def test_the_better_of_each_figure_is_kept(make: Any) -> None:
    first = make.ceilings(read_bytes_per_second=5.0, copy_bytes_per_second=9.0, seconds=2.0, idle_watts=40.0)
    second = make.ceilings(read_bytes_per_second=7.0, copy_bytes_per_second=8.0, seconds=3.0)
    raised = first.raised_by(second)
    assert (raised.read_bytes_per_second, raised.copy_bytes_per_second) == (7.0, 9.0)
    assert (raised.seconds, raised.idle_watts) == (5.0, 40.0)


def test_dtypes_of_both_are_kept(make: Any) -> None:
    first = make.ceilings(gemm_flops_per_second={"fp32": 3.0, "bf16": 9.0})
    second = make.ceilings(gemm_flops_per_second={"fp32": 4.0, "fp16": 8.0})
    assert first.raised_by(second).gemm_flops_per_second == {"fp32": 4.0, "bf16": 9.0, "fp16": 8.0}


def test_the_one_raised_stays_as_it_was(make: Any) -> None:
    first = make.ceilings()
    first.raised_by(make.ceilings(read_bytes_per_second=1e15))
    assert first == make.ceilings()
