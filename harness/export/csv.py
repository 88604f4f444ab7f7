"""``moebench export csv``: a flat table for pandas, R or a spreadsheet. A row is a record.

Columns are called what the record calls its figures, ``timing.median_ns`` or ``case.traffic.tokens``, with the units in
the names. ``environment.`` is the machine, ``device.`` the one device the case ran on. Raw samples, histograms and logs
stay in ``records.jsonl``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd

from harness.records.record import Record
from harness.report.labels import run_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.records.environment import Environment
    from harness.records.store import Run

ORDER = ("run", *Record.__struct_fields__, "environment", "device")
"""Which part of a record comes first."""


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for every record of every run, in the order they were written.

    A column is there when some record has the figure; where one does not, its cell is empty. ``run`` is the run's label
    in reports. Pairs such as intervals become two columns, ``_low`` and ``_high``, words in a list one cell.

    Raises
    ------
    ValueError
        when there is no record.
    """
    rows = [
        {"run": label} | _flat(record) | _where(run.environment, record.case.device)
        for run, label in zip(runs, run_labels(runs), strict=True)
        for record in run.records
    ]
    if not rows:
        raise ValueError("RUN: none of them holds a record")
    found = pd.DataFrame(rows).convert_dtypes()  # whole numbers stay whole where some are missing
    return found[sorted(found.columns, key=lambda name: ORDER.index(str(name).partition(".")[0]))]


def _flat(record: Record) -> dict[str, Any]:
    row = dict(_leaves("", msgspec.to_builtins(record)))
    del row["log_tail"]
    if record.timing:
        row["timing.samples"] = len(record.timing.samples_ns)
    return row


def _where(environment: Environment, device: str) -> dict[str, Any]:
    """Return the machine and one of its devices; what was measured of them has reports of its own."""
    lasting = msgspec.structs.replace(environment, ceilings={}, calibrations={}, devices={})
    row = dict(_leaves("environment.", msgspec.to_builtins(lasting)))
    if found := environment.devices.get(device):
        row |= _leaves("device.", msgspec.to_builtins(found))
    return row


def _leaves(path: str, found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Walk a record's parts down to single figures and words."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _leaves(f"{path}{name}.", value)
        elif isinstance(value, list | tuple):
            yield from _listed(path + name, value)
        elif value is not None:
            yield path + name, value


def _listed(path: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(values, tuple) and len(values) == 2:
        yield from zip((f"{path}_low", f"{path}_high"), values, strict=True)
    elif values and all(isinstance(value, str) for value in values):
        yield path, "; ".join(values)
