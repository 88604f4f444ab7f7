"""Rounds: who is timed when, and when it is enough.

Every round visits the contestants in a shuffled order with the same fresh inputs, each with a copy of its own.
Interleaving is what makes two medians comparable on a machine whose speed drifts: one block after another called
identical code different in a quarter of A/A trials, interleaved in one of a hundred.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness.records.stats import relative_half_width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.measure.clocks import Clock, Sample

Stopped = Literal["interval", "budget", "rounds"]


class Seen(Protocol):
    """Who is shown the last call's result of every sample, while nothing is being timed."""

    def __call__(self, entry: Entry, draw: int, inputs: Any, result: Any) -> None:  # noqa: ANN401 (rounds know no tensors)
        """Look at a result, with the number of the draw it is for and the inputs of the sample's calls."""
        ...


@dataclass(frozen=True)
class Rules:
    """When a bout has measured enough. Defaults by device: ``rules_for``.

    It stops when each entry's 95 % interval of the median is within ``half_width`` of it (and has ``min_measured_ns``
    behind it), when ``budget_ns`` is spent, or after ``max_rounds``; before ``min_rounds`` only when twice the budget
    is gone. Entries too slow for that many rounds sit some out, and get at least ``MIN_SAMPLES``.
    """

    min_rounds: int
    max_rounds: int
    half_width: float
    min_sample_ns: float
    min_measured_ns: float
    warmup_ns: float
    budget_ns: float


MIN_SAMPLES = 3
MAX_CALLS_PER_SAMPLE = 64


WARMUP_SHARE = 0.15
"""Of the budget, for all entries together."""


def rules_for(device: str, budget_ns: float, entries: int) -> Rules:
    """Rules of a device: more rounds and longer samples on a CPU, whose clock and neighbours are noisier."""
    warmup_ns = WARMUP_SHARE * budget_ns / entries
    if device == "cpu":
        return Rules(15, 200, 0.01, 1e6, 0.5e9, min(0.2e9, warmup_ns), budget_ns)
    return Rules(9, 400, 0.005, 0.2e6, 0.05e9, min(0.05e9, warmup_ns), budget_ns)


def _as_it_is(inputs: Any) -> Any:  # noqa: ANN401 (rounds know no tensors)
    return inputs


@dataclass
class Entry:
    """One line in the bout: a contestant, or the A/A control, which is a contestant entered a second time.

    ``owner`` is the implementation that runs; ``bind(inputs)`` gives the call to time; ``estimate_ns`` is the shortest
    time of one call so far, infinite before the first. ``lend(inputs)`` makes a round's inputs this entry's own.
    """

    name: str
    owner: str
    bind: Callable[[Any], Callable[[], Any]]
    estimate_ns: float = math.inf
    calls: int = 1
    stride: int = 1
    warmup_calls: int = 0
    warm: bool = True
    samples_ns: list[float] = field(default_factory=list)
    device_ns: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    lend: Callable[[Any], Any] = _as_it_is

    @property
    def cost_ns(self) -> float:
        """Time of one sample."""
        return self.estimate_ns * self.calls

    def take(self, number: int, inputs: Sequence[Any], clock: Clock) -> Sample:
        """Time this entry's calls of one round, one for each of the inputs."""
        calls = [self.bind(one) for one in inputs]
        clock.synchronise()
        sample = clock.time(calls)
        self.samples_ns.append(sample.wall_ns / len(calls))
        if sample.device_ns is not None:
            self.device_ns.append(sample.device_ns / len(calls))
        self.rounds.append(number)
        self.estimate_ns = min(self.estimate_ns, self.samples_ns[-1])
        return sample


def warm_up(entry: Entry, inputs: Sequence[Any], clock: Clock, rules: Rules) -> float:
    """Call an entry until its time stops falling; set its estimate and calls per sample; return nanoseconds spent.

    At least three calls and ``warmup_ns``, at most three times that; one whose fastest call is longer than
    ``warmup_ns`` is called once, since the gate has already run it several times. ``warm`` is False when the last five
    calls were still more than 5 % faster than the five before.
    """
    times: list[float] = []
    spent = 0.0
    while True:
        call = entry.bind(inputs[len(times) % len(inputs)])
        clock.synchronise()
        times.append(clock.time([call]).wall_ns)
        spent += times[-1]
        entry.estimate_ns = min(entry.estimate_ns, times[-1])
        enough = len(times) >= 3 and spent >= rules.warmup_ns
        if entry.estimate_ns > rules.warmup_ns or spent > 3 * rules.warmup_ns or (enough and not _still_falling(times)):
            break
    entry.warmup_calls = len(times)
    entry.warm = not _still_falling(times)
    entry.calls = calls_for(entry.estimate_ns, rules)
    return spent


