"""What a case must cost at least: FLOPs, bytes, the time they take, and the memory a bout needs.

Symbols: T tokens, H hidden, I expert hidden, I_sh total shared width, E experts, k per token, D distinct experts hit,
m matrices of an expert (3 gated, 2 plain), s bytes per element. Nothing here is measured: D and the number of routed
slots are counted by whoever routed the tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from harness.cases.case import Case
    from harness.cases.shape import Shape

ROUTER_BYTES = 4
"""The router matrix is float32 whatever the layer's dtype: 16-bit logits flip choices."""
ROUTING_BYTES = 8 + 4
"""One slot of a Routing: an int64 id and a float32 weight."""
FLOAT64_BYTES = 8

Bound = Literal["bandwidth", "compute"]


class Floor(NamedTuple):
    """The least time some work can take, and which side of the roofline decides."""

    time_ns: float
    bound: Bound


def useful_flops(case: Case, routed_slots: float, *, has_router: bool = True) -> float:
    """FLOPs that the result depends on; ``routed_slots`` counts (token, expert) pairs, dropped ones left out.

    The dense baseline has no router.

    Forward, experts: 2*m*H*I a slot (6HI gated, 4HI plain). Scope ``layer`` adds the router 2*T*H*E, the shared experts
    2*m*T*H*I_sh and their gate 2*T*H. Training is three times that: each forward GEMM has two in the backward pass, one
    for its input and one for its weight. Padding, activations, biases and the weighted sum (2*T*k*H) are left out.
    """
    shape, tokens = case.shape, case.traffic.tokens
    flops = 2.0 * shape.matrices * shape.hidden * shape.expert_hidden * routed_slots
    if case.scope == "layer":
        flops += 2.0 * tokens * (shape.hidden * shape.experts * has_router + shape.shared_params)
    return 3 * flops if case.pass_ == "training" else flops


def min_bytes(case: Case, distinct_experts: float, *, has_router: bool = True) -> float:
    """Bytes that must cross the memory bus whatever the implementation, each tensor once.

    The dense baseline has no router.

    Forward: the weights of the D experts hit (D*m*H*I*s), x in and y out (2*T*H*s). Scope ``layer`` adds the shared
    experts and the router matrix. Training: the weights are read by the forward and again by the backward pass, the
    gradient of every weight is written once, for the experts not hit too (stacked parameters have one dense gradient),
    and five tensors of T*H move: x twice, y, dy and dx. Biases, the routing itself and intermediate activations, which
    a fused kernel keeps on chip, are left out: the bound stays a bound.
    """
    shape, tokens, size = case.shape, case.traffic.tokens, case.dtype_bytes
    expert = shape.matrices * shape.hidden * shape.expert_hidden * size
    hit, whole = distinct_experts * expert, shape.experts * expert
    activation = tokens * shape.hidden * size
    beside = 0
    if case.scope == "layer":
        beside = shape.shared_params * size + shape.experts * shape.hidden * ROUTER_BYTES * has_router
    if case.pass_ == "forward":
        return hit + beside + 2.0 * activation
    return 2.0 * (hit + beside) + (whole + beside) + 5.0 * activation


def floor(flops: float, moved_bytes: float, flops_per_second: float, bytes_per_second: float) -> Floor:
    """Roofline: work takes at least the longer of its arithmetic and its traffic, each at full speed."""
    compute_s, bandwidth_s = flops / flops_per_second, moved_bytes / bytes_per_second
    if compute_s > bandwidth_s:
        return Floor(compute_s * 1e9, "compute")
    return Floor(bandwidth_s * 1e9, "bandwidth")


def expected_distinct_experts(shape: Shape, tokens: int) -> float:
    """E[D] when every expert is equally likely: E * (1 - (1 - k/E)^T).

    Real routing hits fewer; results use the D of their own routing.
    """
    share = shape.active_experts / shape.experts
    return shape.experts * (1 - (1 - share) ** tokens)


def memory_estimate_bytes(case: Case) -> int:
    """Bytes a bout of this case holds at once at least, on the case's device.

    - weights: every expert, the shared ones, the router in float32;
    - inputs: x (and dy in training), and the routing;
    - answers: y (and in training every gradient) of the oracle (y and activation gradients float64, weight gradients
      float32 or wider), of the reference and of one implementation (the case's dtype);
    - and the larger of: the oracle's work on one expert in float64 (its weights and its share T*k/E of the tokens), or
      an implementation's ordinary workspace, T*k*(3I + 2H) elements (2I + 2H plain): gathered rows, projections,
      activation, outputs. Training doubles either: values and their gradients.

    Copies of the weights that an implementation prepares come on top; one that does not fit is an ``oom`` record.
    """
    shape, tokens, size = case.shape, case.traffic.tokens, case.dtype_bytes
    training = case.pass_ == "training"
    router = shape.hidden * shape.experts
    routed_and_shared = shape.total_params - router
    weights = routed_and_shared * size + router * ROUTER_BYTES
    row = shape.hidden * tokens
    slots = tokens * shape.active_experts
    inputs = row * size * (2 if training else 1) + slots * ROUTING_BYTES
    answers = row * (FLOAT64_BYTES + 2 * size) * (2 if training else 1)
    if training:
        oracle_gradient = FLOAT64_BYTES if case.dtype == "fp32" else 4
        answers += shape.total_params * (oracle_gradient + 2 * size)
    widths = shape.matrices * shape.expert_hidden + 2 * shape.hidden
    oracle = (shape.expert_params + -(-slots // shape.experts) * widths) * FLOAT64_BYTES
    workspace = slots * widths * size
    return weights + inputs + answers + max(oracle, workspace) * (2 if training else 1)
