"""A run on disk: ``records.jsonl`` (one JSON object a line), ``run.json`` and ``environment.json``.

Appending is locked and atomic enough to be killed at any moment: a bout's lines go out in one write and are synced. A
torn last line, which only a crash of the machine can leave, is skipped and counted when reading, and cut off before the
next append, so that it never corrupts the line after it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from filelock import FileLock

from harness.cases.case import PlannedCase
from harness.cases.published import Published
from harness.records.environment import Environment
from harness.records.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

RECORDS, INFO, ENVIRONMENT = "records.jsonl", "run.json", "environment.json"
FEW = 4
"""Runs that are named where their folder was given instead."""

S = TypeVar("S", bound=msgspec.Struct)


class RunInfo(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a run was asked to do and how it went. Times are UTC in ISO 8601; None while the run is not finished.

    ``plan`` is the resolved suite, so that ``--resume`` does not depend on the suite file staying as it was;
    ``left_out`` are its cases that were not measured and why, ``published`` others' figures for its work.
    ``measuring_s`` is the time spent inside measured calls, warm-up and ceilings included; ``wall_s`` the time from the
    first worker's readiness to the end of the last bout. ``files`` are the user's own with implementations in them.
    """

    name: str
    command: str
    started_at: str
    suite: str = ""
    description: str = ""
    plan: list[PlannedCase] = []
    left_out: list[str] = msgspec.field(name="too_large", default_factory=list)
    published: list[Published] = []
    budget_s: float | None = None
    files: list[str] = []
    finished_at: str | None = None
    measuring_s: float = 0.0
    wall_s: float = 0.0

    @property
    def share_measuring(self) -> float | None:
        """Share of the wall time after start-up that was spent measuring."""
        return self.measuring_s / self.wall_s if self.wall_s > 0 else None


@dataclass(frozen=True)
class Run:
    """A run as read from disk. ``torn_lines`` counts lines that were not written to their end (0 or 1)."""

    path: Path
    info: RunInfo
    environment: Environment
    records: list[Record]
    torn_lines: int


class RunStore:
    """Writes one run directory. Safe against being killed and against a second writer.

    Raises
    ------
    ValueError
        when the directory cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".lock")
            with self._lock:  # a directory that cannot be written is found out before anything is measured
                pass
        except OSError as error:
            raise ValueError(f"{path}: cannot hold a run: {error.strerror or error}") from None

    def append(self, records: Iterable[Record]) -> list[Record]:
        """Append the records whose (case, implementation) the run does not hold yet; return those written."""
        with self._lock:
            known = {record.key for record in read_records(self.path)[0]}
            fresh = []
            for record in records:
                if record.key not in known:
                    known.add(record.key)
                    fresh.append(record)
            lines = b"".join(msgspec.json.encode(record) + b"\n" for record in fresh)
            with about(self.path / RECORDS), (self.path / RECORDS).open("ab+") as file:
                _cut_torn_line(file.fileno())
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        return fresh

    def write_info(self, info: RunInfo) -> None:
        """Replace ``run.json`` in one step."""
        with self._lock:
            replace_file(self.path / INFO, info)

    def write_environment(self, environment: Environment) -> None:
        """Replace ``environment.json`` in one step."""
        with self._lock:
            replace_file(self.path / ENVIRONMENT, environment)


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Give an error of the system the path that it is about where it names none, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def load_run(path: Path) -> Run:
    """Read a run directory.

    Raises
    ------
    ValueError
        naming the file, when one is missing, of another schema, or not what moebench wrote.
    """
    records, torn = read_records(path)
    return Run(
        path=path,
        info=_read(path / INFO, RunInfo),
        environment=_read(path / ENVIRONMENT, Environment),
        records=records,
        torn_lines=torn,
    )


def read_records(path: Path) -> tuple[list[Record], int]:
    """Decode ``records.jsonl`` strictly. A last line without its end is torn: counted, not decoded.

    Raises
    ------
    ValueError
        naming the file and line of a whole line that cannot be read, that is filed under another case than its own, or
        that is a second record of one implementation in one case.
    """
    file = path / RECORDS
    if not file.exists():
        return [], 0
    *whole, torn = file.read_bytes().split(b"\n")
    decoder = msgspec.json.Decoder(Record)
    records = []
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(whole, start=1):
        try:
            record = decoder.decode(line)
            _check_place(record, lines.setdefault(record.key, number), number)
        except ValueError as error:
            raise ValueError(f"{file}: line {number}: {_unread(error)}") from None
        records.append(record)
    return records, int(bool(torn))


class _MisplacedError(ValueError):
    """A record that does not belong where it stands."""


def _check_place(record: Record, first: int, number: int) -> None:
    """Refuse a record whose case is not the one it is filed under, and a second one where ``first`` is the first."""
    if first != number:
        raise _MisplacedError(
            f"{record.impl.name} on case {record.case_id} once more, which line {first} holds already: lines of two"
            " runs were put together, or one was copied; delete one of the two lines"
        )
    if record.case.case_id != record.case_id:
        raise _MisplacedError(
            f"its case is {record.case.case_id}, not {record.case_id} under which it is filed: it was changed by hand,"
            f" or another version of moebench wrote it; {_AGAIN}"
        )


_AGAIN = "delete that line; its case is then measured again by run --resume"


def _unread(error: ValueError) -> str:
    """Say what a line that cannot be read is, and what to do about it."""
    if isinstance(error, _MisplacedError):
        return str(error)
    if isinstance(error, msgspec.ValidationError):
        return (
            f"not a record of this version of moebench ({error}): read it with the version that wrote it, or {_AGAIN}"
        )
    return f"not JSON ({error}): {_AGAIN}"


def replace_file(path: Path, content: msgspec.Struct | dict[str, Any]) -> None:
    """Write content as indented JSON through a temporary file, so that readers see the old or the new, never half."""
    temporary = path.with_name(path.name + ".new")
    with about(path), temporary.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        parts = f"{RECORDS}, {INFO} and {ENVIRONMENT}"
        inside = sorted(str(one.parent) for one in path.parent.glob(f"*/{INFO}"))
        runs = f"; runs lie in {', '.join(inside[:FEW])}{' and more' * (len(inside) > FEW)}" if inside else ""
        raise ValueError(f"{path}: {error.strerror}; a run directory holds {parts}{runs}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not written by this version of moebench: {error}") from None


def _cut_torn_line(descriptor: int) -> None:
    """Truncate a file to its last whole line."""
    size = os.fstat(descriptor).st_size
    end = size
    block = 1 << 16
    while end > 0:
        start = max(0, end - block)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
