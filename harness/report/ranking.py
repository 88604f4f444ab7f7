"""Who wins a case. Ties are shared wins; what is not comparable is not ranked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.records.estimates import MIN_ROUNDS, paired
from harness.records.rounds import log_ratios
from harness.records.verdicts import judge
from harness.report.frame import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from harness.records.rounds import Samples
    from harness.report.frame import Row

MIN_DIFFERENCE = 0.005
"""A difference below this share never wins, however quiet the machine."""

MIN_SAMPLES = 3
"""With fewer samples there is next to no interval, and nothing can be told apart."""

MOST_NOISE = 0.10
"""From this share on that identical code differs by in a bout, a shared win says nothing about speed."""

BASELINE = "dense"
"""The family shown as the cost of sparsity and never ranked."""


@dataclass(frozen=True)
class Contender:
    """One implementation's median time, with the interval of that median, and its samples in the rounds of its bout."""

    name: str
    median_ns: float
    low_ns: float
    high_ns: float
    bout: str = ""
    samples: Samples = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """Outcome of one case. ``winners`` are the fastest and all tied with it, fastest first; empty if none was ranked.

    ``margin`` is how many times longer the fastest of the others took; None without a single winner or without others.
    ``ranked`` are all that took part. ``rounds`` is the fewest that any winner was timed in; ``noise_floor`` the
    log-ratio that times had to differ by.
    """

    winners: tuple[str, ...]
    ranked: tuple[str, ...]
    margin: float | None = None
    rounds: int = 0
    noise_floor: float = 0.0

    @property
    def few(self) -> bool:
        """Whether a win is shared for want of rounds."""
        return len(self.winners) > 1 and self.rounds < MIN_ROUNDS

    @property
    def noisy(self) -> bool:
        """Whether a win is shared where even identical code differed by much."""
        return len(self.winners) > 1 and self.noise_floor > math.log1p(MOST_NOISE)

    @property
    def winner(self) -> str | None:
        """The single winner, None for a tie or when nothing was ranked."""
        return self.winners[0] if len(self.winners) == 1 else None

    def apart(self, row: Row) -> bool:
        """Whether a time in order was not measured side by side with those ranked; the baseline never is ranked."""
        return row.family != BASELINE and row.impl not in self.ranked


def tied(a: Contender, b: Contender, noise_floor: float) -> bool:
    """Whether two times cannot be told apart by more than the noise floor.

    With enough rounds of one bout by the verdict on the two in the same rounds, as ``compare`` gives it. Otherwise when
    the intervals of their medians overlap, or the medians differ by no more than the floor. ``noise_floor`` is a
    log-ratio, see ``harness.records.stats.noise_floor``. Symmetric in ``a`` and ``b``.
    """
    apart = math.log(b.median_ns / a.median_ns)
    estimate = paired(log_ratios(a.samples, b.samples)) if a.bout and a.bout == b.bout else None
    if estimate is not None:
        return judge(estimate, noise_floor).word != ("SLOWER" if apart > 0 else "FASTER")
    overlap = a.low_ns <= b.high_ns and b.low_ns <= a.high_ns
    return overlap or abs(apart) <= noise_floor


def standing(contenders: Iterable[Contender], noise_floor: float) -> Standing:
    """Rank contenders that were measured side by side."""
    order = sorted(contenders, key=lambda contender: (contender.median_ns, contender.name))
    if not order:
        return Standing((), ())
    best = order[0]
    winners = [best, *(other for other in order[1:] if tied(best, other, noise_floor))]
    beaten = [other for other in order if other not in winners]
    margin = beaten[0].median_ns / best.median_ns if beaten and len(winners) == 1 else None
    rounds = min(len(winner.samples) for winner in winners)
    return Standing(tuple(c.name for c in winners), tuple(c.name for c in order), margin, rounds, noise_floor)


def rankable(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows may be ranked: status ok, agreed with the oracle, timed, and not the dense baseline."""
    timed = table["median_ns"] > 0
    return (table["status"] == "ok") & table["agreed"] & timed & (table["family"] != BASELINE)


def standings(table: pd.DataFrame) -> dict[tuple[str, str], Standing]:
    """Outcome of every (run, case_id) of a frame.

    Only records of one bout are compared, since only they were measured round by round beside each other. Where a case
    was measured in several bouts, the one with most contenders counts, of equals the last.
    """
    return {(str(run), str(case_id)): _of_case(part) for (run, case_id), part in table.groupby(["run", "case_id"])}


def _of_case(records: pd.DataFrame) -> Standing:
    fit = records[rankable(records)]
    if fit.empty:
        return Standing((), ())
    sizes = fit["bout"].value_counts(sort=False)
    bout = sizes[sizes == sizes.max()].index[-1]
    side_by_side = rows_of(records[records["bout"] == bout])
    return standing(map(contender, rows_of(fit[fit["bout"] == bout])), noise_floor_of(side_by_side))


def noise_floor_of(rows: Iterable[Row]) -> float:
    """Return the log-ratio that records measured side by side must differ by at least, to be told apart."""
    return max([MIN_DIFFERENCE, *(row.noise_floor for row in rows if math.isfinite(row.noise_floor))])


def contender(row: Row) -> Contender:
    """Make a contender of a record; with too few samples it could be anywhere."""
    known = row.samples >= MIN_SAMPLES and math.isfinite(row.low_ns) and math.isfinite(row.high_ns)
    low, high = (row.low_ns, row.high_ns) if known else (0.0, math.inf)
    return Contender(row.impl, row.median_ns, low, high, row.bout, row.taken)
