"""Expert ids as a bout would have them: the one part of this room that needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.cases.replay import replayed
from harness.cases.shape import Shape
from harness.cases.traffic import Traffic
from harness.fitting.figures import Choices, choices_of
from harness.layer.routers import route
from harness.layer.traffic import make_logits, router_noise, selection_bias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.fitting.ensemble import Draw


def routed(shape: Shape, traffic: Traffic) -> Choices:
    """Route the tokens of a bout's first call in scope ``experts``, on the CPU, as one stretch of text.

    Of a recorded trace as many rows as there are tokens are taken, in the order of the text.
    """
    if traffic.replay:
        rows = replayed(traffic.spread).select(tokens=traffic.tokens)
        return choices_of(rows.take(np.lexsort((rows.position, rows.request))))
    logits = make_logits(shape, traffic, draw=0)
    bias, noise = selection_bias(shape, traffic.seed, "cpu"), router_noise(shape, traffic, 0, "cpu")
    ids = route(logits, shape, selection_bias=bias, noise=noise).expert_ids.numpy()
    return Choices(ids, shape.experts, np.zeros(len(ids), dtype=np.int64))


def drawing(tokens: int, experts: int, top_k: int) -> Draw:
    """Return a function that draws a generator's ids (T, k) for a plain top-k router: softmax keeps the order."""
    shape = Shape(hidden=1, expert_hidden=1, experts=experts, top_k=top_k)

    def draw(spread: str, seed: int) -> NDArray[np.int64]:
        logits = make_logits(shape, Traffic(tokens=tokens, spread=spread, seed=seed), draw=0)
        return np.asarray(logits.topk(top_k, dim=1).indices.numpy())

    return draw
