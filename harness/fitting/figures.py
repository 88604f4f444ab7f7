"""What a sequence of routed tokens looks like, one function a figure. Numpy only.

Notation: T tokens, E experts, k choices a token, c_i the tokens of expert i, q_i = c_i / T, A_ij the tokens that use
experts i and j both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from harness.layer import balance

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from harness.traces.format import Trace

Property = Literal["load", "bursts", "repeats", "co-activation"]
WINDOW_TOKENS = 256
"""Length of the windows in which load is looked at again: a batch of prefill, or decoding for a while."""
LATER = 16
"""How many tokens later a repeat is looked for besides the next one."""
SCARCE = 5.0
"""A pair that chance would bring together less often says nothing by itself."""


@dataclass(frozen=True)
class Choices:
    """Expert ids (T, k), best first, in the order of the text; E stands for a dropped slot.

    ``stretches`` (T,) numbers the unbroken stretch of text that each token is of: only tokens of one stretch follow one
    another.
    """

    ids: NDArray[np.int64]
    experts: int
    stretches: NDArray[np.int64]

    @cached_property
    def used(self) -> NDArray[np.float32]:
        """Which experts each token uses: (T, E) of 0 and 1."""
        marks = np.zeros((len(self.ids), self.experts + 1), dtype=np.float32)
        np.put_along_axis(marks, self.ids, 1.0, axis=1)
        return marks[:, : self.experts]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Tokens of each expert, c."""
        return np.bincount(self.ids.ravel(), minlength=self.experts + 1)[: self.experts]

    def followers(self, distance: int) -> NDArray[np.bool_]:
        """Which of the tokens ``distance`` .. T are of the stretch of the token that many places before them."""
        same: NDArray[np.bool_] = self.stretches[distance:] == self.stretches[: len(self.stretches) - distance]
        return same


def choices_of(trace: Trace) -> Choices:
    """Take the rows of one layer: heaviest expert first where weights are known, text broken where tokens are missing.

    Ids stay in their order where weights are not known: models give the best first.
    """
    ids = trace.ids.astype(np.int64)
    if trace.weights is not None:
        ids = np.take_along_axis(ids, np.argsort(-trace.weights, axis=1, kind="stable"), axis=1)
    follows = (np.diff(trace.request) == 0) & (np.diff(trace.position) == 1)
    breaks: NDArray[np.bool_] = np.append(np.zeros(min(1, len(ids)), dtype=bool), ~follows)
    return Choices(ids, trace.info.experts, np.cumsum(breaks))


class Figure(NamedTuple):
    """A figure: which property it is of, its words, and how it is computed (NaN where it is not defined).

    Only those that ``decide`` say whether a generator has the property: the others move with the load too. What
    ``counts`` is a whole number.
    """

    property: Property
    words: str
    compute: Callable[[Choices], float]
    decides: bool = True
    counts: bool = False


def load_curve(choices: Choices) -> NDArray[np.float64]:
    """Share of the slots that each expert takes, busiest first: (E,), sum 1."""
    counts = np.sort(choices.counts)[::-1].astype(np.float64)
    shares: NDArray[np.float64] = counts / max(1.0, counts.sum())
    return shares


def busiest_in_window(choices: Choices) -> float:
    """Max/mean in windows of 256 tokens one after another, the mean over windows; NaN below two windows.

    Above what the whole trace's load brings about by chance where topics come in bursts.
    """
    windows = len(choices.ids) // WINDOW_TOKENS
    if windows < 2:
        return math.nan
    used = choices.used[: windows * WINDOW_TOKENS].reshape(windows, WINDOW_TOKENS, -1)
    return float(np.mean([balance.max_over_mean(counts) for counts in used.sum(1)]))


def first_repeats(choices: Choices) -> float:
    """P(the next token's first choice is this one's); 1/E for independent tokens and equally likely experts.

    Source: Mixtral (arXiv 2401.04088), table 5.
    """
    first = choices.ids[:, 0]
    same = (first[1:] == first[:-1]) & (first[1:] < choices.experts)
    return _mean(same[choices.followers(1)])


def any_repeats(choices: Choices) -> float:
    """P(two consecutive tokens share any expert)."""
    return _mean(_shared(choices, 1) > 0)


