"""Commands that measure: ``run`` and ``validate``; and ``plan``, which says what ``run`` would do."""

from __future__ import annotations

import shlex
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import (
    BAD_INPUT,
    DONE,
    FAILURES,
    INTERRUPTED,
    NOTHING,
    Budget,
    DeviceOption,
    ImplOrFile,
    Json,
    Model,
    Set,
    SuiteArgument,
    Timeout,
    app,
    command_line,
    estimate,
    new_run,
    print_json,
    say_absences,
    this_machine,
)
from harness.cli.streams import os_words
from harness.report.escape import one_line

if TYPE_CHECKING:
    from harness.records.store import Run
    from harness.running.session import Session


@app.command()
def plan(
    suite: SuiteArgument = "auto",
    impl: ImplOrFile = "",
    device: DeviceOption = "",
    budget: Budget = "",
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Show the cases of a suite, the time and the memory they will take; measures nothing."""
    from harness.cases.cost import memory_estimate_bytes
    from harness.running.files import files_in
    from harness.running.request import Request

    machine = this_machine(files_in(impl))
    made = Request(suite, impl, device, budget, tuple(set_), model).plan(machine)
    say_absences(made)
    memory = [memory_estimate_bytes(one.case) for one in made.planned]
    if as_json:
        cases = [
            {
                "case_id": one.case.case_id,
                "case": one.case,
                "implementations": one.implementations,
                "memory_bytes": need,
            }
            for one, need in zip(made.planned, memory, strict=True)
        ]
        print_json({"suite": made.suite, "expected_s": made.expected_s, "budget_s": made.budget_s, "cases": cases})
        return
    terminal.out.print(terminal.plan_table(made, memory))
    terminal.out.print(estimate(len(made.planned), made.expected_s, made.memory_bytes))


@app.command()
def run(  # noqa: PLR0913, PLR0917 (one parameter an option)
    suite: SuiteArgument = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the run goes; results/… by default.")
    ] = None,
    impl: ImplOrFile = "",
    device: DeviceOption = "",
    budget: Budget = "",
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Finish the run in DIR.")] = None,
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    model: Model = "",
    timeout: Timeout = 120.0,
) -> None:
    """Measure a suite on this machine and write a report."""
    from harness.running import session
    from harness.running.files import files_in
    from harness.running.request import Request

    if resume:
        _refuse_beside_resume(
            {
                "SUITE": suite != "auto",
                "--out": out,
                "--impl": impl,
                "--device": device,
                "--budget": budget,
                "--set": set_,
                "--model": model,
            }
        )
    machine = this_machine(session.files_of(resume) if resume else files_in(impl))
    if resume:
        current = session.resume(resume, machine, timeout)
    else:
        _refuse_other_files(out)
        made = Request(suite, impl, device, budget, tuple(set_), model).plan(machine)
        say_absences(made)
        terminal.err.print(estimate(len(made.planned), made.expected_s, made.memory_bytes))
        current = session.start(made, out or new_run(made.suite), machine, command_line(), timeout)
    raise typer.Exit(_measure(current))


def _refuse_beside_resume(given: dict[str, object]) -> None:
    if beside := [name for name, value in given.items() if value]:
        raise ValueError(f"--resume takes no {', '.join(beside)}: a run goes on as it was planned")


def _refuse_other_files(out: Path | None) -> None:
    """Keep a run, which is many files, to itself. One killed while it was laid out has left only its environment."""
    from harness.records.store import ENVIRONMENT, INFO

    if out is None or (out / INFO).exists():  # a run there is refused with what to do about it
        return
    others = [one.name for one in out.glob("*") if not one.name.startswith((".", ENVIRONMENT))]
    if others:
        raise ValueError(f"--out = {str(out)!r}: a new or an empty folder; this one holds {min(others)}")


def _measure(current: Session) -> int:
    if current.torn_lines:
        terminal.err.print("one torn line at the end of records.jsonl is cut off; its record is measured again")
    if current.complaint:
        terminal.err.print(escape(one_line(current.complaint)), highlight=False, soft_wrap=True)
    kept = f"what was measured is kept. Go on with: moebench run --resume {shlex.quote(str(current.path))}"
    try:
        with terminal.Bar(current.to_do()) as bar:
            finished = current.measure(bar)
    except KeyboardInterrupt:
        terminal.fail(f"stopped; {kept}")
        return INTERRUPTED
    except OSError as error:
        terminal.fail(f"{os_words(error)}; {kept}")
        return BAD_INPUT
    return _conclude(finished)


def _conclude(finished: Run) -> int:
    """Write the report, whatever becomes of the summary on the terminal, and return the exit code."""
    from harness.records.record import FAILURES as FAILED
    from harness.records.store import about
    from harness.report.page import write_report

    if not any(record.timing for record in finished.records):
        reasons = sorted({f"{r.impl.name} {r.status}: {r.reason}" for r in finished.records})
        terminal.fail(f"nothing was measured. {'; '.join(reasons[:3])}. All records: {finished.path / 'records.jsonl'}")
        return NOTHING
    try:
        with about(finished.path):
            page = write_report([finished], finished.path)
    except OSError as error:
        _show(finished)
        again = f"moebench report {shlex.quote(str(finished.path))} --out DIR"
        terminal.fail(f"{os_words(error)}; all records are kept. For a report: {again}")
        return BAD_INPUT
    _show(finished)
    terminal.out.print(f"Report: {page}", soft_wrap=True, highlight=False, markup=False)
    return FAILURES if any(record.status in FAILED for record in finished.records) else DONE


def _show(finished: Run) -> None:
    from harness.report.page import summary_tables

    for title, text in summary_tables(finished):
        terminal.out.print(f"\n[bold]{escape(title)}[/bold]")
        terminal.out.print(text, markup=False, highlight=False, soft_wrap=True)
    share = finished.info.share_measuring
    if share is not None:
        terminal.out.print(
            f"\n{share:.0%} of {terminal.duration(finished.info.wall_s)} after start-up was spent measuring."
        )


@app.command()
def validate(impl: ImplOrFile = "", device: DeviceOption = "", timeout: Timeout = 120.0, as_json: Json = False) -> None:
    """Check that every implementation computes the layer: router x dtype x pass and the edge cases. Times nothing."""
    from harness.cases.validation import validation_cases
    from harness.report.validation import summarise
    from harness.running.files import choose, files_in
    from harness.running.plan import check_device, make_plan
    from harness.running.session import gate_only, limits_for

    machine = this_machine(files_in(impl))
    where = device or machine.best_device
    check_device("--device", where, machine)
    made = make_plan("validate", "", validation_cases(where), machine, only=choose(impl, machine).only)
    with terminal.Bar(made.planned) as bar:
        records = gate_only(list(made.planned), machine, limits_for(made.devices, timeout), bar)
    summary = summarise(records)
    if as_json:
        print_json(summary)
    else:
        shown = [list(row.items())[:-1] for row in summary]  # the last column says why; too wide for a terminal
        headers = [key for key, _ in shown[0]] if shown else []
        rows = [[str(cell) for _, cell in row] for row in shown]
        terminal.out.print(terminal.table(f"agreement with the float64 oracle on {where}", headers, rows))
        for name, reason in sorted({(r.impl.name, r.reason) for r in records if r.status == "unsupported"}):
            terminal.out.print(one_line(f"{name}: {reason}"), markup=False, highlight=False)
        terminal.out.print(terminal.status_line(bar.statuses))
    if not any(record.status == "ok" for record in records):
        raise typer.Exit(NOTHING if all(record.status == "unsupported" for record in records) else FAILURES)
    raise typer.Exit(FAILURES if any(record.status not in {"ok", "unsupported"} for record in records) else DONE)
