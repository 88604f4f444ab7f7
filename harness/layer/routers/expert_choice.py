"""Expert choice: every expert takes its best tokens (Zhou et al. 2022, arXiv 2202.09368)."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.layer.contract import Routing
from harness.layer.routers.choice import top_k


def tokens_per_expert(tokens: int, experts: int, k: int) -> int:
    """How many tokens each expert takes: ceil(T * k / E), which is never above T."""
    return -(-tokens * k // experts)


def expert_choice(logits: Tensor, k: int) -> Routing:
    """Give each expert its ceil(T*k/E) tokens of highest softmax score; the weight is that score.

    logits (T, E) -> ids and weights (T, K), K the most experts any token got, at least 1. Finding K waits for the
    device. A token's experts come best first; its unused slots have id E and weight 0.
    """
    tokens, experts = logits.shape
    best = top_k(_token_scores(logits), tokens_per_expert(tokens, experts, k))
    taken = torch.zeros(experts, tokens, dtype=torch.bool, device=logits.device).scatter(1, best, True).T
    slots = int(taken.sum(1).max()) if tokens else 1
    ids = top_k(logits.masked_fill(~taken, float("-inf")), slots)
    empty = ~taken.gather(1, ids)
    weights = torch.softmax(logits, dim=-1).gather(1, ids)
    return Routing(ids.masked_fill(empty, experts), weights.masked_fill(empty, 0.0))


def expert_choice_margin(logits: Tensor, k: int) -> Tensor:
    """Distance of each token from the nearest expert's cut, in log-probability: (T, E) -> (T,).

    A token's cut at an expert that took it is the best score it left, at another the worst it took. Infinite where
    every expert takes every token.
    """
    tokens, experts = logits.shape
    count = tokens_per_expert(tokens, experts, k)
    scores = _token_scores(logits)
    if count >= tokens:
        return torch.full_like(scores[0], float("inf"))
    best = scores.topk(count + 1, dim=-1).values
    worst_taken, best_left = best[:, -2:-1], best[:, -1:]
    distance = torch.where(scores >= worst_taken, scores - best_left, worst_taken - scores)
    return distance.amin(0)


def _token_scores(logits: Tensor) -> Tensor:
    """(E, T) log of the softmax over experts: the order of the probabilities, without ties from underflow."""
    return torch.log_softmax(logits.detach(), dim=-1).T
