"""Replayed traffic: the experts that a recorded trace chose, as routing and as logits that lead a router to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.cases.replay import replayed
from harness.layer.contract import Routing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from harness.cases.shape import Shape
    from harness.cases.traffic import Traffic
    from harness.traces.format import Trace

REPLAY = 6
"""What a random stream is for; keeps it apart from those of ``harness.layer.traffic``."""
HOT_OFFSET, NOISE_BOUND = 4.0, 2.0
"""Imposed experts get +4 and the others -4: a sigmoid still resolves both in float32, as it would not 0 and 8. What is
added stays within +-2: a group of experts with a hot one then always beats a group without."""
BIASED_BOUND = 0.5
"""Keeps the least of k chosen probabilities above 0.36 / E, out of reach of a bias of at most 0.1 / E."""
LEAST_WEIGHT = 1e-9


def replayed_rows(traffic: Traffic, draw: int) -> Trace:
    """Return the T rows of a draw.

    The chosen rows are cut into windows of T one after another, from an offset that follows from the seed, and draws
    go through them in an order that follows from the seed: as many draws differ as there are windows. With fewer rows
    than T, rows are repeated in a circle, and each draw begins where the one before ended.
    """
    rows = replayed(traffic.spread)
    return rows.take(window(len(rows), traffic.tokens, traffic.seed, draw))


def window(rows: int, tokens: int, seed: int, draw: int) -> NDArray[np.intp]:
    """Which of the rows a draw replays: (T,)."""
    if tokens > rows:
        return (np.arange(tokens) + draw * tokens) % rows
    windows = rows // max(1, tokens)
    rng = np.random.default_rng([seed, 0, REPLAY])
    offset = int(rng.integers(rows - windows * tokens + 1))
    start = offset + tokens * int(rng.permutation(windows)[draw % windows])
    return np.arange(start, start + tokens)


def replayed_routing(traffic: Traffic, draw: int, logits: Tensor) -> Routing:
    """Return the recorded routing itself: ids (T, k) and weights (T, k) to the bit, in the recorded order.

    Where the trace has no weights, they are the softmax over the k chosen of their ``logits`` (T, E), of sum 1.
    """
    ids, weights = _recorded(traffic, draw, logits.device)
    return Routing(ids, torch.softmax(logits.gather(1, ids), dim=-1) if weights is None else weights)


def replayed_logits(shape: Shape, traffic: Traffic, draw: int, noise: Tensor) -> Tensor:
    """Make logits (T, E) whose top k are the recorded experts; ``noise`` (T, E) is within +-2.

    Chosen experts have 4 plus the log of their recorded weight over the geometric mean of their token's weights, kept
    within +-2 (+-0.5 where a softmax router adds a bias to choose); the others -4 plus noise. A softmax router so gives
    the chosen their recorded proportions as far as those bounds allow, and leaves little to any other; a sigmoid is
    near 1 for each of the chosen. Without recorded weights the chosen have 4 plus noise, in falling order.
    """
    ids, weights = _recorded(traffic, draw, noise.device)
    if weights is None:
        relative = noise.gather(1, ids).sort(dim=-1, descending=True).values
    else:
        logs = weights.clamp(min=LEAST_WEIGHT).log()
        relative = logs - logs.mean(dim=-1, keepdim=True)
    biased = shape.router.kind == "softmax" and shape.router.selection_bias
    bound = BIASED_BOUND if biased else NOISE_BOUND
    relative = relative.clamp(-bound, bound)
    return (noise - HOT_OFFSET).scatter(1, ids, HOT_OFFSET + relative)


def _recorded(traffic: Traffic, draw: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    rows = replayed_rows(traffic, draw)
    weights = None if rows.weights is None else torch.from_numpy(rows.weights).to(device)
    return torch.from_numpy(rows.ids.astype(np.int64)).to(device), weights
