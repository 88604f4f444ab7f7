"""Whatever an implementation raises becomes a status and a reason."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import torch

from harness.measure.contestant import ContractError
from harness.measure.executions import CaptureError
from harness.measure.failures import LOG_CHARACTERS, REASON_CHARACTERS, explain, free_unused, is_out_of_memory
from harness.measure.gate import DisagreementError
from harness.records.record import STATUSES, Agreement

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("CUDA error: out of memory"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_memory_that_ran_out(error: BaseException) -> None:
    assert is_out_of_memory(error)
    failure = explain(error)
    assert failure.status == "oom"
    assert "lower tokens" in failure.reason


def test_a_real_allocation_that_is_too_large() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert explain(caught.value).status == "oom"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (KeyError(), "KeyError:"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt:"),
        (RuntimeError("shape '[3]' is invalid"), "RuntimeError: shape '[3]' is invalid"),
        (OSError(errno.ENOENT, "No such file"), "FileNotFoundError: [Errno 2] No such file"),
    ],
    ids=repr,
)
def test_errors_of_any_kind(error: BaseException, reason: str) -> None:
    failure = explain(error)
    assert (failure.status, failure.reason) == ("error", reason)
    assert failure.reason


def test_a_broken_contract_is_named_as_it_is() -> None:
    failure = explain(ContractError("returned NoneType, the contract asks for a torch.Tensor"))
    assert (failure.status, failure.reason) == ("error", "returned NoneType, the contract asks for a torch.Tensor")


def test_a_disagreement_brings_its_agreement() -> None:
    agreement = Agreement(passed=False, rule="y: relative error 1 above 0.01")
    failure = explain(DisagreementError(agreement))
    assert (failure.status, failure.reason) == ("disagrees", agreement.rule)
    assert failure.agreement is agreement


def test_what_cannot_be_captured_is_unsupported_and_what_merely_fails_is_not() -> None:
    failure = explain(CaptureError("cannot be captured in a CUDA graph: operation not permitted"))
    assert (failure.status, failure.reason[:38]) == ("unsupported", "CaptureError: cannot be captured in a ")
    assert explain(RuntimeError("operation not permitted when stream is capturing")).status == "error"


def test_reason_and_log_are_cut() -> None:
    def deep(level: int) -> Any:
        return deep(level - 1) if level else [][len("x" * 5000)]

    try:
        deep(500)
    except IndexError as error:
        failure = explain(error)
    assert len(failure.log_tail) <= LOG_CHARACTERS
    assert failure.log_tail.rstrip().endswith("IndexError: list index out of range")
    assert len(explain(ValueError("x" * 5000)).reason) == REASON_CHARACTERS
    assert explain(MemoryError()).status in STATUSES


@pytest.mark.parametrize(("device", "freed"), [("cuda", 1), ("cuda:1", 1), ("cpu", 0)])
def test_only_a_gpu_has_memory_to_give_back(monkeypatch: pytest.MonkeyPatch, device: str, freed: int) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    free_unused(device)
    assert len(calls) == freed
