"""The routers in which a token chooses its experts. Each is (T, E) logits -> Routing, before ``router.scale``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import one_hot, softplus

from harness.layer.contract import Routing
from harness.layer.routers.choice import choosing_scores, limit_to_groups, probabilities, top_k

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.shape import Shape

SUM_GUARD = 1e-20
"""Added to a sum of chosen scores before dividing by it, as DeepSeek-V3 does: sigmoids may all underflow."""


def scored(logits: Tensor, shape: Shape, selection_bias: Tensor | None) -> Routing:
    """Top-k of softmax or sigmoid scores, with optional groups, selection bias and renormalisation.

    Mixtral and Qwen3 (softmax, renormalised), OLMoE (softmax), DeepSeek-V2 (softmax, groups), DeepSeek-V3 (sigmoid,
    groups, bias, renormalised): the bias chooses, the unbiased score weighs.
    """
    router = shape.router
    choosing = choosing_scores(logits.detach(), router, selection_bias)
    ids = top_k(limit_to_groups(choosing, router), shape.top_k)
    weights = probabilities(logits, router).gather(1, ids)
    if router.renormalise:
        weights = weights / (weights.sum(-1, keepdim=True) + SUM_GUARD)
    return Routing(ids, weights)


def topk_softmax(logits: Tensor, k: int) -> Routing:
    """Top-k of the logits, softmax over the chosen k (gpt-oss); equals a renormalised softmax over all."""
    ids = top_k(logits, k)
    return Routing(ids, torch.softmax(logits.gather(1, ids), dim=-1))


def noisy_logits(logits: Tensor, noise_logits: Tensor, normal: Tensor) -> Tensor:
    """H = logits + normal * softplus(noise_logits), all (T, E): what ``noisy_topk`` chooses from and weighs by.

    ``noise_logits`` are a second learned projection of the token, ``normal`` is N(0, 1). Source: Shazeer 2017, eq. 4
    (arXiv 1701.06538).
    """
    return logits + normal * softplus(noise_logits)


def expert_capacity(tokens: int, shape: Shape) -> int:
    """Most tokens one expert serves under ``switch``: ceil(capacity_factor * T * k / E) (arXiv 2101.03961, eq. 3).

    Rounded to nine decimals before it is rounded up: 1.1 * 100 / 11 is 10, although floats say 10.000000000000002.
    """
    return math.ceil(round(shape.router.capacity_factor * tokens * shape.top_k / shape.experts, 9))


def switch(logits: Tensor, capacity: int) -> Routing:
    """Top-1 of the softmax; an expert serves the first ``capacity`` tokens that chose it, the others are dropped.

    The weight is the probability, not renormalised. Source: Switch Transformer (arXiv 2101.03961).
    """
    experts = logits.shape[-1]
    ids = top_k(logits, 1)
    weights = torch.softmax(logits, dim=-1).gather(1, ids)
    place_in_queue = one_hot(ids.squeeze(1), experts).cumsum(0).gather(1, ids)
    dropped = place_in_queue > capacity
    return Routing(ids.masked_fill(dropped, experts), weights.masked_fill(dropped, 0.0))


def mixture(logits: Tensor) -> Routing:
    """All E experts in the order of their ids, weighted by the softmax (Jacobs et al. 1991)."""
    tokens, experts = logits.shape
    ids = torch.arange(experts, device=logits.device).expand(tokens, experts).contiguous()
    return Routing(ids, torch.softmax(logits, dim=-1))
