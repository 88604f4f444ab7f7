"""Commands that show: ``list``, ``doctor``, and ``report`` over runs that exist."""

from __future__ import annotations

import shlex
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import NOTHING, Json, app, check_distinct, print_json, this_machine
from harness.report.escape import one_line

if TYPE_CHECKING:
    from harness.records.store import Run


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="implementations, suites, presets, traffic, routers, or keys of a suite.")
    ] = "implementations",
    as_json: Json = False,
) -> None:
    """List what there is to measure, and what to measure it with."""
    from harness.listing import FULL_WIDTH, LISTINGS, SPARED, listing

    if what not in LISTINGS:
        raise ValueError(f"list {what!r}: one of {', '.join(LISTINGS)}")
    headers, rows = listing(what)
    if as_json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        shown = [n for n, header in enumerate(headers) if terminal.out.width >= FULL_WIDTH or header not in SPARED]
        terminal.out.print(terminal.table("", [headers[n] for n in shown], [[row[n] for n in shown] for row in rows]))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can and cannot measure, and why."""
    from harness.running.doctor import diagnose

    machine = this_machine()
    findings = diagnose(machine.environment, machine.facts)
    if as_json:
        print_json({"environment": machine.environment, "findings": findings})
        return
    colours = {"ok": "green", "limited": "yellow", "missing": "red"}
    for finding in findings:
        colour = colours[finding.status]
        said = "; ".join(part for part in (finding.what, finding.why, finding.advice) if part)
        terminal.out.print(
            f"[{colour}]{finding.status:8}[/] [bold]{finding.topic}[/]: {escape(one_line(said))}", highlight=False
        )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories; several go side by side.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where report.md and its pictures go; beside a single run's records."
        ),
    ] = None,
    also: Annotated[
        str, typer.Option("--also", metavar="pdf|svg", help="Each picture in this format too, for a paper.")
    ] = "",
) -> None:
    """Write one report about one run or several."""
    from harness.records.store import about, load_run
    from harness.report.page import write_report

    if out is None:
        if len(runs) > 1:
            raise ValueError("--out is missing: a directory for the report about several runs")
        (out,) = runs
    check_distinct(runs)
    loaded = [load_run(path) for path in runs]
    _check_out(out, runs)
    for run_ in loaded:
        _say_what_lacks(run_)
    told = [run_ for run_ in loaded if run_.records]
    if not told:
        raise typer.Exit(NOTHING)
    with about(out):
        page = write_report(told, out, also)
    terminal.out.print(f"Report: {page}", soft_wrap=True, highlight=False, markup=False)


def _check_out(out: Path, runs: list[Path]) -> None:
    """Refuse to put a report where another run has its own."""
    from harness.records.store import INFO

    if (out / INFO).exists() and out.resolve() not in [path.resolve() for path in runs]:
        raise ValueError(f"--out = {str(out)!r}: holds another run, whose report would be lost; name another directory")


def _say_what_lacks(run: Run) -> None:
    """Say what of a run is not there, or not yet."""
    from harness.records.locking import in_progress

    if run.torn_lines:
        terminal.fail(f"{run.path}: the last line of records.jsonl is torn and was skipped")
    going_on = in_progress(run.path)
    if going_on and run.records:
        terminal.fail(f"{run.path}: still being measured; the report is about the {len(run.records)} records so far")
    elif going_on:
        terminal.fail(f"{run.path}: still being measured, and there is no record yet, so it is left out")
    elif not run.records:
        go_on = f"moebench run --resume {shlex.quote(str(run.path))}"
        terminal.fail(f"{run.path}: nothing was measured there, so it is left out; go on with: {go_on}")
