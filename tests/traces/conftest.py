"""Traces of random routing, and the parts a trace file is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from harness.traces.format import Trace, TraceInfo
from harness.traces.writing import make_trace

if TYPE_CHECKING:
    from collections.abc import Callable


def random_trace(
    experts: int = 8,
    top_k: int = 2,
    layers: tuple[int, ...] = (0, 3),
    prompts: tuple[int, ...] = (5, 3),
    decoded: int = 4,
    *,
    weighed: bool = True,
    seed: int = 0,
) -> Trace:
    """A trace with every phase: ``prompts`` are their lengths, and ``decoded`` tokens follow each."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {name: [] for name in ("layer", "request", "position", "phase")}
    for layer in layers:
        for request, length in enumerate(prompts):
            for position in range(length + decoded):
                for name, value in zip(rows, (layer, request, position, position >= length), strict=True):
                    rows[name].append(int(value))
    count = len(rows["layer"])
    ids = rng.random((count, experts)).argsort(axis=1)[:, :top_k]
    weights = rng.random((count, top_k)) if weighed else None
    return make_trace(TraceInfo(model="random", experts=experts, top_k=top_k), ids=ids, weights=weights, **rows)


@pytest.fixture
def make() -> Callable[..., Trace]:
    return random_trace
