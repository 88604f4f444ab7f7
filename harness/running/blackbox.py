"""The flight recorder: what a worker is doing right now, readable after it died.

A small memory-mapped file that the worker overwrites before each thing an implementation could die in. Writing costs no
system call, so it does not disturb a measurement, and the page survives any death of the process.
"""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1024


class Entry(msgspec.Struct, frozen=True):
    """The last thing a worker announced: case, implementation, stage, and when (``time.monotonic_ns``, system-wide)."""

    case_id: str = ""
    impl: str = ""
    stage: str = "starting"
    beat_ns: int = 0
    log_offset: int = 0


class BlackBox:
    """The worker's side."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)
        self._encoder = msgspec.json.Encoder()

    def write(self, case_id: str, impl: str, stage: str, log_offset: int = 0) -> None:
        """Announce what comes next."""
        entry = Entry(case_id, impl, stage, time.monotonic_ns(), log_offset)
        line = self._encoder.encode(entry)[: SIZE - 1]
        self._map[: len(line) + 1] = line + b"\n"


def read(path: Path) -> Entry:
    """Return the last announcement; a default entry when there is none or it was being written."""
    try:
        line, _, _ = path.read_bytes().partition(b"\n")
        return msgspec.json.decode(line, type=Entry)
    except (FileNotFoundError, msgspec.DecodeError):
        return Entry()
