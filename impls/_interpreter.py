"""Triton's interpreter: whether kernels run in Python on the CPU, where they can be checked and not timed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import Case


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for: kernels then run on the CPU, for checking only."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}


def untimed(case: Case) -> str | None:  # noqa: ARG001 (the contract's argument)
    """Say that interpreted kernels have no speed."""
    return "runs under Triton's interpreter: checked against the oracle, never timed" if interpreted() else None
