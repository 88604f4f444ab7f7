"""The outcome of ``moebench validate``, summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.records.record import Record


def summarise(records: Sequence[Record]) -> list[dict[str, str | int]]:
    """Return a row for each implementation x dtype x pass: how many cases passed, and how close the worst came.

    ``error / tolerance`` is the largest share of its tolerance that any tensor of any case used; 1 would fail.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.impl.name, record.case.dtype, record.case.pass_), []).append(record)
    return [_row(*key, groups[key]) for key in sorted(groups)]


def _row(name: str, dtype: str, pass_: str, records: Sequence[Record]) -> dict[str, str | int]:
    failed = [record for record in records if record.status not in {"ok", "unsupported"}]
    refused = [record for record in records if record.status == "unsupported"]
    share, where = max(_shares(records), default=(0.0, ""))
    note = f"{failed[0].status}: {failed[0].reason}" if failed else refused[0].reason if refused else where
    return {
        "implementation": name,
        "dtype": dtype,
        "pass": pass_,
        "cases": len(records),
        "passed": len(records) - len(failed) - len(refused),
        "unsupported": len(refused),
        "failed": len(failed),
        "error / tolerance": f"{share:.2f}" if where else "-",
        "worst at, or why": note,
    }


def _shares(records: Sequence[Record]) -> Iterable[tuple[float, str]]:
    for record in records:
        for name, error in (record.agreement.tensors if record.agreement else {}).items():
            yield error.used, f"{name}, {record.case.label()}"
