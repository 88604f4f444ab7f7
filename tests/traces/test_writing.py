"""Making a trace of rows in any order, and leaving its file whole or not at all."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.traces import writing
from harness.traces.format import TraceInfo
from harness.traces.reading import read_trace
from harness.traces.writing import make_trace, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.traces.format import Trace


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    experts=st.integers(1, 300),
    layers=st.lists(st.integers(0, 90), min_size=1, max_size=3, unique=True),
    prompts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    decoded=st.integers(0, 4),
    weighed=st.booleans(),
    data=st.data(),
)
def test_rows_in_any_order_make_the_same_trace(
    make: Callable[..., Trace], tmp_path: Path, data: st.DataObject, experts: int, weighed: bool, **sizes: Any
) -> None:
    top_k = data.draw(st.integers(1, min(experts, 8)))
    trace = make(experts, top_k, sizes["layers"], sizes["prompts"], sizes["decoded"], weighed=weighed)
    order = np.random.default_rng(data.draw(st.integers(0, 9))).permutation(len(trace))
    shuffled: dict[str, Any] = {"weights": None} | {name: column[order] for name, column in trace.columns().items()}
    again = make_trace(trace.info, **shuffled)
    write_trace(again, tmp_path / "a.npz")
    assert read_trace(tmp_path / "a.npz").digest == again.digest == trace.digest


ROWS: dict[str, Any] = {"weights": None, "layer": [0, 0], "request": [0, 0], "position": [0, 1], "phase": [0, 0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": [[0, 2**40], [1, 2]]}, "ids: whole numbers from"),
        ({"ids": [[0.5, 1], [1, 2]]}, "ids: whole numbers"),
        ({"ids": [0, 1]}, "ids has 1 dimensions"),
        ({"ids": [[0, 1]]}, "another array has not"),
        ({"phase": [0, 256]}, "phase: whole numbers from 0 to 255"),
        ({"position": [1, 1]}, "each once"),
        ({"weights": [[1.0], [0.0]]}, "another array has not"),
        ({"weights": [[1.0, -1.0], [0.0, 1.0]]}, "finite numbers of at least 0"),
    ],
)
def test_rows_that_make_no_trace(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_trace(TraceInfo(model="m", experts=8, top_k=2), **{"ids": [[0, 1], [1, 2]], **ROWS, **change})


def test_a_file_is_whole_or_not_there(
    make: Callable[..., Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    write_trace(make(), path)
    before = path.read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "writestr", _full)
    with pytest.raises(OSError, match="No space left"):
        write_trace(make(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_trace_that_is_too_large(make: Callable[..., Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100: record fewer tokens"):
        write_trace(make(), tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())
