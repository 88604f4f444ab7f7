"""The case: what may be compared like for like."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import msgspec

from harness.cases.labels import peculiarities, sizes_label
from harness.cases.shape import Router, Shape, require
from harness.cases.traffic import Traffic

DType = Literal["fp32", "bf16", "fp16"]
Pass = Literal["forward", "training"]
Scope = Literal["experts", "layer"]
Execution = Literal["eager", "graph", "compile"]

DTYPE_BYTES: dict[DType, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
PASSES: tuple[Pass, ...] = get_args(Pass)
SCOPES: tuple[Scope, ...] = get_args(Scope)
EXECUTIONS: tuple[str, ...] = get_args(Execution)


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"pass_": "pass"}):
    """Shape x Traffic x dtype x pass x scope x execution x device.

    ``pass`` is ``forward`` (no gradients) or ``training`` (forward and backward). In scope ``experts`` the routing is
    given and only the routed experts run; in scope ``layer`` the router and the shared experts run inside the time.
    Device ``cuda`` is stored as ``cuda:0``.
    """

    shape: Shape
    traffic: Traffic
    dtype: DType = "bf16"
    pass_: Pass = "forward"
    scope: Scope = "experts"
    execution: Execution = "eager"
    device: str = "cpu"

    def __post_init__(self) -> None:
        require(self.dtype in DTYPE_BYTES, "dtype", self.dtype, "one of " + ", ".join(DTYPE_BYTES))
        require(self.pass_ in PASSES, "pass", self.pass_, "one of " + ", ".join(PASSES))
        require(self.scope in SCOPES, "scope", self.scope, "one of " + ", ".join(SCOPES))
        require(self.execution in EXECUTIONS, "execution", self.execution, "one of " + ", ".join(EXECUTIONS))
        kind, _, index = self.device.partition(":")
        named = kind == "cuda" and (index.isdigit() or self.device == "cuda")
        require(self.device == "cpu" or named, "device", self.device, "cpu, cuda or cuda:N")
        if self.device == "cuda":
            msgspec.structs.force_setattr(self, "device", "cuda:0")

    @property
    def case_id(self) -> str:
        """Content hash: equal for equal cases whatever they are called, different for any other difference.

        A trace counts by its content, wherever it lies.
        """
        shape = msgspec.structs.replace(self.shape, name="")
        nameless = msgspec.structs.replace(self, shape=shape, traffic=self.traffic.nameless)
        return hashlib.sha256(msgspec.json.encode(nameless, order="sorted")).hexdigest()[:12]

    @property
    def layer_key(self) -> str:
        """Equal for cases that run on the same weights, so that a worker can build them once.

        What chooses among the experts, and how many of them, leaves the weights as they are.
        """
        weights = msgspec.structs.replace(self.shape, name="", top_k=1, router=Router())
        built_from = (weights, self.dtype, self.device, self.traffic.seed)
        return hashlib.sha256(msgspec.json.encode(built_from, order="sorted")).hexdigest()[:12]

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element of weights and activations."""
        return DTYPE_BYTES[self.dtype]

    def label(self) -> str:
        """One line for people: the shape, the traffic, and whatever differs from the ordinary."""
        traffic = self.traffic
        ordinary = {"forward", "experts", "eager"}
        how: list[str] = [word for word in (self.pass_, self.scope, self.execution) if word not in ordinary]
        if traffic.seed:
            how.append(f"seed {traffic.seed}")
        recorded = traffic.replay.rows if traffic.replay else None
        short = f" ({recorded} rows, repeated)" if recorded is not None and recorded < traffic.tokens else ""
        what = [sizes_label(self.shape), f"T={traffic.tokens}", f"{traffic.label}{short}", self.dtype]
        return " ".join([*what, *peculiarities(self.shape), *how, self.device])


class PlannedCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A case to measure, and for which implementations; None stands for every one there is."""

    case: Case
    implementations: tuple[str, ...] | None = None
