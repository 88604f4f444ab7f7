"""What a trace must hold to be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.traces.format import COLUMNS, PHASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from harness.traces.format import Trace, TraceInfo

MOST_EXPERTS = 65536
MOST_TEXT = 4096
"""Characters in a text of the metadata."""


def check_info(info: TraceInfo) -> None:
    """Refuse metadata that no model could have.

    Raises
    ------
    ValueError
        naming the field.
    """
    _require(1 <= info.experts <= MOST_EXPERTS, f"experts = {info.experts}: 1 to {MOST_EXPERTS}")
    _require(1 <= info.top_k <= info.experts, f"top_k = {info.top_k}: 1 to experts = {info.experts}")
    for name in ("model", "source", "created"):
        text = getattr(info, name)
        plain = len(text) <= MOST_TEXT and (text == "" or text.isprintable())
        _require(plain, f"{name}: printable text of at most {MOST_TEXT} characters")


def check_shapes(info: TraceInfo, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arrays that are missing, unknown, or of other lengths than the others; needs no array to be read.

    Raises
    ------
    ValueError
        naming the array.
    """
    for name in shapes:
        _require(name in COLUMNS, f"{name!r} is no part of a trace")
    for name, column in COLUMNS.items():
        if name not in shapes:
            _require(column.optional, f"{name} is missing")
    rows = shapes["ids"][0] if shapes["ids"] else 0
    for name, shape in shapes.items():
        expected = (rows, info.top_k) if COLUMNS[name].dimensions == 2 else (rows,)
        _require(shape == expected, f"{name} has the shape {shape}, not {expected}")


def check_rows(trace: Trace) -> None:
    """Refuse rows that no router could have made, and rows out of order.

    Raises
    ------
    ValueError
        naming the array and the first row at fault.
    """
    check_info(trace.info)
    columns = trace.columns()
    check_shapes(trace.info, {name: array.shape for name, array in columns.items()})
    for name, array in columns.items():
        _require(array.dtype == np.dtype(COLUMNS[name].dtype), f"{name} is {array.dtype}, not {COLUMNS[name].dtype}")
    _refuse(columns, "ids", (trace.ids < 0) | (trace.ids >= trace.info.experts), f"0 to {trace.info.experts - 1}")
    ordered = np.sort(trace.ids, axis=1)
    _refuse(columns, "ids", (ordered[:, 1:] == ordered[:, :-1]).any(axis=1), "every expert at most once a token")
    if trace.weights is not None:
        fine = np.isfinite(trace.weights) & (trace.weights >= 0)
        _refuse(columns, "weights", ~fine, "finite numbers of at least 0")
    for name in ("layer", "request", "position"):
        _refuse(columns, name, columns[name] < 0, "at least 0")
    _refuse(columns, "phase", trace.phase >= len(PHASES), "0 for prefill or 1 for decode")
    _check_order(trace)


def _check_order(trace: Trace) -> None:
    """Rows go by layer, request and position, each met once, and no prefill comes after a decode."""
    columns = trace.columns()
    layer, request, position, phase = (np.diff(columns[name].astype(np.int64)) for name in tuple(COLUMNS)[2:])
    same = (layer == 0) & (request == 0)
    forward = (layer > 0) | ((layer == 0) & (request > 0)) | (same & (position > 0))
    first = np.zeros(min(1, len(trace)), dtype=bool)
    late, early = np.append(first, ~forward), np.append(first, same & (phase < 0))
    _refuse(columns, "position", late, "rows sorted by layer, request and position, each once")
    _refuse(columns, "phase", early, "all prefill tokens of a request before its decode")


def _refuse(columns: Mapping[str, NDArray[Any]], name: str, wrong: NDArray[np.bool_], allowed: str) -> None:
    """Name the first row where something is wrong, (N,) or (N, k) bool."""
    rows = np.flatnonzero(wrong if wrong.ndim == 1 else wrong.any(axis=1))
    if len(rows):
        row = int(rows[0])
        raise ValueError(f"{name}[{row}] = {columns[name][row].tolist()}: {allowed}")


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)
