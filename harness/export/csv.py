"""``moebench export csv``: a flat table for pandas, R or a spreadsheet. A row is a record.

Columns are called what the record calls its figures, ``timing.median_ns`` or ``case.traffic.tokens``, with the units in
the names. ``environment.`` is the machine, ``device.`` the one device the case ran on. Every figure of a record has its
column in every table, whether it was measured or not, so that tables can be put below one another. What a record keeps
under names of its own (``environment.versions.``, ``environment.variables.``, ``agreement.tensors.``,
``configuration.values.``) has columns as far as it occurs, and they come last in their part. Raw samples, histograms
and logs stay in ``records.jsonl``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd
from msgspec import inspect

from harness.records.environment import Device, Environment
from harness.records.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.records.store import Run

ORDER = ("run", *Record.__struct_fields__, "environment", "device")
"""Which part of a record comes first."""

LEFT_OUT = {"ceilings", "calibrations", "devices"}
"""What was measured of a machine, and the devices that a case did not run on: they have reports of their own."""


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for every record of every run, in the order they were written.

    Where a record does not have a figure, its cell is empty. ``run`` is the name of the run's directory. Pairs such as
    intervals become two columns, ``_low`` and ``_high``, words in a list one cell. ``timing.samples`` counts the
    samples; ``memory.beside_weights_bytes`` is what ``compare`` and the report call memory beside the weights.

    Raises
    ------
    ValueError
        when there is no record.
    """
    rows = [
        {"run": run.path.resolve().name} | _flat(record) | _where(run.environment, record.case.device)
        for run in runs
        for record in run.records
    ]
    if not rows:
        raise ValueError("RUN: none of them holds a record")
    names = dict.fromkeys([*columns(), *(name for row in rows for name in row)])
    ordered = sorted(names, key=lambda name: ORDER.index(name.partition(".")[0]))
    return pd.DataFrame(rows, columns=ordered).convert_dtypes()  # whole numbers stay whole where some are missing


def columns() -> list[str]:
    """Columns that every table has."""
    record = [name for name in _named("", Record) if name != "log_tail"]
    machine = [name for name in _named("environment.", Environment) if name.split(".")[1] not in LEFT_OUT]
    return ["run", *record, "timing.samples", "memory.beside_weights_bytes", *machine, *_named("device.", Device)]


def _named(path: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    """Walk the parts that a struct is declared to have, as ``_leaves`` walks a record's."""
    found = inspect.type_info(struct)
    assert isinstance(found, inspect.StructType)
    for field in found.fields:
        kinds = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        (kind, *_) = [one for one in kinds if not isinstance(one, inspect.NoneType)]
        name = path + field.encode_name
        if isinstance(kind, inspect.StructType):
            yield from _named(f"{name}.", kind.cls)
        elif isinstance(kind, inspect.TupleType):
            yield from (f"{name}_low", f"{name}_high")
        elif not isinstance(kind, inspect.DictType | inspect.ListType) or _of_words(kind):
            yield name


def _of_words(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.ListType) and isinstance(kind.item_type, inspect.StrType)


def _flat(record: Record) -> dict[str, Any]:
    row = dict(_leaves("", msgspec.to_builtins(record)))
    del row["log_tail"]
    if record.timing:
        row["timing.samples"] = len(record.timing.samples_ns)
    if record.memory and record.memory.beside_weights_bytes is not None:
        row["memory.beside_weights_bytes"] = record.memory.beside_weights_bytes
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
