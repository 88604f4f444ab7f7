"""The command ``calibrate``: how far this machine's verdicts can be trusted."""

from __future__ import annotations

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
    DeviceOption,
    Json,
    Set,
    Timeout,
    app,
    print_json,
    this_machine,
)

if TYPE_CHECKING:
    from harness.records.environment import Calibration
    from harness.records.trials import Trial, TrialFile
    from harness.running.blackbox import Announcement
    from harness.running.calibrate import Task
    from harness.running.machine import Machine


@app.command()
def calibrate(  # noqa: PLR0913, PLR0917 (one parameter an option)
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite of one case.")] = "calibrate",
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Short bouts against itself.")] = 100,
    trial_seconds: Annotated[float, typer.Option("--trial-seconds", metavar="S", help="Length of each.")] = 5.0,
    threshold: Annotated[
        str, typer.Option("--threshold", metavar="2%", help="Difference that is not worth a verdict.")
    ] = "2%",
    impl: Annotated[str, typer.Option("--impl", metavar="A", help="The implementation; the suite's by default.")] = "",
    device: DeviceOption = "",
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Keep all raw samples, for those who doubt.")
    ] = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Tell how far this machine's verdicts can be trusted: false alarms, and the smallest difference it can tell."""
    from harness.cases.shape import require
    from harness.records.calibration import evaluate
    from harness.records.verdicts import parse_threshold
    from harness.report.units import plural
    from harness.running.calibrate import make_task

    share = parse_threshold(threshold)
    fits = out is None or (out.parent.is_dir() and not out.is_dir())
    require(fits, "--out", str(out), "a file in a directory that exists")
    machine = this_machine()
    task = make_task(suite, impl, device, tuple(set_), trials, trial_seconds, machine)
    terminal.err.print(
        f"{plural(trials, 'trial')} of {task.impl} against itself on {escape(task.case.label())}, {trial_seconds:g} s"
        f" each, in {plural(len(task.shares), 'fresh worker')}: about {terminal.duration(task.expected_s)},"
        " longer with neighbours at work.",
        highlight=False,
        soft_wrap=True,
    )
    try:
        raw = _measure(task, machine, timeout)
    except KeyboardInterrupt:
        terminal.fail("stopped; a calibration that was not finished is not kept")
        raise typer.Exit(INTERRUPTED) from None
    why_not = _write(out, raw) if out else ""
    with terminal.err.status("judging the trials"):
        calibration = evaluate(raw, share)
    code = _conclude(calibration, raw, as_json)
    if why_not:
        terminal.fail(why_not)
    raise typer.Exit(code or (BAD_INPUT if why_not else DONE))


def _measure(task: Task, machine: Machine, timeout: float) -> TrialFile:
    """Run all trials behind a progress bar."""
    from harness.records.trials import TrialFile
    from harness.records.unmeasured import now
    from harness.running.calibrate import run_trials
    from harness.running.session import limits_for

    found: list[Trial] = []
    with terminal.progress() as bar:
        line = bar.add_task("starting a worker", total=task.trials)

        def doing(entry: Announcement) -> None:
            bar.update(line, description=f"trial {len(found) + 1} [dim]{escape(entry.stage)}[/dim]")

        def done(trial: Trial) -> None:
            found.append(trial)
            bar.advance(line)

        run_trials(task, machine, limits_for((task.case.device,), timeout), doing, done)
    return TrialFile(
        case=task.case,
        impl=task.impl,
        baseline=task.baseline,
        trial_s=task.trial_s,
        environment_id=machine.environment.environment_id,
        taken_at=now(),
        trials=found,
    )


def _write(out: Path, raw: TrialFile) -> str:
    """Keep all samples in a file; return why they could not be kept."""
    from harness.records.store import replace_file

    try:
        replace_file(out, raw)
    except OSError as error:
        return f"--out = {str(out)!r}: cannot be written: {error.strerror}"
    return ""


def _conclude(calibration: Calibration, raw: TrialFile, as_json: bool) -> int:
    """Keep a calibration and say what it shows; return the exit code."""
    from harness.records.calibration import TRUSTED_RATE, false_alarms

    kept, why_not = _keep(calibration, raw)
    alarms = false_alarms(calibration)
    if as_json:
        print_json(
            {
                "environment_id": raw.environment_id,
                "device": raw.case.device,
                "kept": kept,
                "false_alarms": alarms._asdict(),
                "calibration": calibration,
            }
        )
    else:
        _show(calibration, kept)
    if why_not:
        terminal.fail(why_not)
    if alarms.too_many:
        terminal.fail(
            f"{alarms.wrong} of {alarms.trials} verdicts on identical code were wrong, more than a rate of"
            f" {100 * TRUSTED_RATE:g} % explains (p = {alarms.p:.2g}): do not trust verdicts taken like this"
        )
        return FAILURES
    return DONE


def _keep(calibration: Calibration, raw: TrialFile) -> tuple[str | None, str]:
    """Keep a calibration for the runs to come; return the file, or None and why it is not kept."""
    from harness.report.units import plural
    from harness.running.calibrate import keep_calibration, state_path

    path = state_path(raw.environment_id)
    try:
        kept = keep_calibration(raw.environment_id, raw.case.device, calibration)
    except OSError as error:
        return None, f"{path}: the calibration cannot be kept: {error.strerror or error}; set XDG_STATE_HOME"
    if kept is not calibration:
        return None, (
            f"not kept: {path} holds a calibration of {plural(kept.trials, 'trial')}, this one has"
            f" {calibration.trials}; --trials {kept.trials} or more would replace it"
        )
    return str(path), ""


def _show(calibration: Calibration, kept: str | None) -> None:
    from harness.report.calibrations import in_words, threshold_rows, verdict_rows

    title = f"verdicts on {calibration.impl} with slowdowns planted, threshold {100 * calibration.threshold:g} %"
    terminal.out.print(terminal.table(title, *verdict_rows(calibration)))
    terminal.out.print(terminal.table("found SLOWER; of 0 %: called different", *threshold_rows(calibration)))
    for sentence in in_words(calibration):
        terminal.out.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if kept:
        terminal.out.print(f"Kept for the runs to come: {kept}", markup=False, highlight=False, soft_wrap=True)
