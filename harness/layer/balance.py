"""How tokens spread over experts: one pure function a figure, and ``balance``, which fills in a record's ``Balance``.

Notation: T tokens, E experts, k experts a token, c the tokens of each expert (any sequence of E counts), m = mean of c,
p = c / sum of c. Where nothing was routed a figure has its balanced value: there is no imbalance without tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from harness.records.record import Balance

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from harness.cases.shape import Shape
    from harness.layer.contract import Routing


def balance(routing: Routing, shape: Shape, *, tile_rows: int = 128) -> Balance:
    """Compute all figures of one call's routing. Waits for the device.

    ``drop_rate`` is the share of the T*k slots (T*E under ``mixture``) that reached no expert. Padding slots of expert
    choice are no slots in this sense; there ``tokens_per_expert_choice`` says how many tokens got 0, 1, 2, ... experts.
    The floors are those of independent uniform choices; expert choice is balanced by construction and has 1 and 0.
    """
    counts = histogram(routing.expert_ids, shape.experts)
    tokens, chosen = len(routing.expert_ids), shape.router.kind == "expert_choice"
    per_expert = 0.0 if chosen else _mean(counts)
    return Balance(
        histogram=counts,
        max_over_mean=max_over_mean(counts),
        max_vio=max_vio(counts),
        cv2=cv2(counts),
        normalised_entropy=normalised_entropy(counts),
        gini=gini(counts),
        distinct_experts=distinct_experts(counts),
        dead_experts=dead_experts(counts),
        drop_rate=drop_rate(counts, tokens * shape.active_experts),
        tile_rows=tile_rows,
        tile_padding=tile_padding(counts, tile_rows),
        max_over_mean_floor=max_over_mean_floor(per_expert, shape.experts, shape.active_experts),
        cv2_floor=cv2_floor(per_expert, shape.experts, shape.active_experts),
        tokens_per_expert_choice=experts_per_token(routing.expert_ids, shape.experts) if chosen else None,
    )


def histogram(expert_ids: Tensor, experts: int) -> list[int]:
    """Tokens of each expert, c; slots with id E hold none. (T, K) -> E counts."""
    counts: list[int] = expert_ids.flatten().bincount(minlength=experts + 1)[:experts].tolist()
    return counts


def experts_per_token(expert_ids: Tensor, experts: int) -> list[int]:
    """How many tokens got 0, 1, 2, ... experts: (T, K) -> K + 1 counts. The first is the number of tokens left out."""
    got = (expert_ids < experts).sum(1)
    counts: list[int] = got.bincount(minlength=expert_ids.shape[1] + 1).tolist()
    return counts


def max_over_mean(counts: ArrayLike) -> float:
    """Max c / m: 1 to E, balanced 1. Source: MaxOverload in tensor2tensor's expert_utils."""
    c = _counts(counts)
    return float(c.max() / c.mean()) if c.sum() else 1.0


def max_vio(counts: ArrayLike) -> float:
    """MaxVio = max c / m - 1: balanced 0. Source: arXiv 2408.15664, eq. 4, here of one batch."""
    return max_over_mean(counts) - 1.0


def cv2(counts: ArrayLike) -> float:
    """Squared coefficient of variation, population variance(c) / m^2: balanced 0. Source: Shazeer 2017, eq. 7."""
    c = _counts(counts)
    return float(c.var() / c.mean() ** 2) if c.sum() else 0.0


def entropy(counts: ArrayLike) -> float:
    """Entropy of p in nats, -sum p ln p: 0 to ln E, balanced ln E (Shannon)."""
    c = _counts(counts)
    if not c.sum():
        return math.log(len(c))
    p = c[c > 0] / c.sum()
    return max(0.0, -float((p * np.log(p)).sum()))


def normalised_entropy(counts: ArrayLike) -> float:
    """Entropy of p divided by ln E: 0 to 1, balanced 1."""
    experts = len(_counts(counts))
    return min(1.0, entropy(counts) / math.log(experts)) if experts > 1 else 1.0


def gini(counts: ArrayLike) -> float:
    """Gini coefficient, sum_i (2i - E - 1) c_(i) / (E * sum c), c ascending, i from 1: balanced 0, below 1."""
    c = np.sort(_counts(counts))
    weights = 2.0 * np.arange(1, len(c) + 1) - len(c) - 1
    return float((weights * c).sum() / (len(c) * c.sum())) if c.sum() else 0.0


def distinct_experts(counts: ArrayLike) -> int:
    """D, the number of experts that got any token: the weights that must be read."""
    return int(np.count_nonzero(_counts(counts)))


def dead_experts(counts: ArrayLike) -> int:
    """Experts that got no token, E - D."""
    return len(_counts(counts)) - distinct_experts(counts)


def drop_rate(counts: ArrayLike, slots: int) -> float:
    """Share of the slots that tokens asked for and that reached no expert: 1 - sum c / slots, at least 0.

    With c counted after dropping this is sum max(0, wanted - capacity) / (T*k).
    """
    return max(0.0, 1.0 - float(_counts(counts).sum()) / slots) if slots else 0.0


def tile_padding(counts: ArrayLike, rows: int) -> float:
    """Share of rows that are padding when each expert's tokens fill tiles: 1 - sum c / sum ceil(c / rows) * rows."""
    c = _counts(counts)
    padded = float((np.ceil(c / rows) * rows).sum())
    return 1.0 - float(c.sum()) / padded if padded else 0.0


def max_over_mean_floor(per_expert: float, experts: int, k: int) -> float:
    """Estimate max / mean of uniform routing with m tokens an expert: 1 + sqrt(2 ln E * (1 - k/E) / m).

    The usual bound on the largest of E normals of variance m (1 - k/E); 1 to 2 % above simulation where m > 100.
    """
    if not per_expert:
        return 1.0
    return 1.0 + math.sqrt(2.0 * math.log(experts) * (1.0 - k / experts) / per_expert)


def cv2_floor(per_expert: float, experts: int, k: int) -> float:
    """Estimate CV^2 of uniform routing with m tokens an expert: (1 - k/E) / m, the binomial variance over m^2."""
    return (1.0 - k / experts) / per_expert if per_expert else 0.0


def _counts(counts: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(counts, dtype=np.float64)


def _mean(counts: ArrayLike) -> float:
    return float(_counts(counts).mean())
