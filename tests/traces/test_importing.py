"""The public JSON layout: a list of steps, each an object of layers; and what is not it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from harness.traces import importing
from harness.traces.format import TraceInfo
from harness.traces.importing import import_requests, request_files

if TYPE_CHECKING:
    from pathlib import Path

INFO = TraceInfo(model="R1", experts=16, top_k=1)
STEPS: list[Any] = [
    {"0": None, "3": [[1, 2], [3, 4], [5, 6]], "10": [[7, 8], [9, 10], [11, 12]]},
    {"0": None, "3": [[13, 14]], "10": [[15, 0]]},
    {"0": None, "3": [[2, 1]], "10": [[4, 3]]},
]


def leave(folder: Path, steps: Any, name: str = "0.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(steps))
    return path


def test_a_request(tmp_path: Path) -> None:
    trace = import_requests([leave(tmp_path, STEPS)], INFO)
    assert (trace.info.top_k, trace.layers, trace.weights) == (2, [3, 10], None)
    first = trace.select(layer=3)
    assert first.ids.tolist() == [[1, 2], [3, 4], [5, 6], [13, 14], [2, 1]]
    assert first.position.tolist() == [0, 1, 2, 3, 4]
    assert first.phase.tolist() == [0, 0, 0, 1, 1]
    assert trace.select(layer=10, phase="decode").ids.tolist() == [[15, 0], [4, 3]]


def test_a_folder_of_requests_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name, first in (("10.json", 3), ("9.json", 2), ("query_1.json", 1)):
        leave(tmp_path, [{"3": [[first, 0]]}], name)
    files = request_files(tmp_path)
    assert [path.name for path in files] == ["query_1.json", "9.json", "10.json"]
    assert request_files(tmp_path, 2) == files[:2]
    trace = import_requests(files, INFO)
    assert trace.ids[:, 0].tolist() == [1, 2, 3]
    assert trace.requests == [0, 1, 2]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "a list of steps"),
        ([{}], "a list of steps"),
        ([{"3": None}], "a list of steps"),
        ({"3": [[1]]}, "Expected `array`"),
        ([[1]], "Expected `object"),
        ([{"three": [[1]]}], "matching regex"),
        ([{"3": [1, 2]}], "Expected `array`"),
        ([{"3": [["1"]]}], "Expected `int`"),
        ([{"3": [[1.5]]}], "Expected `int`"),
        ([{"3": [[-1]]}], ">= 0"),
        ([{"3": [[10**30]]}], "out of range|int"),
        ([{"3": [[16]]}], "0 to 15"),
        ([{"3": [[1, 1]]}], "at most once a token"),
        ([{"3": [[]]}], "at least one"),
        ([{"3": []}], "at least one|at least 1"),
        ([{"3": [[1], [1, 2]]}], "step 0, layer 3: the same number of experts"),
        ([{"3": [[1], [2]], "4": [[1]]}], "step 0, layer 4: 1 tokens, not 2"),
        ([{"3": [[1, 2]]}, {"3": [[1]]}], r"the same number of experts for every token, not \[1, 2\]"),
        ([{"3": [[1]]}, {"3": [[1], [2]]}], "step 1, layer 3: 2 tokens, not 1"),
        ([{"3": [[1]]}, {"4": [[1]]}], "step 1: has other layers"),
        ([{"3": [[1]]}, {"3": None}], "step 1: has other layers"),
        ([[[[[[[]]]]]]], "Expected"),
    ],
)
def test_what_is_not_the_layout(tmp_path: Path, steps: Any, words: str) -> None:
    path = leave(tmp_path, steps)
    with pytest.raises(ValueError, match=words) as caught:
        import_requests([path], INFO)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_differ_in_k(tmp_path: Path) -> None:
    files = [leave(tmp_path, STEPS, "1.json"), leave(tmp_path, [{"3": [[1]]}], "2.json")]
    with pytest.raises(ValueError, match=r"2\.json: ids has the shape \(1, 1\), not \(1, 2\)"):
        import_requests(files, INFO)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"[" * 100_000, b"\xff\xfe", b"[{"])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"0\.json: ") as caught:
        import_requests([path], INFO)
    assert "\n" not in str(caught.value)


def test_sizes_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = leave(tmp_path, STEPS)
    monkeypatch.setattr(importing, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="--limit: 1 files make a trace of more than 100 bytes"):
        import_requests([path], INFO)
    monkeypatch.setattr(importing, "MOST_FILE_BYTES", 10)
    with pytest.raises(ValueError, match="a request has at most 10"):
        import_requests([path], INFO)


def test_nothing_to_import(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(ValueError, match=r"--import = .*: a JSON file of one request, or a folder"):
            request_files(path)
