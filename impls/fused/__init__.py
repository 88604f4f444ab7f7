"""Family fused: the experts as a few Triton kernels, one set for few tokens and one for many.

Importing this package needs no Triton; preparing a layer does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING

import torch

from harness import Case, Forward, Layer, Tunable, implementation
from impls._interpreter import interpreted, untimed
from impls.fused.tuned import BOOK, from_values, neighbours

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_CAPABILITY = (8, 0)
"""Below it there are no bf16 tensor cores and no asynchronous copies, which the kernels are built on."""


def unsupported(case: Case) -> str | None:
    """Say what is missing here for a case, or None."""
    if importlib.util.find_spec("triton") is None:
        return "needs Triton: pip install triton"
    if interpreted():
        return _broken_interpreter()
    if not case.device.startswith("cuda"):
        return "needs a GPU; on the CPU its kernels can only be checked, by the interpreter: set TRITON_INTERPRET=1"
    capability = torch.cuda.get_device_capability(case.device)
    if capability < LEAST_CAPABILITY:
        return f"needs compute capability 8.0, this device has {capability[0]}.{capability[1]}"
    return None


def _broken_interpreter() -> str | None:
    """Triton 3.6's interpreter makes a number of an array of one element, which numpy 2.4 refuses."""
    triton, numpy = (importlib.metadata.version(name) for name in ("triton", "numpy"))
    if _release(triton) <= (3, 6) and _release(numpy) >= (2, 4):
        return (
            f"the interpreter of Triton {triton} does not work with numpy {numpy}: take numpy < 2.4 or a newer Triton"
        )
    return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def with_values(layer: Layer, values: Mapping[str, int | str]) -> Forward:
    """Prepare a forward that runs with this configuration whatever was tuned; a tuner's way in."""
    from impls.fused.forward import FusedForward

    return FusedForward(layer, from_values(values))


@implementation(
    "fused",
    family="fused",
    passes=("forward", "training"),
    unsupported=unsupported,
    untimed=untimed,
    tunable=Tunable(candidates=neighbours, prepare=with_values, book=BOOK),
)
def fused(layer: Layer) -> Forward:
    """Gather, product, bias and activation in one kernel, the second product in another, then gather, weigh and sum.

    Nothing but what must exist is written: ``T*K * (I + H) * s`` bytes forward, s bytes an element, and in training the
    pre-activation, ``2I`` where gated. Few tokens (``decode``) take three launches and no sort; many (``prefill``) are
    sorted by expert on the device first. Never waits for the device, uses no atomics, and a CUDA graph can hold it.

    Tiles come from what was tuned for the device, shape and token count (``moebench tune fused``), or from a default.
    """
    from impls.fused.forward import FusedForward

    return FusedForward(layer)
