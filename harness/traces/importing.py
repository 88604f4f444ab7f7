"""Importing the JSON layout of a public data set: core12345/MoE_expert_selection_trace (arXiv 2510.05497).

A file is one request: a list of steps, each an object of layers by their number. The first step is the prefill, with a
list of expert ids for every token of the prompt; each later step is one decoded token, a list of one such list. A layer
without experts is null:

    [{"0": null, "3": [[5, 9], [1, 4]]}, {"0": null, "3": [[9, 2]]}, ...]

It has no weights, and does not say how many experts there are. The data set is behind a form; its layout is known from
programs that read it, not from a description, so whatever differs is refused rather than guessed at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from harness.traces.checking import MOST_EXPERTS
from harness.traces.reading import MOST_BYTES
from harness.traces.writing import make_trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from harness.traces.format import Trace, TraceInfo

MOST_FILE_BYTES = 2**26
"""A request of the data set takes a few MB."""

_Id = Annotated[int, msgspec.Meta(ge=0, lt=MOST_EXPERTS)]
_Layer = Annotated[str, msgspec.Meta(pattern=r"^\d{1,4}$")]
_Steps = list[dict[_Layer, list[list[_Id]] | None]]
Columns = dict[str, "NDArray[Any]"]


def request_files(path: Path, limit: int = 0) -> list[Path]:
    """Return the file itself, or the ``*.json`` of a folder in the order of their numbers, at most ``limit`` (0: all).

    Raises
    ------
    ValueError
        when there are none.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.json"), key=_number)
    if not files:
        raise ValueError(f"--import = {str(path)!r}: a JSON file of one request, or a folder of such files")
    return files[:limit] if limit else files


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d{1,9}", path.stem)
    return (int(digits[-1]) if digits else 0, path.stem)


def import_requests(files: Sequence[Path], info: TraceInfo) -> Trace:
    """Read files, one request each, into one trace. ``info.top_k`` is replaced by what the first file holds.

    Raises
    ------
    ValueError
        one line: the file, and how it differs from the layout.
    """
    parts: list[Columns] = []
    for request, path in enumerate(files):
        try:
            columns = read_request(path, request)
            if not parts:
                info = msgspec.structs.replace(info, top_k=columns["ids"].shape[1])
            make_trace(info, weights=None, **columns)  # a complaint then names the file
        except (ValueError, msgspec.MsgspecError) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
        parts.append(columns)
        if sum(column.nbytes for part in parts for column in part.values()) > MOST_BYTES:
            raise ValueError(f"--limit: {request + 1} files make a trace of more than {MOST_BYTES} bytes")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return make_trace(info, weights=None, **joined)


def read_request(path: Path, request: int) -> Columns:
    """Read one file into a trace's columns but the weights: ``ids`` (N, k), the others (N,).

    Raises
    ------
    ValueError
        when it is not of the layout.
    """
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            raise ValueError(f"{size} bytes; a request has at most {MOST_FILE_BYTES}")
        steps = msgspec.json.decode(path.read_bytes(), type=_Steps)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    routed = [{int(layer): rows for layer, rows in step.items() if rows is not None} for step in steps]
    if not routed or not routed[0]:
        raise ValueError("a list of steps, the first with at least one layer that has experts")
    prompt_tokens = len(next(iter(routed[0].values())))
    parts = []
    for number, step in enumerate(routed):
        tokens = 1 if number else prompt_tokens
        if step.keys() != routed[0].keys():
            raise ValueError(f"step {number}: has other layers than the first")
        start = prompt_tokens + number - 1 if number else 0
        parts += [_rows(rows, layer, request, start, tokens, number) for layer, rows in step.items()]
    widths = {part["ids"].shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"the same number of experts for every token, not {sorted(widths)}")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(rows: list[list[int]], layer: int, request: int, start: int, tokens: int, number: int) -> Columns:
    """Turn one layer of one step into columns."""
    if len(rows) != tokens:
        raise ValueError(f"step {number}, layer {layer}: {len(rows)} tokens, not {tokens}")
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(f"step {number}, layer {layer}: the same number of experts for every token, at least one")
    return {
        "ids": np.array(rows, dtype=np.int32),
        "layer": np.full(tokens, layer, dtype=np.int32),
        "request": np.full(tokens, request, dtype=np.int32),
        "position": np.arange(start, start + tokens, dtype=np.int32),
        "phase": np.full(tokens, 1 if number else 0, dtype=np.uint8),
    }
