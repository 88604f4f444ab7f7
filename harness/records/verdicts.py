"""The verdict: FASTER, SLOWER, SAME or AMBIGUOUS, always with an interval, never from a single case among many."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from scipy import stats

from harness.cases.shape import require
from harness.records.estimates import MIN_PROCESSES, MIN_ROUNDS

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
    is larger. ``p`` is two-sided, against a difference of ``delta``, and not below what the scatter of what is the same
    allows; ``why`` says in plain words what kept an AMBIGUOUS one from being more.
    """

    word: Word
    delta: float
    p: float = 1.0
    why: str = ""


@dataclass(frozen=True)
class Scatter:
    """What two of the same differ by, however long they are measured: processes of one code, windows of one meter.

    Differences beyond ``floor``, a log-ratio, come once in 20 times; ``freedom`` says from how many differences that is
    known, infinite where it is taken as known. ``remedy`` is what to do about it.
    """

    floor: float
    freedom: float = math.inf
    remedy: str = "measure longer"

    def chance(self, estimate: Estimate) -> float:
        """Two-sided chance that the same differs by as much as the end of the interval that is nearer to nothing."""
        nearer = max(estimate.low, -estimate.high)
        if nearer <= 0:
            return 1.0
        if not self.floor:
            return 0.0
        unit = self.floor / stats.t.isf(SIGNIFICANCE / 2, self.freedom)
        return float(2 * stats.t.sf(nearer / unit, self.freedom))


def parse_threshold(text: str) -> float:
    """Read ``2%`` or ``0.02`` as the share 0.02.

    Raises
    ------
    ValueError
        for anything but a share from 0 to below 1.
    """
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = math.nan
    require(0 <= share < 1, "--threshold", text, "a share such as 2% or 0.02, below 100%")
    return share


def delta_of(threshold: float, *floors: float | None) -> float:
    """Return the log-ratio that counts: the threshold, a share of the time, or the largest noise floor known."""
    return max([math.log1p(threshold), *(floor for floor in floors if floor is not None)])


def judge(estimate: Estimate | None, delta: float, scatter: Scatter | None = None) -> Verdict:
    """Say what an estimate of log(new time / base time) shows, against a difference of ``delta`` that counts.

    SLOWER when the whole interval is above +delta, FASTER when below -delta, SAME when it does not leave them, else
    AMBIGUOUS, which does not mean improved or regressed. ``scatter`` is of what the estimate's own interval does not
    know: a difference counts from its floor on, but nothing is the SAME for being below that.
    """
    counts = max(delta, scatter.floor) if scatter else delta
    if estimate is None:
        why = f"fewer than {MIN_ROUNDS} rounds, or {MIN_PROCESSES} processes where base and new had one each"
        return Verdict("AMBIGUOUS", counts, why=f"{why}; measure longer")
    p = min(1.0, 2 * min(estimate.p_above(counts), estimate.p_below(-counts)))
    if scatter:
        p = max(p, scatter.chance(estimate))
    if estimate.low > counts:
        return Verdict("SLOWER", counts, p)
    if estimate.high < -counts:
        return Verdict("FASTER", counts, p)
    if -delta <= estimate.low and estimate.high <= delta < math.inf:
        return Verdict("SAME", counts, p)
    return Verdict("AMBIGUOUS", counts, p, _undecided(estimate, delta, scatter))


def _undecided(estimate: Estimate, delta: float, scatter: Scatter | None) -> str:
    """Say which of the two limits kept an estimate from a verdict: ``delta`` or what the same differs by."""
    if scatter and max(estimate.low, -estimate.high) > delta:
        return f"a difference, but not surely larger than identical code shows; {scatter.remedy}"
    if scatter and delta < max(estimate.high, -estimate.low) <= scatter.floor:
        same = "the interval reaches over the threshold, or the noise of its bout, so not the SAME"
        return f"{same}; nor beyond what identical code shows, so no difference; {scatter.remedy}"
    return "the interval reaches over the difference that counts; measure longer"


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
            why = f"a difference on its own, not surely one among {len(verdicts)} comparisons; measure longer, or fewer"
            held[i] = replace(verdicts[i], word="AMBIGUOUS", why=why)
    return held
