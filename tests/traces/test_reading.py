"""Round trips; and files made to harm, each answered with one line and without running anything."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.traces.reading import MOST_BYTES, read_trace
from harness.traces.writing import write_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.traces.format import Trace

Parts = dict[str, bytes]


class Bomb:
    """Whoever unpickles this makes a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def path(tmp_path: Path, make: Callable[..., Trace]) -> Path:
    path = tmp_path / "fine.npz"
    write_trace(make(), path)
    return path


def parts_of(path: Path) -> Parts:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, parts: Parts, **settings: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **settings) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def npy(array: Any, *, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=allow_pickle)
    return stream.getvalue()


def header(shape: str, descr: str = "'<i4'") -> bytes:
    """An array that is all header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def refused(path: Path, *words: str) -> None:
    """The file is refused with one line that names it and holds one of these words."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
        read_trace(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert any(word in message for word in words), message


def changed(path: Path, **columns: Any) -> Path:
    """The same file with other arrays in place of its own."""
    return pack(path, parts_of(path) | {f"{name}.npy": npy(array) for name, array in columns.items()})


def test_what_was_written_is_read(tmp_path: Path, make: Callable[..., Trace]) -> None:
    for weighed in (True, False):
        trace, path = make(weighed=weighed), tmp_path / "a.npz"
        write_trace(trace, path)
        again = read_trace(path)
        assert again.info == trace.info
        assert again.digest == trace.digest
        assert again.columns().keys() == trace.columns().keys()
        for name, column in again.columns().items():
            np.testing.assert_array_equal(column, trace.columns()[name], strict=True)


def test_the_same_trace_is_the_same_bytes_and_numpy_reads_them(tmp_path: Path, make: Callable[..., Trace]) -> None:
    for name in ("a.npz", "b.npz"):
        write_trace(make(), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["ids"], make().ids)
        assert json.loads(loaded["metadata.json"])["experts"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_numpy_s_own_files_are_read(path: Path, make: Callable[..., Trace]) -> None:
    """A trace that somebody writes with ``numpy.savez`` and a metadata file beside the arrays."""
    parts = parts_of(path)
    arrays: dict[str, Any] = {**make().columns()}
    np.savez(path, **arrays)
    pack(path, parts_of(path) | {"metadata.json": parts["metadata.json"]})
    assert read_trace(path).digest == make().digest


@pytest.mark.parametrize("name", ["ids", "layer", "request", "position", "phase", "metadata"])
def test_a_missing_part(path: Path, name: str) -> None:
    parts = parts_of(path)
    pack(path, {key: content for key, content in parts.items() if key.partition(".")[0] != name})
    refused(path, "is missing")


@pytest.mark.parametrize("name", ["ids", "weights", "layer", "request", "position", "phase"])
@pytest.mark.parametrize("dtype", ["<i8", "<f8", ">i4", "<i2", "|b1", "<U3", "<c16", "<f2"])
def test_wrong_types(path: Path, make: Callable[..., Trace], name: str, dtype: str) -> None:
    refused(changed(path, **{name: make().columns()[name].astype(dtype)}), f"{name}: an array of type")


@pytest.mark.parametrize("name", ["ids", "weights", "layer", "request", "position", "phase"])
def test_wrong_lengths_and_dimensions(path: Path, make: Callable[..., Trace], name: str) -> None:
    column = make().columns()[name]
    refused(changed(path, **{name: column[:-1]}), "has the shape")
    wrong = column[:, 0].copy() if column.ndim == 2 else column[:, None]
    refused(changed(path, **{name: wrong}), "dimensions", "has the shape")
    if column.ndim == 2:
        refused(changed(path, **{name: np.hstack([column, column])}), "has the shape")
        refused(changed(path, **{name: np.asfortranarray(column)}), "Fortran")


def with_value(column: Any, value: float, row: int = 3) -> Any:
    column = column.copy()
    column[row] = value
    return column


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ids", -1, "ids[3] = [-1, -1]: 0 to 7"),
        ("ids", 8, "ids[3] = [8, 8]: 0 to 7"),
        ("ids", 2**31 - 1, "0 to 7"),
        ("ids", 5, "ids[3] = [5, 5]: every expert at most once a token"),
        ("weights", float("nan"), "weights[3] = [nan, nan]: finite"),
        ("weights", float("inf"), "finite"),
        ("weights", -0.5, "finite numbers of at least 0"),
        ("layer", -1, "layer[3] = -1: at least 0"),
        ("layer", 99, "rows sorted"),
        ("request", -2, "at least 0"),
        ("position", 0, "rows sorted by layer, request and position, each once"),
        ("position", -7, "at least 0"),
        ("phase", 2, "phase[3] = 2: 0 for prefill or 1 for decode"),
        ("phase", 1, "all prefill tokens of a request before its decode"),
    ],
)
def test_values_that_no_router_gives(
    path: Path, make: Callable[..., Trace], name: str, value: float, words: str
) -> None:
    refused(changed(path, **{name: with_value(make().columns()[name], value)}), words)


