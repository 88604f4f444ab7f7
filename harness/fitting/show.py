"""What a traffic looks like, beside uniform traffic of as many tokens: evenness has a floor, and so has chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from harness.fitting.draw import routed
from harness.fitting.ensemble import ranges
from harness.fitting.figures import Choices, all_figures
from harness.fitting.results import Shown

if TYPE_CHECKING:
    from harness.cases.shape import Shape
    from harness.cases.traffic import Traffic

CHANCE_SEEDS = 20


def show(shape: Shape, traffic: Traffic) -> Shown:
    """Route a traffic's tokens, and those of uniform traffic with 20 seeds, through the shape's router."""
    choices = routed(shape, traffic)
    uniform = msgspec.structs.replace(traffic, spread="uniform")
    even = [routed(shape, msgspec.structs.replace(uniform, seed=seed)) for seed in range(CHANCE_SEEDS)]
    chance = [Choices(one.ids, shape.experts, choices.stretches) for one in even]
    curves = np.array([np.sort(one.counts)[::-1] for one in chance])
    return Shown(
        tokens=len(choices.ids),
        experts=shape.experts,
        top_k=shape.top_k,
        histogram=choices.counts.tolist(),
        figures={name: value if math.isfinite(value) else None for name, value in all_figures(choices).items()},
        chance=ranges([all_figures(one) for one in chance]),
        chance_curve=curves.mean(0).tolist(),
        seeds=CHANCE_SEEDS,
    )
