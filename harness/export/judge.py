"""Two commits' asv results held against each other.

asv's own comparison looks at raw times. Those of two processes at two moments differ on a shared machine by more than
any regression worth finding, so here only what such a machine leaves alone is judged: time relative to the dense
baseline of the same bout, peak memory, and errors.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Literal

from harness.export.series import ERROR, PEAK_BYTES, RELATIVE_TIME
from harness.records import estimates
from harness.records.verdicts import Verdict, delta_of, hold, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from asv.results import Results

    from harness.records.estimates import Estimate

THRESHOLD = 0.03
"""Share of a time that is not worth a verdict."""
LEAST_BESIDE = 4
"""Implementations of a series from which on the median of the others is nobody's own."""
FEW = 3
"""Ambiguous ones that are named."""
EVERYBODY = "every implementation"
MORE_BYTES, MORE_ERROR = 1.03, 1.5
"""Factors from which on peak memory and error are worse. Neither is noisy: the same commit repeats them to the byte."""

Word = Literal["BROKEN", "SLOWER", "MORE MEMORY", "LESS EXACT", "AMBIGUOUS", "FASTER", "SAME", "GONE"]
WORSE: tuple[Word, ...] = ("SLOWER", "MORE MEMORY", "LESS EXACT")


@dataclass(frozen=True)
class Finding:
    """What became of one implementation in one series, in a word and in words.

    ``suspect`` are the ambiguous ones that look slower: worth measuring longer.
    """

    word: Word
    series: str
    implementation: str
    text: str = ""
    suspect: bool = False

    def __str__(self) -> str:
        return f"{self.word}: {self.implementation} in {self.series}{': ' if self.text else ''}{self.text}"


@dataclass(frozen=True)
class Pair:
    """One implementation in one series of both commits: the value (None: failed, NaN: skipped) and the samples."""

    series: str
    implementation: str
    base: float | None
    new: float | None
    base_samples: Sequence[float]
    new_samples: Sequence[float]

    @property
    def metric(self) -> str:
        """What the series shows."""
        return self.series.rpartition(".track_")[2]

    @property
    def both(self) -> bool:
        """Whether there is something to compare."""
        return _is_number(self.base) and _is_number(self.new)

    def finding(self, word: Word, text: str = "") -> Finding:
        """Say something of it."""
        return Finding(word, self.series, self.implementation, text)


def findings(base: Results, new: Results) -> list[Finding]:
    """Compare two commits' results; only what is in both, or worked in ``base`` and is not there any more."""
    pairs = list(read_pairs(base, new))
    found = [*_lost(pairs), *_exact(pairs), *_times([one for one in pairs if one.metric == RELATIVE_TIME.name])]
    return sorted(found, key=lambda one: (_ORDER.index(one.word), one.series, one.implementation))


_ORDER: tuple[Word, ...] = ("BROKEN", *WORSE, "AMBIGUOUS", "FASTER", "GONE", "SAME")


def read_pairs(base: Results, new: Results) -> Iterator[Pair]:
    """Lay the results of both side by side, as far as they are of the same version."""
    for series in sorted(set(base.get_all_result_keys()) & set(new.get_all_result_keys())):
        if base.benchmark_version[series] != new.benchmark_version[series]:
            continue
        params = _union(base.get_result_params(series), new.get_result_params(series))
        columns: list[list[Any]] = []
        for results in (base, new):
            columns.append(_with_absent(results, series, params))
            columns.append([samples or [] for samples in _samples(results, series, params)])
        for who, before, before_samples, after, after_samples in zip(params[0], *columns, strict=True):
            yield Pair(series, who.strip("'"), before, after, before_samples, after_samples)


def summary(found: Iterable[Finding]) -> str:
    """Count what was found, in one line."""
    counts = Counter(one.word for one in found)
    return ", ".join(f"{counts[word]} {word.lower()}" for word in _ORDER if counts[word]) or "nothing to compare"


def undecided(found: Iterable[Finding]) -> str:
    """Name the first of those that could not be told, and say what would decide; empty without any."""
    names = [f"{one.implementation} in {one.series}" for one in found if one.word == "AMBIGUOUS"]
    if not names:
        return ""
    rest = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    decided = "a quieter machine would decide, or more samples: `moebench compare --rev BASE --pairs 20`"
    return f"ambiguous, neither slower nor surely the same: {'; '.join(names[:FEW])}{rest}; {decided}"


def _lost(pairs: Iterable[Pair]) -> Iterator[Finding]:
    for pair in pairs:
        if _is_number(pair.base) and pair.new is None:
            yield pair.finding("BROKEN", "worked in BASE and failed in HEAD")
        elif _is_number(pair.base) and not _is_number(pair.new):
            yield pair.finding("GONE", "measured in BASE only: unsupported now, or of another version")