def test_weights_may_be_zero_and_a_trace_empty(path: Path, make: Callable[..., Trace], tmp_path: Path) -> None:
    assert read_trace(changed(path, weights=np.zeros_like(make().weights))).weights is not None
    nothing = tmp_path / "empty.npz"
    write_trace(make().select(layer=99), nothing)
    assert len(read_trace(nothing)) == 0


@pytest.mark.parametrize(
    "shape",
    ["(99999999999, 2)", "(9223372036854775807, 2)", "(34, 2000000000)", "(34, 2, 2)", "()", "(-1, 2)", "(34L, 2)"],
)
def test_huge_shapes_cost_nothing(path: Path, shape: str) -> None:
    pack(path, parts_of(path) | {"ids.npy": header(shape)})
    tracemalloc.start()
    refused(path, "ids: ")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_an_array_of_zeros_that_unpacks_to_gigabytes(path: Path) -> None:
    """A bomb: 64 MiB of zeros in 64 KiB, seventeen times claimed to be more than a trace may be."""
    parts = parts_of(path)
    pack(path, parts | {"ids.npy": header("(8388608, 2)") + bytes(2**26)})
    tracemalloc.start()
    refused(path, "has the shape")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    content = bytearray(path.read_bytes())
    _claim_size(content, b"ids.npy", MOST_BYTES + 1)
    path.write_bytes(content)
    refused(path, f"a trace has at most {MOST_BYTES}")


def _claim_size(content: bytearray, name: bytes, size: int) -> None:
    """Write another unpacked size of a file into the zip's directory."""
    entry = content.rindex(name) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = struct.pack("<I", size)


def test_sizes_that_lie(path: Path) -> None:
    for size in (0, 10, 150, 10**6):
        content = bytearray(path.read_bytes())
        _claim_size(content, b"ids.npy", size)
        lying = path.with_name("lying.npz")
        lying.write_bytes(content)
        refused(lying, "ids", "zip")


def test_a_pickle_in_disguise_is_not_opened(path: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    bomb = pickle.dumps(Bomb(mark))
    objects = np.empty((34, 2), dtype=object)
    objects[:] = Bomb(mark)
    disguises = {
        "whole.npz": bomb,
        "array.npz": pack(tmp_path / "a", parts_of(path) | {"ids.npy": npy(objects, allow_pickle=True)}).read_bytes(),
        "member.npz": pack(tmp_path / "b", parts_of(path) | {"ids.npy": bomb}).read_bytes(),
        "extra.npz": pack(tmp_path / "c", parts_of(path) | {"data.pkl": bomb}).read_bytes(),
        "torch.npz": pack(tmp_path / "d", {"archive/data.pkl": bomb, "archive/version": b"3"}).read_bytes(),
        "meta.npz": pack(tmp_path / "e", parts_of(path) | {"metadata.json": bomb}).read_bytes(),
    }
    for name, content in disguises.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "no trace", "ids: ", "no part of a trace", "JSON", "utf-8", "UTF-8")
    assert not mark.exists()


