"""One row a record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.records.record import Agreement, Memory, TensorError
from harness.report.frame import Row, frame, rows_of

if TYPE_CHECKING:
    from tests.report.conftest import Factory


def test_an_empty_run_has_all_columns(make: Factory) -> None:
    table = frame([make.run([])])
    assert list(table.columns) == list(Row._fields)
    assert table.empty
    assert table["median_ns"].dtype == "float64"


def test_figures_are_carried_over(make: Factory) -> None:
    environment = make.environment()
    record = make.modelled(make.case(64, "zipf"), "grouped_mm", environment)
    (row,) = rows_of(frame([make.run([record])]))
    assert record.timing is not None
    assert record.work is not None
    assert row.median_ns == record.timing.median_ns
    assert (row.low_ns, row.high_ns) == record.timing.interval_ns
    assert row.share_of_floor == record.work.share_of_floor
    assert row.samples == 15
    assert sum(row.histogram) > 0
    assert row.joules_per_token > 0
    assert row.agreed


def test_what_failed_has_no_figures(make: Factory) -> None:
    (row,) = rows_of(frame([make.run([make.failed(make.case(), "loop", "crashed", "signal 11", "log")])]))
    assert (row.status, row.reason, row.log_tail) == ("crashed", "signal 11", "log")
    assert math.isnan(row.median_ns)
    assert not row.agreed


def test_the_tensor_nearest_to_its_tolerance_speaks(make: Factory) -> None:
    def error(rel: float, tolerance: float) -> TensorError:
        return TensorError(
            rel_error=rel,
            worst_row=rel,
            max_abs=rel,
            cosine=1.0,
            nonfinite=0,
            rel_tolerance=tolerance,
            row_tolerance=1.0,
            reference_rel_error=rel,
            reference_worst_row=rel,
        )

    tensors = {"y": error(1e-3, 1e-2), "dx": error(5e-4, 1e-3), "bad": error(math.nan, 1e-3)}
    agreement = Agreement(passed=True, rule="r", tensors=tensors)
    (row,) = rows_of(frame([make.run([make.timed(make.case(), "loop", agreement=agreement)])]))
    assert (row.error_at, row.error, row.tolerance) == ("dx", 5e-4, 1e-3)


def test_unavailable_memory_leaves_its_reason(make: Factory) -> None:
    memory = Memory(status="unavailable", reason="no allocator statistics")
    (row,) = rows_of(frame([make.run([make.timed(make.case(), "loop", memory=memory)])]))
    assert row.memory_reason == "no allocator statistics"
    assert math.isnan(row.workspace_bytes)


def test_infinite_figures_count_as_absent(make: Factory) -> None:
    record = make.timed(make.case(), "loop")
    assert record.timing is not None
    record.timing.noise_floor = math.inf
    (row,) = rows_of(frame([make.run([record])]))
    assert math.isnan(row.noise_floor)
