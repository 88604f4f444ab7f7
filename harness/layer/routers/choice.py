"""How experts are chosen: top-k with a rule for ties, and the limit to the best groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.shape import Router


def top_k(scores: Tensor, k: int) -> Tensor:
    """Take the k highest scores of the last dimension, best first, the lowest index first on a tie.

    (..., n) -> indices (..., k) int64. ``torch.topk`` leaves the order of equal values open, hence the stable sort.
    """
    order = torch.sort(scores.detach(), dim=-1, descending=True, stable=True).indices
    return order[..., :k].contiguous()


def probabilities(logits: Tensor, router: Router) -> Tensor:
    """Score of each expert for each token, (T, E): sigmoid for router ``sigmoid``, otherwise softmax over experts."""
    return torch.sigmoid(logits) if router.kind == "sigmoid" else torch.softmax(logits, dim=-1)


def choosing_scores(logits: Tensor, router: Router, selection_bias: Tensor | None) -> Tensor:
    """(T, E) scores whose order decides which experts a token takes.

    The logits themselves wherever probabilities have the same order, because probabilities tie where they underflow or
    saturate. Not so where a bias is added to them, or where two are summed to score a group.
    """
    if selection_bias is not None:
        return probabilities(logits, router) + selection_bias.to(logits.dtype)
    summed = router.kind == "sigmoid" and router.groups > 1
    return torch.sigmoid(logits) if summed else logits


def group_scores(scores: Tensor, router: Router) -> Tensor:
    """Score of each group of consecutive experts: (T, E) -> (T, groups).

    Its two best experts' sum under ``sigmoid`` (DeepSeek-V3, arXiv 2412.19437), its best expert under ``softmax``
    (DeepSeek-V2, arXiv 2405.04434).
    """
    size = scores.shape[-1] // router.groups
    best = min(2, size) if router.kind == "sigmoid" else 1
    return scores.reshape(len(scores), router.groups, size).topk(best, dim=-1).values.sum(-1)


def limit_to_groups(scores: Tensor, router: Router) -> Tensor:
    """Set the scores (T, E) of all but the ``top_groups`` best groups to -inf.

    Not to 0: a biased score may be negative, and a 0 from an excluded group would then win against it.
    """
    if router.top_groups == router.groups:
        return scores
    kept = top_k(group_scores(scores, router), router.top_groups)
    excluded = torch.ones(len(scores), router.groups, dtype=torch.bool, device=scores.device).scatter(1, kept, False)
    size = scores.shape[-1] // router.groups
    return scores.masked_fill(excluded.repeat_interleave(size, dim=-1), float("-inf"))
