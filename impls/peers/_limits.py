"""What a peer can do, as data, and one way of saying what it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from impls._interpreter import interpreted

if TYPE_CHECKING:
    from harness import Case, Shape

DROPPING_ROUTERS = ("switch", "expert_choice")
"""Routers whose slots may be dropped: the queue of an expert is full, or a token has fewer experts than another."""


@dataclass(frozen=True)
class Limits:
    """The limits of a peer; called with a case it says which of them the case breaks, or None.

    ``gated`` and ``plain`` are the activations it has for experts with and without a gate, ``bias`` whether it adds
    biases. ``refuses`` holds executions it cannot take part in, and why. ``capabilities`` are the major compute
    capabilities it has kernels for, empty for any; ``multiple`` divides H and I. ``interpreted``: on the CPU it runs
    under Triton's interpreter only. None of the peers has slots without an expert.
    """

    name: str
    gated: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    bias: bool = False
    refuses: tuple[tuple[str, str], ...] = ()
    capabilities: tuple[int, ...] = ()
    multiple: int = 1
    interpreted: bool = False

    def __call__(self, case: Case) -> str | None:
        """Return the first limit that a case breaks, in one sentence, or None."""
        return self._of_experts(case.shape) or self._of_execution(case) or self._of_device(case)

    def _of_experts(self, shape: Shape) -> str | None:
        known, kind = (self.gated, "gated") if shape.gated else (self.plain, "plain")
        if shape.activation not in known:
            has = f"has {' and '.join(known)} only, not {shape.activation}" if known else "has none"
            return f"{self.name} {has} for {kind} experts"
        if shape.bias and not self.bias:
            return f"{self.name} adds no biases to its experts"
        if shape.router.kind in DROPPING_ROUTERS:
            return f"{self.name} has no slots without an expert, which router {shape.router.kind!r} may leave"
        for size_name, size in (("H", shape.hidden), ("I", shape.expert_hidden)):
            if size % self.multiple:
                return f"{self.name} needs {size_name} = {size} to be a multiple of {self.multiple}"
        return None

    def _of_execution(self, case: Case) -> str | None:
        why = dict(self.refuses).get(case.execution)
        return f"{self.name} does not do execution {case.execution!r}: {why}" if why else None

    def _of_device(self, case: Case) -> str | None:
        if case.device == "cpu" and self.interpreted and not interpreted():
            return f"{self.name} is written in Triton: on the CPU it can only be checked, with TRITON_INTERPRET=1"
        if case.dtype == "bf16" and self.interpreted and interpreted():
            return "Triton's interpreter multiplies bf16 wrongly; fp16 can be checked"
        if case.device.startswith("cuda") and self.capabilities:
            major, minor = torch.cuda.get_device_capability(case.device)
            if major not in self.capabilities:
                some = " or ".join(f"{known}.x" for known in self.capabilities)
                return f"{self.name} has kernels for compute capability {some}, this device has {major}.{minor}"
        return None
