"""Family fused: one kernel from tokens to tokens. Named here, not built: lists and records show that it is missing."""

from __future__ import annotations

from harness import Case, Forward, Layer, implementation

REASON = "the fused Triton kernel is not part of this version; of the implementations at hand, grouped comes closest"


def unsupported(case: Case) -> str:  # noqa: ARG001 (the contract's argument)
    """Refuse every case, always for the same reason."""
    return REASON


@implementation("fused", family="fused", passes=("forward", "training"), unsupported=unsupported)
def fused(layer: Layer) -> Forward:
    """Gather, both products, activation and weighed sum in one Triton kernel; not part of this version.

    Raises
    ------
    NotImplementedError
        always; ``unsupported`` says so before.
    """
    raise NotImplementedError(REASON)
