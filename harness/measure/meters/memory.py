"""Where the bytes of one call go: peak above weights and inputs, output, workspace, what backward keeps waiting for.

On the CPU every allocation and release the profiler reports is replayed in order, which gives the allocator's exact
view; the kernel's view is the resident set's high-water mark, reset before the call. On CUDA both come from the caching
allocator's statistics. This is a call of its own, never a timed one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from harness.records.record import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

CPU_METHOD = "profiler events replayed; resident high-water mark"
CUDA_METHOD = "caching allocator statistics"
PREPARE_MARK = "moebench::memory::prepare"
FORWARD_MARK = "moebench::memory::forward"
BACKWARD_MARK = "moebench::memory::backward"
ALLOCATION = "[memory]"
PROC = Path("/proc/self")


class Reading(NamedTuple):
    """Bytes above the base: peak, output, saved between forward and backward (None without one), the system's view."""

    peak_bytes: int
    output_bytes: int
    saved_bytes: int | None
    os_peak_bytes: int | None


class Event(NamedTuple):
    """One allocation (above 0) or release (below 0) at a moment of the profiler's clock."""

    at_ns: int
    delta_bytes: int


def measure_memory(
    device: str,
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], object] | None = None,
    *,
    weights_bytes: int,
    prepared_bytes: int | None = None,
) -> Memory:
    """Bytes of one forward, and of the backward after it where one is given.

    ``forward`` runs without gradients unless there is a ``backward``, which is given forward's output; what it returns
    (the gradients) counts until the end. Gradients must not pile up from call to call. Pass what runs eagerly: a CUDA
    graph's replay allocates nothing. The calls run once or twice before the one that counts, so that what libraries
    keep from their first call is not charged. What they raise is passed on.
    """
    kind = device.partition(":")[0]
    meter = {"cpu": _measure_cpu, "cuda": _measure_cuda}.get(kind)
    if meter is None:
        reason = f"memory is measured on cpu and cuda, not on {kind}"
        return Memory(status="unavailable", reason=reason, weights_bytes=weights_bytes, prepared_bytes=prepared_bytes)
    with torch.set_grad_enabled(backward is not None):
        _run(forward, backward)
        reading = meter(device, forward, backward)
    if reading is None:
        reason = "the profiler of this torch reports no allocations on the CPU"
        return Memory(status="unavailable", reason=reason, weights_bytes=weights_bytes, prepared_bytes=prepared_bytes)
    return Memory(
        status="ok",
        method=CPU_METHOD if kind == "cpu" else CUDA_METHOD,
        weights_bytes=weights_bytes,
        prepared_bytes=prepared_bytes,
        workspace_bytes=max(0, reading.peak_bytes - reading.output_bytes),
        **reading._asdict(),
    )


def kept_bytes(device: str, prepare: Callable[[], object]) -> int | None:
    """Bytes that stay allocated as long as what ``prepare`` returns is held; None where that cannot be seen."""
    kind = device.partition(":")[0]
    gc.collect()
    if kind == "cuda":
        torch.cuda.synchronize(device)
        base = torch.cuda.memory_allocated(device)
        held = prepare()
        torch.cuda.synchronize(device)
        kept = torch.cuda.memory_allocated(device) - base
    elif kind == "cpu":
        with _watch_allocations() as profiler:
            canary = torch.empty(1)
            with record_function(PREPARE_MARK):
                held = prepare()
                gc.collect()
        del canary
        events, spans = _events_of(profiler)
        if not events:
            return None
        kept, _ = replay(events, *spans[PREPARE_MARK])
    else:
        return None
    del held
    return max(0, kept)


def _run(forward: Callable[[], Tensor], backward: Callable[[Tensor], object] | None) -> None:
    y = forward()
    if backward is not None:
        backward(y)


