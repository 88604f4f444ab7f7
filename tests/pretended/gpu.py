"""A GPU that is not there: tensors that say ``cuda:0`` and keep their values on the CPU.

It shows what a CPU hides and a GPU would refuse: operations on tensors of two devices, waiting for the device where
nobody may wait, a CUDA graph that is captured once and replayed on other numbers. It shows no time, no memory, no
rounding and no race; those take a real one.

``pretended()`` replaces what ``torch.cuda`` answers and has torch hand over every operation: ``NamedDevices`` sees the
device a caller names, ``FarTensor`` and ``SeenOperations`` see what reaches the kernels.
"""

from __future__ import annotations

import contextlib
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch._dynamo  # keeps a table of torch.cuda's functions, made when it is first imported

from tests.pretended.devices import NamedDevices, SeenOperations
from tests.pretended.kernels import kernels_on_values
from tests.pretended.streams import Graph, Waiting, capture
from tests.pretended.tensors import FarTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

PROPERTIES = SimpleNamespace(
    name="Pretended GPU",  # so that no record can be taken for a real one
    major=9,
    minor=0,
    total_memory=80 << 30,
    multi_processor_count=132,
    L2_cache_size=50 << 20,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_multiprocessor=228 << 10,
    shared_memory_per_block_optin=227 << 10,
    uuid="00000000-0000-0000-0000-000000000000",
)


class Event:
    def __init__(self, **_options: Any) -> None:
        self.at = 0.0

    def record(self, _stream: Any = None) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1e3


class Stream:
    cuda_stream = 0

    def wait_stream(self, other: Stream) -> None:
        pass


class NearGenerator:
    """Random numbers of the CPU for whatever device."""

    make = torch.Generator

    def __new__(cls, _device: Any = "cpu") -> Any:
        return cls.make()


def _sync_debug_mode(mode: str) -> None:
    Waiting.forbidden = mode == "error"


def _anything(*_args: Any, **_kwargs: Any) -> Any:
    return contextlib.nullcontext()


ANSWERS: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_properties": lambda _device=None: PROPERTIES,
    "get_device_capability": lambda _device=None: (PROPERTIES.major, PROPERTIES.minor),
    "get_device_name": lambda _device=None: PROPERTIES.name,
    "mem_get_info": lambda _device=None: (PROPERTIES.total_memory, PROPERTIES.total_memory),
    **{name: lambda _device=None: 0 for name in ("memory_allocated", "memory_reserved")},
    **{name: lambda _device=None: 1 << 20 for name in ("max_memory_allocated", "max_memory_reserved")},
    **dict.fromkeys(("synchronize", "set_device", "empty_cache", "reset_peak_memory_stats", "_sleep"), _anything),
    **dict.fromkeys(("device", "stream", "set_stream"), _anything),
    "current_stream": lambda _device=None: Stream(),
    "Stream": Stream,
    "Event": Event,
    "CUDAGraph": Graph,
    "graph": capture,
    "set_sync_debug_mode": _sync_debug_mode,
}


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """A GPU for as long as this lasts, with which kernels that Triton interprets work, too."""
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def backward(*args: Any, **kwargs: Any) -> Any:
        with NamedDevices():  # torch leaves the mode when it enters the engine
            return engine(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **ANSWERS))
        stack.enter_context(mock.patch.object(torch, "Generator", NearGenerator))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", backward))
        stack.enter_context(mock.patch("harness.measure.contestant.Tensor", FarTensor))  # it asks for the type itself
        if "triton.runtime.interpreter" in sys.modules:
            stack.enter_context(kernels_on_values())
        stack.enter_context(NamedDevices())
        stack.enter_context(SeenOperations())  # type: ignore[no-untyped-call]
        yield
