"""Which timed answers are looked at again after the clock has stopped."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from harness.measure.contestant import Outputs


class Kept(NamedTuple):
    """A contestant's answer to one timed call: which draw it was asked, and its outputs when the clock stopped."""

    draw: int
    outputs: Outputs
    lot: float


class SpotCheck:
    """Keeps each contestant's answer of one round, every round it took part in equally likely.

    Each draw gets a lot, and the answer to the highest lot so far stays. Contestants that took part in the same rounds
    keep the same draw's answer: one oracle judges them all. An implementation that goes wrong in n of N rounds is
    caught with probability n/N, one that is wrong in all of them always.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 (which call is checked again, not a secret)
        self._draw, self._lot = -1, 0.0
        self.kept: dict[str, Kept] = {}

    def see(self, name: str, draw: int, outputs: Outputs) -> None:
        """Keep a copy of these outputs when their lot is the highest."""
        if draw != self._draw:
            self._draw, self._lot = draw, self._random.random()
        if name not in self.kept or self._lot > self.kept[name].lot:
            self.kept[name] = Kept(draw, {key: tensor.detach().clone() for key, tensor in outputs.items()}, self._lot)
