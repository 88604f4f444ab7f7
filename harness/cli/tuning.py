"""The command ``tune``: look for faster configurations of an implementation on this machine, and keep them."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.cli.app import (
    DONE,
    FAILURES,
    INTERRUPTED,
    NOTHING,
    Budget,
    DeviceOption,
    Json,
    Model,
    Set,
    Timeout,
    app,
    estimate,
    print_json,
    this_machine,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.records.record import Record
    from harness.running.blackbox import Announcement
    from harness.running.child import Limits
    from harness.running.machine import Machine
    from harness.running.tuning import Finding, Task

HEADERS = ["case", "default", "best", "best / default", "tried", "kept", "configuration, or why not"]


@app.command()
def tune(  # noqa: PLR0913, PLR0917 (one parameter an option)
    name: Annotated[str, typer.Argument(metavar="NAME", help="The implementation.")],
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A shipped suite's name or a TOML file.")] = "tuning",
    device: DeviceOption = "",
    budget: Budget = "",
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    model: Model = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Put what is found into this file, not your own directory."),
    ] = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Look for faster configurations of an implementation, case by case, and keep what beats its defaults."""
    from harness.running.request import Request
    from harness.running.session import limits_for
    from harness.running.tuning import make_task

    machine = this_machine()
    task = make_task(name, Request(suite, name, device, budget, tuple(set_), model), out, machine)
    limits = limits_for(tuple(dict.fromkeys(case.device for case in task.cases)), timeout)
    findings: list[Finding] = []
    stopped = False
    try:
        _run(task, machine, limits, findings)
    except KeyboardInterrupt:
        stopped = True
    except OSError as error:
        raise ValueError(
            f"--out = {str(out) if out else 'your own directory'!r}: {error}; set MOEBENCH_TUNED"
        ) from None
    refusal = refused(findings)
    if refusal and not stopped:
        terminal.fail(f"{name}: {refusal}")
    if as_json or not refusal or stopped:
        _show(task, machine, findings, as_json)
    if stopped:
        terminal.fail("stopped; what was found is kept")
        raise typer.Exit(INTERRUPTED)
    if not any(finding.word in {"kept", "default"} for finding in findings):
        raise typer.Exit(NOTHING)
    raise typer.Exit(FAILURES if any(finding.word == "failed" for finding in findings) else DONE)


def _run(task: Task, machine: Machine, limits: Limits, findings: list[Finding]) -> None:
    """Tune behind a progress bar; the estimate comes with the first case that the implementation does not refuse."""
    from harness.running.tuning import Tuning

    labels = {case.case_id: case.label() for case in task.cases}
    seen: set[tuple[str, str]] = set()
    expected = ["\n".join(filter(None, (estimate(len(task.cases), task.expected_s, task.memory_bytes), task.advice)))]
    with terminal.progress() as bar:
        line = bar.add_task("starting a worker", total=len(task.cases))

        def doing(entry: Announcement) -> None:
            if entry.case_id and expected:
                bar.console.print(expected.pop())
            if entry.impl:
                seen.add((entry.case_id, entry.impl))
            tried = sum(case_id == entry.case_id for case_id, _ in seen)
            label = escape(labels.get(entry.case_id, "starting a worker"))
            bar.update(line, description=f"{label} [dim]configuration {tried}, {escape(entry.stage)}[/dim]")

        def found(finding: Finding) -> None:
            findings.append(finding)
            bar.advance(line)

        Tuning(task, machine, limits, doing, found).run()


def refused(findings: Sequence[Finding]) -> str:
    """Why the implementation refuses every single case; empty where it does not."""
    records = [record for finding in findings if finding.outcome for record in finding.outcome.records]
    whole = len(records) == len(findings) and all(record.status == "unsupported" for record in records)
    return "; ".join(dict.fromkeys(record.reason for record in records)) if whole else ""


def _show(task: Task, machine: Machine, findings: list[Finding], as_json: bool) -> None:
    paths = {task.path(machine.environment.devices[f.case.device].name) for f in findings if f.word == "kept"}
    if as_json:
        print_json({"findings": [as_data(finding) for finding in findings], "kept_in": sorted(map(str, paths))})
        return
    if findings:
        terminal.out.print(terminal.table(f"{task.impl}: default against best", *rows(findings)))
    for path in sorted(paths):
        terminal.out.print(f"Kept in {path}", markup=False, highlight=False, soft_wrap=True)


def rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Headers, and for each case its default's and its best's time, their ratio with its interval, and what is kept."""
    return HEADERS, [_row(finding) for finding in findings]


def as_data(finding: Finding) -> dict[str, object]:
    """Return a finding as plain data."""
    outcome, ratio = finding.outcome, finding.ratio
    return {
        "case_id": finding.case.case_id,
        "case": finding.case.label(),
        "outcome": finding.word,
        "why": finding.why,
        "default": outcome.default if outcome else None,
        "best": outcome.best if outcome else None,
        "ratio": ratio[0] if ratio else None,
        "interval": ratio[1:] if ratio else None,
        "tried": outcome.tried if outcome else 0,
        "failed": outcome.failed if outcome else {},
    }


def _row(finding: Finding) -> list[str]:
    from harness.report import units
    from harness.report.frame import in_line

    outcome, ratio = finding.outcome, finding.ratio
    times = [_median(record) for record in outcome.records] if outcome else []
    default, best = [*times, units.ABSENT, units.ABSENT][:2]
    shown = f"{ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f})" if ratio else units.ABSENT
    values = in_line(outcome.best) if outcome and finding.word == "kept" else ""
    said = "; ".join(part for part in (values, finding.why, _failures(finding)) if part)
    tried = str(outcome.tried) if outcome else "0"
    return [finding.case.label(), default, best, shown, tried, finding.word, said]


def _median(record: Record) -> str:
    from harness.report import units

    return units.time(record.timing.median_ns) if record.timing else record.status


def _failures(finding: Finding) -> str:
    failed = finding.outcome.failed if finding.outcome else {}
    if not failed:
        return ""
    reason, count = max(failed.items(), key=lambda item: item[1])
    more = sum(failed.values()) - count
    return f"{count} of them {reason}" + (f", {more} otherwise" if more else "")
