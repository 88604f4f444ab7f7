"""Whether a run is being measured just now: who does holds a lock on it meanwhile, which ends with the process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEASURING = ".measuring"
"""The file that is locked while somebody measures into the run."""
IN_PROGRESS = "is being measured just now, by another process"
PATIENCE_S = 0.5
"""Somebody who only looks whether a run is being measured holds its lock for an instant."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory for oneself while measuring into it: two at a time would spoil each other's times.

    Raises
    ------
    ValueError
        when another process measures into it.
    """
    lock = FileLock(path / MEASURING, timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{path}: {IN_PROGRESS}; wait for its end, or stop it first") from None
    try:
        yield
    finally:
        lock.release()


def in_progress(path: Path) -> bool:
    """Whether some process measures into a run directory just now."""
    if not (path / MEASURING).exists():
        return False
    lock = FileLock(path / MEASURING, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # somebody else's run, which may only be read
        return False
    lock.release()
    return False
