"""What an implementation can do wrong inside the worker, turned into a status and a reason."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.measure.contestant import ContractError
from harness.measure.gate import Disagreement

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.records.record import Agreement, Status

OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")


@dataclass(frozen=True)
class Failure:
    """Why one implementation has no time in this bout."""

    status: Status
    reason: str
    agreement: Agreement | None = None
    log_tail: str = ""


def explain(error: BaseException, case: Case) -> Failure:
    """Turn whatever an implementation raised into a failure.

    ``SystemExit`` and the like count as errors too: an implementation does not decide when the worker ends.
    """
    if isinstance(error, Disagreement):
        return Failure("disagrees", error.agreement.rule, error.agreement)
    if isinstance(error, ContractError):
        return Failure("error", str(error))
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    tail = "".join(traceback.format_exception(error))[-4000:]
    if is_out_of_memory(error):
        return Failure("oom", f"{said}; lower tokens or experts, or use a device with more memory", None, tail)
    if case.execution == "graph" and isinstance(error, RuntimeError):
        return Failure("unsupported", f"cannot be captured in a CUDA graph: {said}", None, tail)
    return Failure("error", said, None, tail)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OUT_OF_MEMORY_WORDS)
