"""The contract of an implementation: what it is given, what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.case import Case
    from harness.cases.shape import Shape
    from harness.records.record import Values
    from harness.records.tuned import TunedBook

FAMILIES = ("loop", "einsum", "batched", "grouped", "fused", "soft", "dense", "peer")
"""What an implementation may belong to. ``dense`` is the baseline and is never ranked among the others."""


@dataclass(frozen=True)
class Routing:
    """Where each token goes.

    ``expert_ids`` (T, K) int64 and ``weights`` (T, K) float32. K is the shape's top-k, except under expert choice (the
    most experts any token got) and the dense mixture (E). A dropped slot has id E and weight 0. Within a token no
    expert appears twice.
    """

    expert_ids: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Layer:
    """The routed experts' weights, in the layout of transformers v5, so that a real model's weights drop in.

    A gated layer has ``gate_up`` (E, 2I, H), gate rows before up rows, and ``up`` is None; a plain one has ``up``
    (E, I, H) and ``gate_up`` is None. ``down`` is (E, H, I). Biases are ``gate_up_bias`` (E, 2I) or ``up_bias`` (E, I),
    and ``down_bias`` (E, H), or None.
    """

    shape: Shape
    gate_up: Tensor | None
    up: Tensor | None
    down: Tensor
    gate_up_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    @property
    def proj_in(self) -> Tensor:
        """The first projection, gated or plain: (E, 2I or I, H)."""
        weight = self.gate_up if self.gate_up is not None else self.up
        assert weight is not None, "a layer has gate_up or up"
        return weight

    @property
    def proj_in_bias(self) -> Tensor | None:
        """The first projection's bias, (E, 2I or I), or None."""
        return self.gate_up_bias if self.gate_up is not None else self.up_bias

    def activate(self, hidden: Tensor) -> Tensor:
        """Apply the shape's activation to the first projection's output: (..., 2I or I) -> (..., I)."""
        from harness.layer.activations import activate

        return activate(hidden, self.shape.activation, gated=self.shape.gated)

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor of the layer by its field's name; None left out."""
        names = ("gate_up", "up", "down", "gate_up_bias", "up_bias", "down_bias")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}


Forward = Callable[["Tensor", Routing], "Tensor"]
"""x (T, H), Routing -> y (T, H), in x's dtype and on x's device.

A forward may have a method ``chosen(case) -> Chosen | None``, which says with which configuration it runs that case;
the record keeps it.
"""

Prepare = Callable[[Layer], Forward]
Unsupported = Callable[["Case"], "str | None"]


@dataclass(frozen=True)
class Tunable:
    """How an implementation lets ``moebench tune`` look for a faster configuration.

    ``candidates(case, base)`` returns what may be tried next: ``base`` itself first, by default what would run without
    any tuning, then its neighbours, those that promise most before the others, all of them valid.
    ``prepare(layer, values)`` gives a forward that runs with these values whatever was tuned. ``book`` is where the
    implementation looks up what was found.
    """

    candidates: Callable[[Case, Values | None], Sequence[Values]]
    prepare: Callable[[Layer, Values], Forward]
    book: TunedBook


@dataclass(frozen=True)
class Implementation:
    """A registered way to compute a case. ``prepare`` is called once a layer; what it returns is what is timed."""

    name: str
    family: str
    prepare: Prepare
    devices: tuple[str, ...]
    passes: tuple[str, ...]
    dtypes: tuple[str, ...]
    version: str
    summary: str
    source_hash: str
    origin: str
    unsupported_by: Unsupported | None = None
    tunable: Tunable | None = None
    note: str = ""
    untimed_by: Unsupported | None = None

    def unsupported(self, case: Case) -> str | None:
        """Why this case cannot run, or None. Asked before anything is built."""
        device = case.device.partition(":")[0]
        for word, known in ((device, self.devices), (case.pass_, self.passes), (case.dtype, self.dtypes)):
            if word not in known:
                return f"{self.name} does not do {word!r}, only {', '.join(known)}"
        return self.unsupported_by(case) if self.unsupported_by else None

    def untimed(self, case: Case) -> str | None:
        """Why this case may be checked but its time means nothing, or None. Asked before anybody is timed."""
        return self.untimed_by(case) if self.untimed_by else None
