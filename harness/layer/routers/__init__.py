"""Routers: logits (T, E) become expert ids and weights.

One function a kind in ``kinds`` and ``expert_choice``; how experts are chosen, ties included, in ``choice``; how close
a choice was in ``margin``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.cases.shape import require
from harness.layer.contract import Routing
from harness.layer.routers.expert_choice import expert_choice
from harness.layer.routers.kinds import expert_capacity, mixture, noisy_logits, scored, switch, topk_softmax
from harness.layer.routers.margin import routing_margin

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.shape import Shape

__all__ = ["expert_capacity", "noisy_logits", "route", "routing_margin", "switch"]


def route(
    logits: Tensor, shape: Shape, *, selection_bias: Tensor | None = None, noise: Tensor | None = None
) -> Routing:
    """Choose and weigh every token's experts as ``shape.router`` says.

    Everything is computed in the dtype of ``logits``, which should be at least float32. Gradients flow from the weights
    to the logits. Equal scores go to the lowest expert id; under expert choice, to the lowest token.

    Parameters
    ----------
    logits
        (T, E), the router's output. T may be 0.
    shape
        Its ``router``, ``experts`` and ``top_k`` are read.
    selection_bias
        (E,), added to the scores to choose but not to weigh. None stands for zeros.
    noise
        (T, E), already scaled (see ``noisy_logits``), added to the logits of ``noisy_topk``. None stands for zeros, as
        at inference.

    Returns
    -------
    Routing
        Ids (T, K) int64, best first (under ``mixture`` in ascending order), and weights (T, K) in the dtype of the
        logits. K is k, E under ``mixture``, and under ``expert_choice`` the most experts any token got (at least 1). A
        slot without an expert has id E and weight 0.

    Raises
    ------
    ValueError
        when the logits are not (T, E), or a bias or noise is given to a router that has none.
    """
    router = shape.router
    expected = f"(tokens, experts = {shape.experts})"
    require(logits.ndim == 2 and logits.shape[-1] == shape.experts, "logits", tuple(logits.shape), expected)
    biased = selection_bias is not None
    require(router.selection_bias or not biased, "selection_bias", biased, "None for a router without one")
    noisy = noise is not None
    require(router.kind == "noisy_topk" or not noisy, "noise", noisy, f"None for router {router.kind!r}")
    routing = _route(logits, shape, selection_bias, noise)
    return Routing(routing.expert_ids, routing.weights * router.scale)


def _route(logits: Tensor, shape: Shape, selection_bias: Tensor | None, noise: Tensor | None) -> Routing:
    match shape.router.kind:
        case "softmax" | "sigmoid":
            return scored(logits, shape, selection_bias)
        case "topk_softmax":
            return topk_softmax(logits, shape.top_k)
        case "noisy_topk":
            return topk_softmax(logits if noise is None else logits + noise.to(logits.dtype), shape.top_k)
        case "switch":
            return switch(logits, expert_capacity(len(logits), shape))
        case "expert_choice":
            return expert_choice(logits, shape.top_k)
        case "mixture":
            return mixture(logits)