def _tensor_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _measure_cuda(device: str, forward: Callable[[], Tensor], backward: Callable[[Tensor], object] | None) -> Reading:
    """Read the caching allocator's statistics around one call.

    Its blocks are multiples of 512 bytes, large ones up to 1 MiB larger than what was asked for. The system's view
    is what the allocator holds from the driver beyond what it held before.
    """
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    base, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    y = forward()
    torch.cuda.synchronize(device)
    live, output = torch.cuda.memory_allocated(device) - base, _tensor_bytes(y)
    gradients = backward(y) if backward else None
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - base
    os_peak = torch.cuda.max_memory_reserved(device) - reserved
    del gradients
    return Reading(peak, output, max(0, live - output) if backward else None, os_peak)


def _measure_cpu(
    _device: str, forward: Callable[[], Tensor], backward: Callable[[Tensor], object] | None
) -> Reading | None:
    """Take the kernel's view of one call and the profiler's of the next; None when the profiler reports nothing."""
    os_peak = resident_peak_bytes(lambda: _run(forward, backward))
    gc.collect()
    with _watch_allocations() as profiler:
        canary = torch.empty(1)
        with record_function(FORWARD_MARK):
            y = forward()
        with record_function(BACKWARD_MARK):
            gradients = backward(y) if backward else None
    del canary, gradients
    events, spans = _events_of(profiler)
    if not events:
        return None
    begin, middle = spans[FORWARD_MARK]
    end = spans[BACKWARD_MARK][1]
    live, _ = replay(events, begin, middle)
    _, peak = replay(events, begin, end)
    output = _tensor_bytes(y)
    return Reading(peak, output, max(0, live - output) if backward else None, os_peak)


@contextlib.contextmanager
def _watch_allocations() -> Iterator[profile]:
    """Profile allocations. Torch 2.11 warns of further cycles; keeping their events would take ten times as long."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning: Profiler clears events")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield profiler


def allocations_are_reported() -> bool:
    """Whether this torch's profiler reports what the CPU allocates, found out by allocating something."""
    with _watch_allocations() as profiler:
        canary = torch.empty(1)
    del canary
    return bool(_events_of(profiler)[0])


def _events_of(profiler: profile) -> tuple[list[Event], dict[str, tuple[int, int]]]:
    """Return allocations and releases, and begin and end of the marked spans."""
    results = profiler.profiler.kineto_results if profiler.profiler else None
    found: list[Any] = results.events() if results else []
    events = [Event(event.start_ns(), event.nbytes()) for event in found if event.name() == ALLOCATION]
    marks = {PREPARE_MARK, FORWARD_MARK, BACKWARD_MARK}
    return events, {event.name(): (event.start_ns(), event.end_ns()) for event in found if event.name() in marks}


def replay(events: Sequence[Event], begin_ns: int, end_ns: int) -> tuple[int, int]:
    """Return live bytes at the end and the highest they stood, both above the live bytes at the beginning."""
    live = peak = 0
    for event in sorted(events, key=lambda event: event.at_ns):
        if begin_ns <= event.at_ns <= end_ns:
            live += event.delta_bytes
            peak = max(peak, live)
    return live, peak


def resident_peak_bytes(run: Callable[[], object], proc: Path = PROC) -> int | None:
    """How far the process's resident memory rose during ``run``; None, and no run, where Linux does not say.

    Memory that was allocated and never written does not count, nor does what the C library kept from earlier calls; the
    latter is handed back first.
    """
    gc.collect()
    _trim_malloc()
    try:
        (proc / "clear_refs").write_text("5")
        before = _status_bytes(proc, "VmRSS")
        run()
        return max(0, _status_bytes(proc, "VmHWM") - before)
    except OSError:
        return None


def _status_bytes(proc: Path, field: str) -> int:
    """Read one ``Vm...: N kB`` line of /proc/self/status; OSError when there is none."""
    for line in (proc / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{proc}/status has no {field}")


def _trim_malloc() -> None:
    """Give freed memory back to the kernel; only glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
