"""The cases of ``moebench validate``: every router, dtype and pass, over the edges where implementations break."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cases.case import DTYPE_BYTES, PASSES, SCOPES, Case, PlannedCase
from harness.cases.shape import ROUTER_KINDS, Router, Shape
from harness.cases.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.cases.case import DType, Pass, Scope

H, I, E, K = 64, 48, 8, 2
"""Small, and I no multiple of a tile."""


def validation_cases(device: str) -> list[PlannedCase]:
    """Every router x dtype x pass on ordinary traffic, then the edges of shape and traffic, in both scopes."""
    return [PlannedCase(case=case) for case in dict.fromkeys(_cases(device))]


def _cases(device: str) -> Iterator[Case]:
    for dtype in DTYPE_BYTES:
        for pass_ in PASSES:
            for router in _routers():
                for scope in SCOPES:
                    yield _case(device, dtype, pass_, _shape(router=router), Traffic(tokens=33), scope)
            for shape in _edge_shapes():
                yield _case(device, dtype, pass_, shape, Traffic(tokens=17), "layer")
            for traffic in _edge_traffic():
                yield _case(device, dtype, pass_, _shape(), traffic, "experts")


def _case(device: str, dtype: DType, pass_: Pass, shape: Shape, traffic: Traffic, scope: Scope) -> Case:
    return Case(shape=shape, traffic=traffic, dtype=dtype, pass_=pass_, scope=scope, device=device)


def _shape(**changes: object) -> Shape:
    sizes: dict[str, object] = {"hidden": H, "expert_hidden": I, "experts": E, "top_k": K}
    router = changes.get("router")
    if isinstance(router, Router) and router.kind == "switch":
        sizes["top_k"] = 1
    return Shape(**{**sizes, **changes})  # type: ignore[arg-type]


def _routers() -> list[Router]:
    plain = [Router(kind=kind) for kind in ROUTER_KINDS]
    return [
        *plain,
        Router(kind="softmax", renormalise=True),
        Router(kind="softmax", groups=4, top_groups=2, scale=16.0),
        Router(kind="sigmoid", renormalise=True, groups=4, top_groups=2, scale=2.5, selection_bias=True),
        Router(kind="switch", capacity_factor=0.5),
    ]


def _edge_shapes() -> list[Shape]:
    """Activations, biases, shared experts, k = 1, k = E, one expert."""
    return [
        _shape(activation="gelu"),
        _shape(activation="relu", gated=False, bias=True),
        _shape(activation="clamped_swiglu", bias=True, router=Router(kind="topk_softmax")),
        _shape(shared_experts=2, shared_hidden=24),
        _shape(shared_experts=1, shared_hidden=32, shared_gated=True),
        _shape(top_k=1),
        _shape(top_k=E),
        _shape(experts=1, top_k=1),
    ]


def _edge_traffic() -> list[Traffic]:
    """No token, one token, k tokens, all on one expert, one past a tile, most experts empty."""
    return [
        Traffic(tokens=0),
        Traffic(tokens=1),
        Traffic(tokens=K),
        Traffic(tokens=65, spread="single_hot"),
        Traffic(tokens=65, spread="k_hot"),
        Traffic(tokens=68, spread="tile:16"),
        Traffic(tokens=50, spread="zipf:3"),
        Traffic(tokens=40, spread="temporal:0.7"),
    ]
