"""The size of a device's last-level cache: what decides whether data is read from cache or from memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

CPU_ROOT = Path("/sys/devices/system/cpu")
ASSUMED_BYTES = 32 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CacheSize(NamedTuple):
    """Bytes, and whether the machine said so (``known``) or 32 MiB was assumed."""

    bytes: int
    known: bool


def cache_bytes(device: str) -> int:
    """Bytes of the last-level cache of ``cpu``, ``cuda`` or ``cuda:N`` (its L2). Imports torch for CUDA only."""
    if device == "cpu":
        return cpu_cache().bytes
    import torch  # here, for the parent process asks for the CPU only and stays free of torch

    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def cpu_cache(root: Path = CPU_ROOT) -> CacheSize:
    """All last-level cache the process's cores can reach, summed over its separate pieces, from Linux's sysfs."""
    pieces: dict[tuple[int, str], int] = {}
    for core in _usable_cores():
        for index in sorted((root / f"cpu{core}" / "cache").glob("index*")):
            piece = _read_piece(index)
            if piece is not None:
                level, shared_by, size = piece
                pieces[level, shared_by] = size
    if not pieces:
        return CacheSize(ASSUMED_BYTES, known=False)
    last = max(level for level, _ in pieces)
    return CacheSize(sum(size for (level, _), size in pieces.items() if level == last), known=True)


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _read_piece(index: Path) -> tuple[int, str, int] | None:
    """Level, which cores share it, and bytes of one cache; None for instruction caches and unreadable ones."""
    try:
        kind, level, shared_by, size = (
            (index / name).read_text().strip() for name in ("type", "level", "shared_cpu_list", "size")
        )
        count = int(size[:-1]) * UNITS[size[-1]] if size[-1] in UNITS else int(size)
    except (OSError, ValueError, IndexError):
        return None
    return None if kind == "Instruction" or count <= 0 else (int(level), shared_by, count)