@pytest.mark.parametrize("descr", ["__import__('os').mkdir('mark')", "'|O'", "[('a', '<i4')]", "'<i4' if 1 else 0"])
def test_a_header_is_no_expression(path: Path, descr: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    pack(path, parts_of(path) | {"ids.npy": header("(34, 2)", descr) + bytes(272)})
    refused(path, "ids: an array of type")
    assert not (tmp_path / "mark").exists()


def test_other_versions_and_long_headers_of_arrays(path: Path) -> None:
    ids = parts_of(path)["ids.npy"]
    for wrong in (
        ids[:6] + b"\x02\x00" + ids[8:],
        ids[:8] + b"\xff\xff" + ids[10:],
        b"",
        ids[:9],
        b"\x93NUMPY\x01\x00",
    ):
        pack(path, parts_of(path) | {"ids.npy": wrong})
        refused(path, "ids: ")


@pytest.mark.parametrize("name", ["../ids.npy", "/etc/passwd", "ids", "IDS.npy", "ids.npy/", "a" * 200])
def test_names_that_are_no_part(path: Path, name: str) -> None:
    parts = parts_of(path)
    pack(path, parts | {name: b"x"})
    refused(path, "no part of a trace", "there twice")


def test_a_part_that_is_there_twice(path: Path) -> None:
    ids = parts_of(path)["ids.npy"]
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("ids.npy", ids)
    refused(path, "ids.npy is there twice")


def test_many_files_and_long_directories(path: Path) -> None:
    pack(path, parts_of(path) | {f"{number}": b"" for number in range(100)})
    refused(path, "holds 107 files, a trace at most 7")


def test_a_zip_of_the_large_kind(path: Path) -> None:
    """A second directory of 64-bit sizes could say something else than the one that was looked at."""
    content = path.read_bytes()
    path.write_bytes(content[:-22] + b"PK\x06\x07" + bytes(16) + content[-22:])
    refused(path, "no trace")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(path: Path, method: int) -> None:
    parts = parts_of(path)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    refused(path, "stored or deflated")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x80\x04.", b"{}", b"\x93NUMPY\x01\x00", bytes(100), b"PK\x05\x06" * 30]
)
def test_what_is_no_zip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.npz"
    path.write_bytes(content)
    refused(path, "no trace")


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "missing.npz", "cannot be read: No such file")
    refused(tmp_path, "not a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "format"),
        ({"version": 2}, "version"),
        ({"experts": 0}, "experts = 0: 1 to 65536"),
        ({"experts": 10**9}, "experts"),
        ({"experts": "8"}, "experts"),
        ({"top_k": 9}, "top_k = 9: 1 to experts = 8"),
        ({"top_k": 1}, "has the shape"),
        ({"model": "a\x1b[2Jb"}, "model: printable text"),
        ({"source": "x" * 5000}, "source: printable text"),
        ({"decoding": "guess"}, "decoding"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_metadata(path: Path, change: dict[str, Any], words: str) -> None:
    parts = parts_of(path)
    metadata = msgspec.json.decode(parts["metadata.json"])
    pack(path, parts | {"metadata.json": json.dumps(metadata | change).encode()})
    refused(path, words)


@pytest.mark.parametrize("text", [b"", b"[]", b"[" * 50000, b"{" * 9, b"\xff", b'{"model": 1}', b" " * 70000])
def test_metadata_that_is_none(path: Path, text: bytes) -> None:
    pack(path, parts_of(path) | {"metadata.json": text})
    refused(path, str(path))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_off_and_flipped_files_never_do_more_than_complain(
    data: st.DataObject, make: Callable[..., Trace], tmp_path: Path
) -> None:
    """Truncated anywhere, or with some bytes changed: the same routing as before, or one line."""
    write_trace(make(), tmp_path / "fine.npz")
    content = bytearray((tmp_path / "fine.npz").read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    said, digest = "", ""
    try:
        digest = read_trace(path).digest
    except ValueError as error:
        said = str(error)
    assert digest == make().digest or (said.startswith(str(path)) and "\n" not in said)
