"""Commands that show: ``list``, ``doctor``, and ``report`` over runs that exist."""

from __future__ import annotations

import shlex
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import NOTHING, Json, app, print_json, this_machine


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="implementations, suites, presets, traffic or routers.")
    ] = "implementations",
    as_json: Json = False,
) -> None:
    """List what there is to measure, and what to measure it with."""
    from harness.listing import LISTINGS, listing

    if what not in LISTINGS:
        raise ValueError(f"list {what!r}: one of {', '.join(LISTINGS)}")
    headers, rows = listing(what)
    if as_json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        terminal.out.print(terminal.table("", headers, rows))


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
        terminal.out.print(f"[{colour}]{finding.status:8}[/] [bold]{finding.topic}[/]: {escape(said)}", highlight=False)


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
    from harness.records.store import load_run
    from harness.report.page import write_report

    if out is None:
        if len(runs) > 1:
            raise ValueError("--out = None: a directory for the report about several runs")
        (out,) = runs
    loaded = [load_run(path) for path in runs]
    for run_ in loaded:
        if run_.torn_lines:
            terminal.fail(f"{run_.path}: the last line of records.jsonl is torn and was skipped")
        if not run_.records:
            go_on = f"moebench run --resume {shlex.quote(str(run_.path))}"
            terminal.fail(f"{run_.path}: nothing was measured there, so it is left out; go on with: {go_on}")
    told = [run_ for run_ in loaded if run_.records]
    if not told:
        raise typer.Exit(NOTHING)
    terminal.out.print(f"Report: {write_report(told, out, also)}", soft_wrap=True, highlight=False)
