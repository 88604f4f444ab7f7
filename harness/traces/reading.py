"""Reading a trace file. Nothing in it is executed, and nothing is allocated before its size has been checked.

A file is an npz as numpy writes it: a zip of ``.npy`` arrays, here with ``metadata.json`` beside them. It is read
without numpy's reader, whose headers are Python expressions and whose arrays may be pickles.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harness.traces.checking import check_info, check_rows, check_shapes
from harness.traces.format import COLUMNS, Trace, TraceInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from numpy.typing import NDArray

METADATA = "metadata.json"
MOST_BYTES = 2**29
"""A trace takes at most 512 MiB, on disk and unpacked."""
MOST_METADATA_BYTES = 2**16
MOST_HEADER_BYTES = 1024

_ENTRIES = 16
_DIRECTORY_BYTES = 4096
_end = struct.Struct("<4s4H2LH")
"""The zip's last record: signature, this disk, its first disk, entries here and in all, directory bytes, offset."""
_HEADER = re.compile(rb"\{'descr': '([<|][fiu]\d)', 'fortran_order': False, 'shape': \((\d+), ?(\d*)\), \} *\n")


def read_trace(path: str | Path) -> Trace:
    """Read a trace and hold it against everything a trace must be.

    Raises
    ------
    ValueError
        one line: the file, what is wrong with it, and what would be right.
    """
    path = Path(path)
    with _located(path):
        size = path.stat().st_size
        _require(path.is_file(), "no trace: not a file")
        _require(size <= MOST_BYTES, f"{size} bytes; a trace has at most {MOST_BYTES}")
        with path.open("rb") as file:
            _check_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                return _read(archive, size)


def _read(archive: zipfile.ZipFile, size: int) -> Trace:
    members = _members(archive, size)
    info = msgspec.json.decode(archive.read(members.pop(METADATA)), type=TraceInfo)
    check_info(info)
    shapes = {name: _shape(archive, member, name) for name, member in members.items()}
    check_shapes(info, shapes)
    arrays = {name: _array(archive, member, name, shapes[name]) for name, member in members.items()}
    trace = Trace(info=info, weights=arrays.pop("weights", None), **arrays)
    check_rows(trace)
    return trace


def _check_directory(file: IO[bytes], size: int) -> None:
    """See that the zip's directory is as small as a trace's, before ``zipfile`` reads all of it."""
    _require(size >= _end.size, "no trace: not a zip file (an .npz)")
    file.seek(max(0, size - _end.size - 20))
    tail = file.read()
    signature, _, _, _, entries, directory_bytes, _, comment = _end.unpack(tail[-_end.size :])
    _require(signature == b"PK\x05\x06" and comment == 0, "no trace: not a zip file (an .npz), or cut off")
    small = entries <= _ENTRIES and directory_bytes <= _DIRECTORY_BYTES and not tail.startswith(b"PK\x06\x07")
    _require(small, f"no trace: holds {entries} files, a trace at most {len(COLUMNS) + 1}")


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Find the zip's files by the array they hold, and the metadata; nothing else is allowed, nor anything twice."""
    found: dict[str, zipfile.ZipInfo] = {}
    known = {f"{name}.npy": name for name in COLUMNS} | {METADATA: METADATA}
    for member in archive.infolist():
        _require(member.filename in known, f"{member.filename!r} is no part of a trace")
        name = known[member.filename]
        _require(name not in found, f"{member.filename} is there twice")
        plain = member.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} and not member.flag_bits & 1
        _require(plain, f"{member.filename}: stored or deflated, and not encrypted")
        _require(member.compress_size <= size, f"{member.filename}: longer than the file it is in")
        found[name] = member
    _require(METADATA in found, f"{METADATA} is missing")
    _require(found[METADATA].file_size <= MOST_METADATA_BYTES, f"{METADATA}: at most {MOST_METADATA_BYTES} bytes")
    declared = sum(member.file_size for member in found.values())
    _require(declared <= MOST_BYTES, f"unpacks to {declared} bytes; a trace has at most {MOST_BYTES}")
    return found


def _shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> tuple[int, ...]:
    """Read an array's header; see that its type is the column's, and its size that of the file."""
    with archive.open(member) as stream:
        start = stream.read(10)
        length = int.from_bytes(start[8:10], "little")
        _require(start[:8] == b"\x93NUMPY\x01\x00", f"{name}: no .npy array of version 1.0")
        _require(length <= MOST_HEADER_BYTES, f"{name}: a header of {length} bytes")
        match = _HEADER.fullmatch(stream.read(length))
    dtype, dimensions = COLUMNS[name].dtype, COLUMNS[name].dimensions
    fits = match is not None and match[1].decode() == dtype
    _require(fits, f"{name}: an array of type {dtype}, not in Fortran order, of one or two dimensions")
    assert match
    shape = tuple(int(group) for group in match.groups()[1:] if group)
    _require(len(shape) == dimensions, f"{name}: {len(shape)} dimensions, not {dimensions}")
    expected = 10 + length + math.prod(shape) * np.dtype(dtype).itemsize
    _require(member.file_size == expected, f"{name}: {member.file_size} bytes, {expected} by its shape {shape}")
    return shape


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    content = archive.read(member)
    _require(len(content) == member.file_size, f"{name}: cut off")
    length = 10 + int.from_bytes(content[8:10], "little")
    return np.frombuffer(content, dtype=COLUMNS[name].dtype, offset=length).reshape(shape)


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Turn whatever a broken file leads to into one line that names it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise ValueError(f"{path}: no trace: a broken zip file: {error}") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)
