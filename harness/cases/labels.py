"""What a layer is called in one line: its name and sizes, and whatever tells it from an ordinary one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.cases.shape import Router, Shape

CHANGED = " changed"
"""Stands behind the name of a preset that is not as the model has it."""


def sizes_label(shape: Shape) -> str:
    """Return the name, where there is one, and the sizes."""
    sizes = f"H{shape.hidden} I{shape.expert_hidden} E{shape.experts} k{shape.top_k}"
    return f"{shape.name} ({sizes})" if shape.name else sizes


def peculiarities(shape: Shape) -> list[str]:
    """Return a few words for each thing that is not ordinary; beside the router, nothing for a model as it is."""
    kind = [] if shape.router.kind == "softmax" else [f"{shape.router.kind} router"]
    if shape.name and not shape.name.endswith(CHANGED):
        return kind
    return [*_of_experts(shape), *kind, *router_words(shape.router)]


def _of_experts(shape: Shape) -> Iterator[str]:
    if shape.activation != "silu":
        yield shape.activation
    if not shape.gated:
        yield "plain"
    if shape.bias:
        yield "biases"
    if shape.shared_experts:
        yield f"{shape.shared_experts} shared of {shape.shared_hidden}{' gated' * shape.shared_gated}"


def router_words(router: Router) -> Iterator[str]:
    """Yield a few words for each setting of a router that is not ordinary."""
    if router.renormalise:
        yield "weights renormalised"
    if router.groups > 1:
        yield f"{router.top_groups} of {router.groups} groups"
    if router.selection_bias:
        yield "selection bias"
    if router.scale != 1:
        yield f"scale {router.scale:g}"
    if router.kind == "switch":
        yield f"capacity factor {router.capacity_factor:g}"