def calls_for(call_ns: float, rules: Rules) -> int:
    """Return how many calls make up a sample that is long enough."""
    return max(1, min(MAX_CALLS_PER_SAMPLE, math.ceil(rules.min_sample_ns / max(1.0, call_ns))))


def _still_falling(times: Sequence[float]) -> bool:
    if len(times) < 10:
        return False
    before, last = sorted(times[-10:-5])[2], sorted(times[-5:])[2]
    return last < 0.95 * before


def set_pace(entries: Sequence[Entry], rules: Rules) -> None:
    """Let slow entries sit out rounds, so that one slow implementation does not leave the others without samples.

    When everybody together fits ``min_rounds`` into the budget nobody sits out. Otherwise each entry has an equal share
    of the budget, takes as many samples as fit into it (at least ``MIN_SAMPLES``), and spreads them over the rounds.
    The A/A control keeps its owner's pace: both must meet.
    """
    costs = {entry.owner: math.inf for entry in entries}
    for entry in entries:
        costs[entry.owner] = min(costs[entry.owner], entry.cost_ns)
    everybody_ns = sum(costs[entry.owner] for entry in entries)
    share_ns = rules.budget_ns / len(entries)
    for entry in entries:
        entry.stride = 1
        if everybody_ns * rules.min_rounds > rules.budget_ns:
            samples = max(MIN_SAMPLES, min(rules.min_rounds, int(share_ns / max(1.0, costs[entry.owner]))))
            entry.stride = rules.min_rounds // samples
    fastest = min(entry.stride for entry in entries)
    for entry in entries:  # somebody is due in every round
        entry.stride //= fastest


def run_rounds(
    entries: Sequence[Entry],
    draw: Callable[[int], Any],
    clock: Clock,
    rules: Rules,
    seed: int,
    note: Callable[[str, str], None],
    seen: Seen,
) -> tuple[Stopped, float]:
    """Time the entries round by round; return why it stopped and the nanoseconds spent inside the clock.

    ``draw(n)`` makes the n-th inputs; each is used in one round only. ``note(owner, stage)`` says what is about to
    happen. Entries that need fewer calls than others take the round's last inputs, so that all end with the same draw.
    """
    shuffler = random.Random(seed)  # noqa: S311 (order of visits, not a secret)
    start, spent, number, drawn = clock.now_ns(), 0.0, 0, 0
    while True:
        set_pace(entries, rules)  # again each time: a call that was slow once does not make an entry slow
        due = [entry for entry in entries if number % entry.stride == 0]
        fresh = [draw(drawn + i) for i in range(max(entry.calls for entry in due))]
        drawn += len(fresh)
        shuffler.shuffle(due)
        for entry in due:
            note(entry.owner, f"round {number}")
            inputs = [entry.lend(one) for one in fresh[-entry.calls :]]
            sample = entry.take(number, inputs, clock)
            spent += sample.wall_ns
            seen(entry, drawn - 1, inputs, sample.result)
            del sample  # gradients are as large as the layer: not held while the next one works
        number += 1
        if stopped := _enough(entries, number, clock.now_ns() - start, rules):
            return stopped, spent


def _enough(entries: Sequence[Entry], rounds: int, elapsed_ns: float, rules: Rules) -> Stopped | None:
    if any(len(entry.samples_ns) < MIN_SAMPLES for entry in entries):
        return None
    if rounds >= rules.max_rounds:
        return "rounds"
    patience = 1 if rounds >= rules.min_rounds else 2
    if elapsed_ns >= patience * rules.budget_ns:
        return "budget"
    if rounds < rules.min_rounds:
        return None
    return "interval" if all(_settled(entry, rules) for entry in entries) else None


def _settled(entry: Entry, rules: Rules) -> bool:
    measured = sum(entry.samples_ns) * entry.calls
    return measured >= rules.min_measured_ns and relative_half_width(entry.samples_ns) <= rules.half_width
