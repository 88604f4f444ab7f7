"""What an implementation can do wrong inside the worker, turned into a status and a reason."""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.measure.contestant import ContractError
from harness.measure.executions import CaptureError
from harness.measure.gate import DisagreementError

if TYPE_CHECKING:
    from harness.records.record import Agreement, Status

REASON_CHARACTERS, LOG_CHARACTERS = 300, 4000
OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")


@dataclass(frozen=True)
class Failure:
    """Why one implementation has no time in this bout."""

    status: Status
    reason: str
    agreement: Agreement | None = None
    log_tail: str = ""


def explain(error: BaseException) -> Failure:
    """Turn whatever an implementation raised into a failure.

    ``SystemExit`` and the like count as errors too: an implementation does not decide when the worker ends.
    """
    if isinstance(error, DisagreementError):
        return Failure("disagrees", error.agreement.rule, error.agreement)
    if isinstance(error, ContractError):
        return Failure("error", str(error))
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:REASON_CHARACTERS]
    tail = "".join(traceback.format_exception(error))[-LOG_CHARACTERS:]
    if is_out_of_memory(error):
        return Failure("oom", f"{said}; lower tokens or experts, or use a device with more memory", None, tail)
    if isinstance(error, CaptureError):
        return Failure("unsupported", said, None, tail)
    return Failure("error", said, None, tail)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in OUT_OF_MEMORY_WORDS)


def free_unused(device: str) -> None:
    """Give back what torch keeps for later: kernels' code, graphs and libraries need memory beside it.

    Raises
    ------
    RuntimeError
        when torch's allocator is beyond use, as a failed graph capture leaves it.
    """
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
