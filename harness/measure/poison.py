"""Poisoned memory: what an implementation never writes is NaN."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_FLOATS = 1 << 20


@contextlib.contextmanager
def poisoned(device: str) -> Iterator[None]:
    """Fill fresh memory with NaN (integers with their largest value) while an implementation runs.

    torch fills what ``torch.empty`` returns when deterministic algorithms are on; a block that was filled with NaN and
    freed poisons what the allocator recycles. Not for timed calls, nor for what they replay: the filling takes time.
    """
    block = torch.full((BLOCK_FLOATS,), float("nan"), device=device)
    del block
    settings: Any = torch.utils.deterministic
    before, fill = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    settings.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
            warnings.filterwarnings("ignore", ".*CuBLAS|.*CUBLAS_WORKSPACE_CONFIG")
            yield
    finally:
        torch.set_deterministic_debug_mode(before)
        settings.fill_uninitialized_memory = fill