def _exact(pairs: Iterable[Pair]) -> Iterator[Finding]:
    """Compare figures that repeat: one number each."""
    rules: dict[str, tuple[float, Word]] = {
        PEAK_BYTES.name: (MORE_BYTES, "MORE MEMORY"),
        ERROR.name: (MORE_ERROR, "LESS EXACT"),
    }
    for pair in pairs:
        if pair.both and pair.metric in rules:
            assert pair.base is not None
            assert pair.new is not None
            factor, word = rules[pair.metric]
            yield pair.finding(word if pair.new > factor * pair.base else "SAME", f"{pair.base:g} -> {pair.new:g}")


def _times(pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Judge all relative times together, so that one among many is not taken for a finding."""
    by_series: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.both:
            by_series.setdefault(pair.series, []).append(pair)
    questions = [one for group in by_series.values() for one in _questions(group)]
    verdicts = hold([judge(one.estimate, delta_of(THRESHOLD)) for one in questions])
    for question, verdict in zip(questions, verdicts, strict=True):
        yield question.answer(verdict)


@dataclass(frozen=True)
class _Question:
    """A log-ratio to judge. ``plain`` is the same relative to dense alone, where ``estimate`` is relative to more."""

    series: str
    implementation: str
    estimate: Estimate | None
    beside: str
    plain: float | None = None

    def answer(self, verdict: Verdict) -> Finding:
        """Say what the verdict comes to. Nobody is slower for others being faster: beside dense it must show too."""
        word, why = verdict.word, verdict.why
        agrees = self.plain is None or abs(self.plain) > verdict.delta
        if word in {"SLOWER", "FASTER"} and not agrees:
            word, why = "AMBIGUOUS", "relative to dense it does not show"
        if self.estimate is None:
            return Finding(word, self.series, self.implementation, why)
        ratio, low, high = (math.exp(v) for v in (self.estimate.log_ratio, self.estimate.low, self.estimate.high))
        text = f"{ratio:.3f} times the time beside {self.beside} ({low:.3f} to {high:.3f})"
        suspect = word == "AMBIGUOUS" and agrees and self.estimate.log_ratio > verdict.delta
        return Finding(word, self.series, self.implementation, f"{text}{'; ' if why else ''}{why}", suspect)


def _questions(group: Sequence[Pair]) -> Iterator[_Question]:
    """Ask for each implementation of a series, relative to the others, and for all of them together.

    What else the machine does shifts everybody's time relative to dense in the same process alike, so the median of the
    others takes most of it away. That would hide what slows everybody down, which is asked for on its own. Where
    processes do not go in pairs, or there are too few others, each is asked for relative to dense.
    """
    shifts = {pair.implementation: _shifts(pair) for pair in group}
    processes = {len(one) for one in shifts.values()}
    if len(group) < LEAST_BESIDE or len(processes) > 1 or max(processes) < estimates.MIN_PROCESSES:
        for pair in group:
            yield _Question(pair.series, pair.implementation, estimate_of(pair.base_samples, pair.new_samples), "dense")
        return
    for pair in group:
        others = [values for who, values in shifts.items() if who != pair.implementation]
        own = shifts[pair.implementation]
        residual = [value - median(beside) for value, *beside in zip(own, *others, strict=True)]
        yield _Question(pair.series, pair.implementation, _of_processes(residual), "dense and the others", mean(own))
    everybody = [median(values) for values in zip(*shifts.values(), strict=True)]
    yield _Question(group[0].series, EVERYBODY, _of_processes(everybody), "dense, which may itself be faster")


def _shifts(pair: Pair) -> list[float]:
    """log(new / base) of each pair of processes; empty where they do not go in pairs."""
    if len(pair.base_samples) != len(pair.new_samples):
        return []
    return [math.log(new / base) for base, new in zip(pair.base_samples, pair.new_samples, strict=True)]


def _of_processes(values: Sequence[float]) -> Estimate | None:
    return estimates.paired({process: [value] for process, value in enumerate(values)})


def estimate_of(base: Sequence[float], new: Sequence[float]) -> Estimate | None:
    """Estimate log(new / base) from one relative time a process; None where there are too few processes.

    Equally many were measured in turns, the i-th of one beside the i-th of the other, and share the moment's noise.
    """
    if len(base) == len(new):
        return _of_processes([math.log(n / b) for b, n in zip(base, new, strict=True)])
    levels = [_of_processes([math.log(value) for value in side]) for side in (base, new)]
    return estimates.difference(levels[0], levels[1]) if levels[0] and levels[1] else None


def _union(first: list[list[str]], second: list[list[str]]) -> list[list[str]]:
    return [list(dict.fromkeys([*first[0], *second[0]]))]


def _with_absent(results: Results, series: str, params: list[list[str]]) -> list[float | None]:
    """Return values, NaN where the results know nothing of a parameter, which asv would give as None: failed."""
    known = results.get_result_params(series)[0]
    values = results.get_result_value(series, params)
    return [value if who in known else math.nan for who, value in zip(params[0], values, strict=True)]


def _samples(results: Results, series: str, params: list[list[str]]) -> list[list[float] | None]:
    found: list[list[float] | None] = results.get_result_samples(series, params)
    return found


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
