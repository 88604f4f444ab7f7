"""The shape of one MoE layer, and the router in front of it."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Activation = Literal["silu", "gelu", "relu", "clamped_swiglu"]
RouterKind = Literal["softmax", "topk_softmax", "sigmoid", "switch", "noisy_topk", "expert_choice", "mixture"]

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
ROUTER_KINDS: dict[RouterKind, str] = {
    "softmax": "softmax over all experts, then top-k; with groups, a group scores its best expert (DeepSeek-V2)",
    "topk_softmax": "top-k of the logits, then softmax over the chosen k (gpt-oss)",
    "sigmoid": "sigmoid scores and a selection bias; with groups, a group scores its two best (DeepSeek-V3)",
    "switch": "top-1 of the softmax with a capacity; overflowing tokens are dropped (Switch Transformer)",
    "noisy_topk": "top-k of logits plus learned Gaussian noise, then softmax over the chosen k (Shazeer 2017)",
    "expert_choice": "every expert takes its T*k/E best tokens (Zhou 2022)",
    "mixture": "every expert is weighted by the softmax, none is skipped (Jacobs 1991)",
}

MOST = 2**40
"""Of any size; a layer's bytes are products of several, and are reckoned in floating point."""


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise ``ValueError`` in the one form every bad input has: the key, what it was, what is allowed."""
    if not holds:
        raise ValueError(f"{key} = {value!r}: {allowed}")


class Router(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How logits (T, E) become expert ids and weights.

    ``renormalise`` divides the chosen weights by their sum; ``groups`` and ``top_groups`` limit the choice to the best
    groups of experts; ``scale`` multiplies the final weights; ``selection_bias`` adds a per-expert bias that chooses
    but does not weigh; ``capacity_factor`` bounds the tokens of one expert (``switch`` only) at
    ``ceil(capacity_factor * T * k / E)``.
    """

    kind: RouterKind = "softmax"
    renormalise: bool = False
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    selection_bias: bool = False
    capacity_factor: float = 1.25

    def __post_init__(self) -> None:
        require(self.kind in ROUTER_KINDS, "router", self.kind, "one of " + ", ".join(ROUTER_KINDS))
        require(self.groups >= 1, "groups", self.groups, "a whole number of at least 1")
        require(1 <= self.top_groups <= self.groups, "top_groups", self.top_groups, f"1 to groups = {self.groups}")
        require(self.scale > 0, "routed_scale", self.scale, "a number above 0")
        require(self.capacity_factor > 0, "capacity_factor", self.capacity_factor, "a number above 0")
        limited = self.kind in {"softmax", "sigmoid"}
        require(limited or self.groups == 1, "groups", self.groups, f"1 for router {self.kind!r}")
        bias_allowed = limited or not self.selection_bias
        require(bias_allowed, "selection_bias", self.selection_bias, f"false for router {self.kind!r}")


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One MoE layer: hidden H, expert hidden I, experts E, top-k k, and what the experts compute.

    A gated expert computes ``down @ (act(gate @ x) * (up @ x))`` from weights of ``3*H*I`` elements, a plain one
    ``down @ act(up @ x)`` from ``2*H*I``. ``name`` is a label (a preset's, say) and no part of a case's identity.
    """

    hidden: int
    expert_hidden: int
    experts: int
    top_k: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    shared_experts: int = 0
    shared_hidden: int = 0
    shared_gated: bool = False
    router: Router = Router()
    name: str = ""

    def __post_init__(self) -> None:
        for key in ("hidden", "expert_hidden", "experts", "top_k"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "a whole number of at least 1")
        for key in ("hidden", "expert_hidden", "experts", "shared_experts", "shared_hidden"):
            require(getattr(self, key) <= MOST, key, getattr(self, key), f"a whole number of at most {MOST}")
        require(self.top_k <= self.experts, "top_k", self.top_k, f"at most experts = {self.experts}")
        require(self.activation in ACTIVATIONS, "activation", self.activation, "one of " + ", ".join(ACTIVATIONS))
        clamped = self.activation == "clamped_swiglu"
        require(self.gated or not clamped, "gated", self.gated, "true when activation is clamped_swiglu")
        require(self.shared_experts >= 0, "shared_experts", self.shared_experts, "a whole number of at least 0")
        width_given = (self.shared_experts > 0) == (self.shared_hidden > 0)
        require(width_given, "shared_hidden", self.shared_hidden, "above 0 exactly when shared_experts is")
        self._check_router()

    def _check_router(self) -> None:
        router = self.router
        require(self.experts % router.groups == 0, "groups", router.groups, f"a divisor of experts = {self.experts}")
        reachable = self.experts // router.groups * router.top_groups
        require(self.top_k <= reachable, "top_groups", router.top_groups, f"enough groups for top_k = {self.top_k}")
        require(
            router.kind != "switch" or self.top_k == 1, "top_k", self.top_k, "1 for router 'switch', which is top-1"
        )

    @property
    def active_experts(self) -> int:
        """Experts that one token passes through: k, or all E under the dense mixture."""
        return self.experts if self.router.kind == "mixture" else self.top_k

    @property
    def shared_width(self) -> int:
        """Total width of all shared experts."""
        return self.shared_experts * self.shared_hidden

    @property
    def matrices(self) -> int:
        """Weight matrices of H x I elements in one expert: 3 when gated, 2 when plain."""
        return 3 if self.gated else 2

    @property
    def expert_params(self) -> int:
        """Weights of one routed expert, biases included."""
        biases = (2 if self.gated else 1) * self.expert_hidden + self.hidden
        return self.matrices * self.hidden * self.expert_hidden + (biases if self.bias else 0)

    @property
    def shared_params(self) -> int:
        """Weights of the shared experts and of their sigmoid gate."""
        return self.matrices * self.hidden * self.shared_width + (self.hidden if self.shared_gated else 0)

    @property
    def active_params(self) -> int:
        """Weights one token touches: its experts, the shared ones and the router."""
        return self.active_experts * self.expert_params + self.shared_params + self.hidden * self.experts

    @property
    def total_params(self) -> int:
        """All weights of the layer."""
        return self.experts * self.expert_params + self.shared_params + self.hidden * self.experts
