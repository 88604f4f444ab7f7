"""Writing a trace file: the same trace gives the same bytes."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harness.traces.checking import check_rows
from harness.traces.format import COLUMNS, Trace
from harness.traces.reading import METADATA, MOST_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from harness.traces.format import TraceInfo

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the zip, which knows none before."""


def make_trace(
    info: TraceInfo,
    *,
    ids: ArrayLike,
    weights: ArrayLike | None,
    layer: ArrayLike,
    request: ArrayLike,
    position: ArrayLike,
    phase: ArrayLike,
) -> Trace:
    """Bring rows in any order, (N, k) ``ids`` and ``weights`` and (N,) others, into a trace's order and types.

    Raises
    ------
    ValueError
        when they are no trace: see ``check_rows``.
    """
    given = {"layer": layer, "request": request, "position": position, "phase": phase}
    columns = {name: _typed(name, column) for name, column in given.items()}
    chosen, weighed = _typed("ids", ids), None if weights is None else _typed("weights", weights)
    lengths = {len(column) for column in (chosen, *columns.values())}
    if len(lengths) > 1 or (weighed is not None and weighed.shape != chosen.shape):
        raise ValueError(f"ids has {len(chosen)} rows, another array has not")
    order = np.lexsort((columns["position"], columns["request"], columns["layer"]))
    trace = Trace(info, chosen, weighed, **columns).take(order)
    check_rows(trace)
    return trace


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace that ``read_trace`` accepts, whole or not at all.

    Raises
    ------
    ValueError
        when it is none, or larger than a trace may be.
    OSError
        when the file cannot be written.
    """
    check_rows(trace)
    members = {f"{name}.npy": _npy(np.ascontiguousarray(array)) for name, array in trace.columns().items()}
    total = sum(len(content) for content in members.values())
    if total > MOST_BYTES:
        raise ValueError(f"{total} bytes; a trace has at most {MOST_BYTES}: record fewer tokens or layers")
    members[METADATA] = msgspec.json.encode(trace.info)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in members.items():
                member = zipfile.ZipInfo(name, EPOCH)
                member.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(member, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _typed(name: str, values: ArrayLike) -> NDArray[Any]:
    """Convert without loss: a number that the column's type cannot hold is an error."""
    given = np.asarray(values)
    if given.ndim != COLUMNS[name].dimensions:
        raise ValueError(f"{name} has {given.ndim} dimensions, not {COLUMNS[name].dimensions}")
    dtype = np.dtype(COLUMNS[name].dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        whole = given.dtype.kind in "iu" or given.size == 0
        if not whole or (given.size and (given.min() < limits.min or given.max() > limits.max)):
            raise ValueError(f"{name}: whole numbers from {limits.min} to {limits.max}")
    return given.astype(dtype)


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
