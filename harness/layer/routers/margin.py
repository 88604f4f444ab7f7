"""How close a choice of experts was, to tell the tokens whose routing rounding may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.layer.routers.choice import choosing_scores, group_scores, limit_to_groups
from harness.layer.routers.expert_choice import expert_choice_margin

if TYPE_CHECKING:
    from torch import Tensor

    from harness.cases.shape import Shape


def routing_margin(logits: Tensor, shape: Shape, *, selection_bias: Tensor | None = None) -> Tensor:
    """Distance between the k-th and the (k+1)-th choosing score of each token: (T, E) -> (T,), inf without alternative.

    With groups, the smaller of that and the distance between the last group kept and the first one left. For
    ``noisy_topk`` give the logits with their noise. The unit is the choosing score's: a logit, except that it is a
    probability where a selection bias is added to it or sigmoids are summed over a group, and a log-probability under
    ``expert_choice``. Moving every logit by at most d changes no choice where the margin is above 2d (4d under
    ``expert_choice``).

    Under ``switch`` a token near its margin may also push a later token over an expert's capacity, or save it: that
    later token is not marked.
    """
    if shape.router.kind == "mixture":
        return logits.new_full((len(logits),), float("inf"))
    if shape.router.kind == "expert_choice":
        return expert_choice_margin(logits, shape.top_k)
    scores = choosing_scores(logits.detach(), shape.router, selection_bias)
    between_groups = _gap(group_scores(scores, shape.router), shape.router.top_groups)
    between_experts = _gap(limit_to_groups(scores, shape.router), shape.top_k)
    return torch.minimum(between_groups, between_experts)


def _gap(scores: Tensor, k: int) -> Tensor:
    """k-th minus (k+1)-th highest of the last dimension, inf where there are only k: (T, n) -> (T,)."""
    if k == scores.shape[-1]:
        return scores.new_full((len(scores),), float("inf"))
    last_taken, first_left = scores.topk(k + 1, dim=-1).values[:, -2:].unbind(-1)
    return last_taken - first_left
