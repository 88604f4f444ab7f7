"""``moebench compare``: verdicts between two runs, two implementations of one run, or two revisions of the code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import (
    DONE,
    FAILURES,
    NOTHING,
    Budget,
    DeviceOption,
    Impl,
    Json,
    Set,
    Timeout,
    app,
    check_distinct,
    command_line,
    estimate,
    names,
    new_run,
    print_json,
    say_absences,
    this_machine,
)
from harness.cli.streams import os_words
from harness.report.escape import one_line

if TYPE_CHECKING:
    from harness.records.comparison import Result
    from harness.records.store import Run


@app.command()
def compare(  # noqa: PLR0913, PLR0917 (one parameter an option)
    base: Annotated[str, typer.Argument(metavar="BASE", help="A run directory; with --rev, a suite.")] = "",
    new: Annotated[str, typer.Argument(metavar="[NEW]", help="Another; without it --impl A,B within BASE.")] = "",
    rev: Annotated[
        str, typer.Option("--rev", metavar="REV", help="Measure this git revision against the working tree.")
    ] = "",
    impl: Impl = "",
    metric: Annotated[str, typer.Option("--metric", help="time, tokens_per_second, memory or energy.")] = "time",
    threshold: Annotated[
        str, typer.Option("--threshold", metavar="2%", help="A smaller difference is never worth a verdict.")
    ] = "2%",
    across: Annotated[
        str,
        typer.Option("--across", metavar="device", help="May differ: device, driver, torch, software, version."),
    ] = "",
    as_json: Json = False,
    pairs: Annotated[int, typer.Option("--pairs", help="With --rev: fresh pairs of processes.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="With --rev: where its two runs go.")] = None,
    device: DeviceOption = "",
    budget: Budget = "",
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    timeout: Timeout = 120.0,
) -> None:
    """Say what became faster or slower, worst first: two runs, two implementations, or two revisions side by side."""
    from harness.records.comparable import parse_across
    from harness.records.comparison import compare_implementations, compare_runs
    from harness.records.metrics import metric_named
    from harness.records.pairs import Question
    from harness.records.store import load_run
    from harness.records.verdicts import parse_threshold

    question = Question(metric_named(metric), parse_threshold(threshold), parse_across(across))
    asked = names(impl)
    if rev:
        if new:
            raise ValueError(f"NEW = {new!r}: --rev REV takes one SUITE, and compares REV with the working tree")
        runs = _measure(rev, base or "compare", (impl, device, budget, tuple(set_)), pairs, out, timeout)
        result = compare_runs(*runs, question, asked)
    elif base and new:
        check_distinct((Path(base), Path(new)))
        result = compare_runs(load_run(Path(base)), load_run(Path(new)), question, asked)
    elif base and asked and len(asked) == 2:
        result = compare_implementations(load_run(Path(base)), *asked, question)
    else:
        raise ValueError("compare: give two run directories, or one and --impl A,B, or --rev REV")
    raise typer.Exit(_conclude(result, as_json=as_json))


def _measure(
    rev: str, suite: str, words: tuple[str, str, str, tuple[str, ...]], pairs: int, out: Path | None, timeout: float
) -> tuple[Run, Run]:
    from harness.cases.shape import require
    from harness.records.estimates import MIN_PROCESSES
    from harness.running.request import Request
    from harness.running.versus.revision import commit_of, find_sources
    from harness.running.versus.run import check_free, expected_s, measure_versus

    require(
        pairs >= MIN_PROCESSES, "--pairs", pairs, f"{MIN_PROCESSES} or more: fewer do not show how processes differ"
    )
    commit_of(find_sources().repository, rev)  # before minutes are promised
    path = out or new_run("compare")
    check_free(path)
    machine = this_machine()
    plan = Request(suite, *words).plan(machine)
    say_absences(plan)
    terminal.err.print(estimate(len(plan.planned), expected_s(plan, pairs), 2 * plan.memory_bytes))
    try:
        with terminal.Bar(plan.planned) as bar:
            runs = measure_versus(plan, rev, path, machine, command_line(), pairs=pairs, stage_s=timeout, progress=bar)
    except KeyboardInterrupt:
        terminal.fail(f"stopped; {_kept(path)}")
        raise
    except OSError as error:
        raise ValueError(f"{os_words(error)}; {_kept(path)}") from error
    terminal.err.print(f"To judge again: moebench compare {path / 'base'} {path / 'new'}", soft_wrap=True, markup=False)
    return runs


def _kept(path: Path) -> str:
    """Say what a comparison that was stopped left behind."""
    from harness.records.store import INFO

    base, new = path / "base", path / "new"
    if (base / INFO).exists():
        return f"pairs that were complete are kept: moebench compare {base} {new}"
    return "no pair was complete, so nothing was kept"


def _conclude(result: Result, *, as_json: bool) -> int:
    from harness.report.verdicts import (
        BRIEFLY,
        FULL_WIDTH,
        HEADERS,
        verdict_json,
        verdict_notes,
        verdict_rows,
        verdict_summary,
    )

    if as_json:
        print_json(verdict_json(result))
    else:
        if result.compared:
            shown = BRIEFLY if terminal.out.width < FULL_WIDTH else range(len(HEADERS))
            rows = [[row[n] for n in shown] for row in verdict_rows(result)]
            terminal.out.print(terminal.table("", [HEADERS[n] for n in shown], rows))
        for note in verdict_notes(result):
            terminal.out.print(f"[dim]{escape(one_line(note))}[/dim]", highlight=False, soft_wrap=True)
        terminal.out.print(one_line(verdict_summary(result)), markup=False, highlight=False, soft_wrap=True)
    if result.regressions:
        return FAILURES
    return DONE if result.compared else NOTHING
