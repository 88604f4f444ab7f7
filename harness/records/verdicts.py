"""The verdict: FASTER, SLOWER, SAME or AMBIGUOUS, always with an interval, never from a single case among many."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.estimates import Estimate

THRESHOLD = 0.02
"""Share of a time that is not worth a verdict, unless asked otherwise."""
SIGNIFICANCE = 0.05

Word = Literal["FASTER", "SLOWER", "SAME", "AMBIGUOUS"]
WORDS: tuple[str, ...] = get_args(Word)


@dataclass(frozen=True)
class Verdict:
    """What may be said of a log-ratio of times.

    ``delta`` is the difference that counts, as a log-ratio: the asked threshold, or the noise that was seen where that
    is larger. ``p`` is two-sided, against a difference of ``delta``; ``why`` says in plain words what kept an AMBIGUOUS
    one from being more.
    """

    word: Word
    delta: float
    p: float = 1.0
    why: str = ""


def delta_of(threshold: float, *floors: float | None) -> float:
    """Return the log-ratio that counts: the threshold, a share of the time, or the largest noise floor known."""
    return max([math.log1p(threshold), *(floor for floor in floors if floor is not None)])


def judge(estimate: Estimate | None, delta: float) -> Verdict:
    """Say what an estimate of log(new time / base time) shows, against a difference of ``delta`` that counts.

    SLOWER when the whole interval is above +delta, FASTER when below -delta, SAME when between them, else AMBIGUOUS,
    which does not mean improved or regressed.
    """
    if estimate is None:
        return Verdict("AMBIGUOUS", delta, why="too few rounds to say anything; measure longer")
    p = min(1.0, 2 * min(estimate.p_above(delta), estimate.p_below(-delta)))
    if estimate.low > delta:
        return Verdict("SLOWER", delta, p)
    if estimate.high < -delta:
        return Verdict("FASTER", delta, p)
    if estimate.low > -delta and estimate.high < delta:
        return Verdict("SAME", delta, p)
    return Verdict("AMBIGUOUS", delta, p, why="the interval reaches over the difference that counts; measure longer")


def hold(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Take back what would be expected by chance among so many: Holm's correction over FASTER and SLOWER.

    Sorted by p, the i-th of m must be below ``SIGNIFICANCE / (m - i)``; from the first that is not, all become
    AMBIGUOUS. Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = sorted(range(len(verdicts)), key=lambda i: verdicts[i].p)
    held, stands = list(verdicts), True
    for rank, i in enumerate(order):
        stands = stands and verdicts[i].p <= SIGNIFICANCE / (len(verdicts) - rank)
        if not stands and verdicts[i].word in {"FASTER", "SLOWER"}:
            why = f"{verdicts[i].word} on its own, not among {len(verdicts)} comparisons; measure longer, or fewer"
            held[i] = replace(verdicts[i], word="AMBIGUOUS", why=why)
    return held
