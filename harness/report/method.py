"""How the numbers were taken, read from the records themselves: one row a property, one column a run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.records.instability import disturbance, instability
from harness.report import units
from harness.report.escape import Markdown, escape
from harness.report.machines import by_run
from harness.report.notes import ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.records.record import Record, Timing
    from harness.records.store import Run

FLAGS = {
    "drift": "the last third of the samples was more than 5 % faster or slower than the first third",
    "warm-up did not settle": "calls were still getting faster when the rounds began",
    "throttled": "the GPU lowered its clock against heat or for want of power",
    "above measured ceiling": "faster than the measured ceilings allow, by less than what makes it `impossible`",
    "trace repeated": "the trace has fewer tokens than the case, so they were repeated",
}
"""The flags of a record, and what each says."""


def method_table(runs: Sequence[Run]) -> Markdown:
    """Clock, warm-up, rounds, noise floor, cache, flags, energy, effort, and how each run began."""
    return by_run(runs, [_asked(run) | _timed(run) | _checked(run.records) | _effort(run) for run in runs])


def _asked(run: Run) -> dict[str, str]:
    cases = {record.case_id for record in run.records}
    kept = f"{units.plural(len(run.records), 'record')} of {units.plural(len(cases), 'case')}"
    torn = f", {units.plural(run.torn_lines, 'torn line')} skipped" if run.torn_lines else ""
    asked = {"run": run.info.name, "suite": run.info.suite, "about": run.info.description, "kept": kept + torn}
    return asked | ({"left out": "; ".join(run.info.left_out)} if run.info.left_out else {})


def _timed(run: Run) -> dict[str, str]:
    timings = [record.timing for record in run.records if record.timing is not None]
    if not timings:
        return {"clock": "nothing was timed"}
    unsettled = sum(not timing.warm for timing in timings)
    warm = units.spread(timing.warmup_calls for timing in timings)
    return {
        "clock": count(timing.clock for timing in timings),
        "device time beside it": count("CUDA events" if t.device_ns else "none" for t in timings),
        "cache": count(timing.cache for timing in timings),
        "warm-up calls": warm + (f", not settled in {unsettled}" if unsettled else ""),
        "rounds": units.spread(len(set(timing.rounds)) for timing in timings),
        "samples a record": units.spread(len(timing.samples_ns) for timing in timings),
        "calls a sample": units.spread(timing.calls_per_sample for timing in timings),
        "stopped by": count(timing.stopped for timing in timings),
        "A/A noise floor": _noise(timings),
        "first call": _times(timing.first_call_ns for timing in timings),
        "prepare": _times(timing.prepare_ns for timing in timings),
    }


def _noise(timings: Iterable[Timing]) -> str:
    floors = [100 * timing.noise_floor for timing in timings if units.present(timing.noise_floor)]
    return f"{units.spread(floors, '{:.2f}')} %" if floors else "not measured"


def _times(values: Iterable[float]) -> str:
    known = list(values)
    return units.span(units.time(min(known)), units.time(max(known)))


def _checked(records: Sequence[Record]) -> dict[str, str]:
    return {
        "agreement decided by": count(record.agreement.rule for record in records if record.agreement is not None),
        "energy": _energy(records),
        **_configurations(records),
        "flags": count(flag for record in records for flag in record.flags) or "none",
        "not quiet": _unquiet(records),
    }


def _unquiet(records: Sequence[Record]) -> str:
    """Say what disturbed the records, how many, and what to do."""
    found = [notes for record in records if (notes := instability(record))]
    timed = sum(record.timing is not None for record in records)
    told = "; ".join(f"{text} ({times})" for text, times in ranges(note for notes in found for note in notes))
    return f"{len(found)} of {units.plural(timed, 'timed record')}: {told}" if found else ""


def neighbours(runs: Sequence[Run]) -> Markdown:
    """One sentence on who else was at work while the records were taken; empty where nobody was seen."""
    records = [record for run in runs for record in run.records if record.timing is not None]
    found = [notes for record in records if (notes := disturbance(record.neighbours))]
    if not found:
        return Markdown("")
    who = (note.partition(": ")[0] for notes in found for note in notes)
    told = "; ".join(f"{text} ({times})" for text, times in ranges(who))
    return escape(
        f"Not quiet: while {len(found)} of {units.plural(len(records), 'timed record')} were taken, {told}. "
        "Measure again in quiet before believing who is fastest."
    )


def _configurations(records: Sequence[Record]) -> dict[str, str]:
    """Say how many of those that told ran with a tuned configuration, and where those come from."""
    told = [record.configuration for record in records if record.configuration is not None]
    return {"configurations": count(found.source for found in told)} if told else {}


def _energy(records: Sequence[Record]) -> str:
    found = [record.energy for record in records if record.energy is not None]
    if not found:
        return "not measured"
    words = (f"{e.status}, {e.reason}" if e.reason else f"{e.status}, {e.method}" for e in found)
    return count(words, join="; ")


def _effort(run: Run) -> dict[str, str]:
    info = run.info
    share = units.share(info.share_measuring)
    return {
        "started": info.started_at,
        "finished": info.finished_at or "not finished",
        "time in measured calls": f"{info.measuring_s:.0f} s of {info.wall_s:.0f} s, {share}",
        "command": info.command,
    }


def count(words: Iterable[str], join: str = ", ") -> str:
    """How often each word occurs, commonest first; a word alone stands without its count."""
    counted = Counter(word for word in words if word)
    if len(counted) == 1:
        return next(iter(counted))
    return join.join(f"{word} ({times})" for word, times in counted.most_common())
