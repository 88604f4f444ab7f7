"""The sum of ``moebench validate``: a row for each implementation, dtype and pass."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.cases.case import Case
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.records.record import Agreement, ImplInfo, Record, TensorError
from harness.report.validation import summarise

SHAPE = Shape(hidden=32, expert_hidden=16, experts=4, top_k=2)


def error(rel: float, row: float) -> TensorError:
    """A tensor whose tolerances are 0.1 and 0.2."""
    return TensorError(
        rel_error=rel,
        worst_row=row,
        max_abs=0.0,
        cosine=1.0,
        nonfinite=0,
        rel_tolerance=0.1,
        row_tolerance=0.2,
        reference_rel_error=0.0,
        reference_worst_row=0.0,
    )


def record(name: str = "loop", status: Any = "ok", tokens: int = 8, dtype: Any = "fp32", **fields: Any) -> Record:
    case = Case(shape=SHAPE, traffic=Traffic(tokens=tokens), dtype=dtype)
    reason = "" if status == "ok" else f"because of {tokens}"
    info = ImplInfo(name=name, family="loop")
    return Record(
        case=case, case_id=case.case_id, impl=info, status=status, reason=reason, environment_id="e", **fields
    )


def agreed(tokens: int, **tensors: TensorError) -> Record:
    return record(tokens=tokens, agreement=Agreement(passed=True, rule="close", tensors=tensors))


def test_nothing_is_an_empty_sum() -> None:
    assert summarise([]) == []


def test_the_worst_tensor_of_the_worst_case_is_named() -> None:
    (row,) = summarise([agreed(1, y=error(0.01, 0.02)), agreed(2, y=error(0.05, 0.02), x=error(0.01, 0.15))])
    assert (row["cases"], row["passed"], row["unsupported"], row["failed"]) == (2, 2, 0, 0)
    assert row["error / tolerance"] == "0.75"
    assert str(row["worst at, or why"]).startswith("x, H32 I16 E4 k2 T=2")


def test_the_worst_column_counts_as_the_gate_counts_it() -> None:
    by_column = msgspec.structs.replace(error(0.01, 0.02), worst_column=0.5)
    (row,) = summarise([agreed(1, y=by_column)])
    assert row["error / tolerance"] == "2.50"


def test_a_row_for_each_implementation_dtype_and_pass_in_order() -> None:
    rows = summarise([record("b"), record("a", dtype="bf16"), record("b", tokens=9), record("a")])
    found = [(row["implementation"], row["dtype"], row["pass"], row["cases"]) for row in rows]
    assert found == [("a", "bf16", "forward", 1), ("a", "fp32", "forward", 1), ("b", "fp32", "forward", 2)]


def test_failures_say_why_before_anything_else() -> None:
    records = [
        agreed(1, y=error(0.05, 0.0)),
        record(status="unsupported", tokens=2),
        record(status="crashed", tokens=3),
    ]
    (row,) = summarise(records)
    assert (row["cases"], row["passed"], row["unsupported"], row["failed"]) == (3, 1, 1, 1)
    assert row["worst at, or why"] == "crashed: because of 3"


def test_every_status_that_is_neither_ok_nor_unsupported_is_a_failure() -> None:
    for status in ("disagrees", "error", "oom", "crashed", "timeout", "impossible"):
        (row,) = summarise([record(status=status)])
        assert (row["passed"], row["failed"]) == (0, 1)


def test_what_is_refused_everywhere_says_why() -> None:
    (row,) = summarise([record(status="unsupported", tokens=tokens) for tokens in (1, 2)])
    assert (row["passed"], row["unsupported"], row["error / tolerance"]) == (0, 2, "-")
    assert row["worst at, or why"] == "because of 1"