def first_excess(choices: Choices) -> float:
    """``first_repeats`` over what it would be for the same first choices in any order, sum f_i^2: 1 without memory."""
    first = np.bincount(choices.ids[:, 0], minlength=choices.experts + 1)[: choices.experts]
    by_load = float(((first / max(1, len(choices.ids))) ** 2).sum())
    return first_repeats(choices) / by_load if by_load else math.nan


def shared_excess(choices: Choices, distance: int = 1) -> float:
    """Experts that a token shares with the one so many places later, over what load brings about: 1 without memory.

    Independent tokens share sum q_i^2 experts on average.
    """
    by_load = float(((choices.counts / max(1, len(choices.ids))) ** 2).sum())
    return _mean(_shared(choices, distance)) / by_load if by_load else math.nan


def lift_scatter(choices: Choices) -> float:
    """How far pairs of experts are from meeting as their load alone would have it: 0 where all do.

    The lift of a pair is A_ij * T / (c_i c_j), here over the mean lift, which is below 1 because no token takes an
    expert twice. This is the root mean square of (lift - 1) over pairs, each weighted by the tokens that chance would
    bring together. Small counts scatter by themselves: compare it with independent tokens as many.
    """
    lift, expected = _lifts(choices)
    total = float(expected.sum())
    return math.sqrt(float((expected * (lift - 1) ** 2).sum()) / total) if total else math.nan


def closest_lift(choices: Choices) -> float:
    """Lift, over the mean lift, that one pair in a hundred exceeds, among pairs that chance brings together often."""
    lift, expected = _lifts(choices)
    often = lift[expected >= SCARCE]
    return float(np.quantile(often, 0.99)) if len(often) else math.nan


FIGURES: dict[str, Figure] = {
    "max_over_mean": Figure("load", "busiest over mean", lambda c: balance.max_over_mean(c.counts)),
    "max_vio": Figure("load", "MaxVio", lambda c: balance.max_vio(c.counts), decides=False),
    "cv2": Figure("load", "CV2", lambda c: balance.cv2(c.counts)),
    "normalised_entropy": Figure("load", "entropy / ln E", lambda c: balance.normalised_entropy(c.counts)),
    "gini": Figure("load", "Gini", lambda c: balance.gini(c.counts)),
    "dead_experts": Figure("load", "dead experts", lambda c: float(balance.dead_experts(c.counts)), counts=True),
    "window_max_over_mean": Figure("bursts", f"busiest, each {WINDOW_TOKENS} tokens", busiest_in_window),
    "first_repeats": Figure("repeats", "first choice repeats", first_repeats, decides=False),
    "any_repeats": Figure("repeats", "any choice repeats", any_repeats, decides=False),
    "first_excess": Figure("repeats", "first repeats over load", first_excess),
    "shared_excess": Figure("repeats", "shared next over load", shared_excess),
    "later_excess": Figure("repeats", f"shared {LATER} on over load", lambda c: shared_excess(c, LATER)),
    "lift_scatter": Figure("co-activation", "scatter of pair lifts", lift_scatter),
    "closest_lift": Figure("co-activation", "lift of closest 1 %", closest_lift),
}
"""Every figure, in the order in which they are shown."""


def all_figures(choices: Choices) -> dict[str, float]:
    """Compute every figure."""
    return {name: figure.compute(choices) for name, figure in FIGURES.items()}


def _shared(choices: Choices, distance: int) -> NDArray[np.float64]:
    """How many experts a token shares with the one ``distance`` places before it, where both are of one stretch."""
    if len(choices.ids) <= distance:
        return np.zeros(0)
    shared: NDArray[np.float64] = np.einsum("te,te->t", choices.used[distance:], choices.used[:-distance])
    return shared[choices.followers(distance)]


def _lifts(choices: Choices) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lift over the mean lift, and the expected tokens, of every pair of experts that has any."""
    together = (choices.used.T @ choices.used).astype(np.float64)
    c = choices.counts.astype(np.float64)
    pairs = np.triu_indices(len(c), 1)
    met, expected = together[pairs], np.outer(c, c)[pairs]
    if not met.sum():
        return np.zeros(0), np.zeros(0)
    expected = expected[expected > 0] * met.sum() / expected.sum()
    return met[np.outer(c, c)[pairs] > 0] / expected, expected


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
