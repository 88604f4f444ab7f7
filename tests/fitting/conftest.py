"""Choices made by hand, and draws of generators that several tests share."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.fitting.draw import drawing
from harness.fitting.figures import Choices
from harness.fitting.fit import Fitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.fitting.ensemble import Draw
    from harness.fitting.results import Fit

TOKENS, EXPERTS, TOP_K = 1024, 64, 4
UNSEEN = 1_000_003
"""Added to the seed of whatever stands for a trace: no generator is fitted with such seeds."""


def one_stretch(ids: object, experts: int) -> Choices:
    array = np.asarray(ids, dtype=np.int64)
    return Choices(array, experts, np.zeros(len(array), dtype=np.int64))


@pytest.fixture(scope="session")
def draw() -> Draw:
    return drawing(TOKENS, EXPERTS, TOP_K)


@pytest.fixture(scope="session")
def fitter(draw: Draw) -> Fitter:
    return Fitter(draw, lambda _: None)


@pytest.fixture(scope="session")
def fitted(draw: Draw, fitter: Fitter) -> Callable[[str], Fit]:
    """Fit a trace that a generator made, with a seed that no fit uses."""

    @lru_cache
    def fit(spread: str) -> Fit:
        return fitter.fit(0, one_stretch(draw(spread, UNSEEN), EXPERTS))

    return fit
