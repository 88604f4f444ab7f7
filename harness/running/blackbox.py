"""The flight recorder: what a worker is doing right now, readable after it died.

A small memory-mapped file that the worker overwrites before each thing an implementation could die in. Writing costs no
system call, so it does not disturb a measurement, and the page survives any death of the process.
"""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

SLOT_BYTES = 2048
"""The file holds two slots, written in turn: whatever interrupts a write, the announcement before it stays whole."""
MOST_CHARACTERS = 150
"""Longer names and stages are cut; JSON takes at most 6 bytes a character, so that both always fit into a slot."""

_head = struct.Struct("=II")
"""Checksum and length of the JSON that follows."""


class Announcement(msgspec.Struct, frozen=True):
    """The last thing a worker announced: case, implementation, stage, and when (``time.monotonic_ns``, system-wide)."""

    case_id: str = ""
    impl: str = ""
    stage: str = "starting"
    beat_ns: int = 0
    log_offset: int = 0


class BlackBox:
    """The worker's side."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(2 * SLOT_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 2 * SLOT_BYTES)
        self._encoder = msgspec.json.Encoder()
        self._slot = 0

    def write(self, case_id: str, impl: str, stage: str, log_offset: int = 0) -> None:
        """Announce what comes next."""
        entry = Announcement(case_id, impl[:MOST_CHARACTERS], stage[:MOST_CHARACTERS], time.monotonic_ns(), log_offset)
        text = self._encoder.encode(entry)
        content = _head.pack(zlib.crc32(text), len(text)) + text
        start = self._slot * SLOT_BYTES
        self._map[start : start + len(content)] = content
        self._slot = 1 - self._slot


def read(path: Path) -> Announcement:
    """Return the last announcement that was written whole; a default entry when there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Announcement()
    slots = (content[:SLOT_BYTES], content[SLOT_BYTES:])
    return max((_entry(slot) for slot in slots), key=lambda entry: entry.beat_ns)


def _entry(slot: bytes) -> Announcement:
    """Decode one slot; a default entry when it is empty or half written."""
    if len(slot) < _head.size:
        return Announcement()
    checksum, length = _head.unpack_from(slot)
    text = slot[_head.size : _head.size + length]
    if not text or zlib.crc32(text) != checksum:
        return Announcement()
    return msgspec.json.decode(text, type=Announcement)
