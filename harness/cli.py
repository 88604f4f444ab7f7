"""The ``moebench`` command. Nothing here imports torch, so ``moebench --help`` answers at once."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape

from harness import terminal

if TYPE_CHECKING:
    from harness.records.store import Run
    from harness.running.machine import Machine
    from harness.running.session import Session

DONE, FAILURES, BAD_INPUT, NOTHING, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: done; done, but something disagreed, crashed or erred; bad input; nothing was measured; Ctrl-C."""

app = typer.Typer(
    name="moebench",
    help="Which way of computing a Mixture-of-Experts layer is fastest, leanest and correct, on your machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

SuiteArgument = Annotated[
    str,
    typer.Argument(
        metavar="SUITE", help="A shipped suite's name or a TOML file; auto is reference on a GPU, else quick."
    ),
]
Impl = Annotated[str, typer.Option("--impl", metavar="A,B", help="Only these implementations.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="D", help="cpu, cuda or cuda:N; the best there is by default.")
]
Budget = Annotated[
    str, typer.Option("--budget", metavar="5m", help="Time for all bouts together; the suite's by default.")
]
Set = Annotated[list[str], typer.Option("--set", metavar="AXIS=V1,V2", help="Replace an axis of every sweep.")]
Model = Annotated[
    str, typer.Option("--model", metavar="CONFIG.JSON", help="Measure the layer of this Hugging Face model.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds without a sign of life before a kill.")]


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
        _print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        terminal.out.print(terminal.table("", headers, rows))


@app.command()
def plan(
    suite: SuiteArgument = "auto",
    impl: Impl = "",
    device: DeviceOption = "",
    budget: Budget = "",
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    model: Model = "",
    as_json: Json = False,
) -> None:
    """Show the cases of a suite, the time and the memory they will take; measures nothing."""
    from harness.cases.cost import memory_estimate_bytes
    from harness.running.request import Request

    machine = _machine()
    made = Request(suite, impl, device, budget, tuple(set_), model).plan(machine)
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
        _print_json({"suite": made.suite, "expected_s": made.expected_s, "budget_s": made.budget_s, "cases": cases})
        return
    terminal.out.print(terminal.plan_table(made, memory))
    terminal.out.print(_estimate(len(made.planned), made.expected_s, made.memory_bytes))


@app.command()
def run(  # noqa: PLR0913, PLR0917 (one parameter an option)
    suite: SuiteArgument = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the run goes; results/… by default.")
    ] = None,
    impl: Impl = "",
    device: DeviceOption = "",
    budget: Budget = "",
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Finish the run in DIR.")] = None,
    set_: Set = [],  # noqa: B006 (typer reads it, nobody writes it)
    model: Model = "",
    timeout: Timeout = 120.0,
) -> None:
    """Measure a suite on this machine and write a report."""
    from harness.running import session
    from harness.running.request import Request

    machine = _machine()
    if resume:
        current = session.resume(resume, machine, timeout)
    else:
        made = Request(suite, impl, device, budget, tuple(set_), model).plan(machine)
        terminal.err.print(_estimate(len(made.planned), made.expected_s, made.memory_bytes))
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        path = out or Path("results") / f"{made.suite}-{stamp}"
        current = session.start(made, path, machine, shlex.join(["moebench", *sys.argv[1:]]), timeout)
    raise typer.Exit(_measure(current))


def _measure(current: Session) -> int:
    if current.torn_lines:
        terminal.err.print("one torn line at the end of records.jsonl is cut off; its record is measured again")
    try:
        with terminal.Bar(current.to_do()) as bar:
            finished = current.measure(bar)
    except KeyboardInterrupt:
        terminal.fail(f"stopped; what was measured is kept. Go on with: moebench run --resume {current.path}")
        return INTERRUPTED
    return _conclude(finished)


def _conclude(finished: Run) -> int:
    from harness.records.record import FAILURES as FAILED
    from harness.report.page import summary_tables, write_report

    if not any(record.timing for record in finished.records):
        reasons = sorted({f"{r.impl.name} {r.status}: {r.reason}" for r in finished.records})
        terminal.fail(f"nothing was measured. {'; '.join(reasons[:3])}. All records: {finished.path / 'records.jsonl'}")
        return NOTHING
    for title, text in summary_tables(finished):
        terminal.out.print(f"\n[bold]{escape(title)}[/bold]")
        terminal.out.print(text, markup=False, highlight=False, soft_wrap=True)
    share = finished.info.share_measuring
    if share is not None:
        terminal.out.print(
            f"\n{share:.0%} of {terminal.duration(finished.info.wall_s)} after start-up was spent measuring."
        )
    terminal.out.print(f"Report: {write_report([finished], finished.path)}", soft_wrap=True, highlight=False)
    return FAILURES if any(record.status in FAILED for record in finished.records) else DONE


@app.command()
def validate(impl: Impl = "", device: DeviceOption = "", timeout: Timeout = 120.0, as_json: Json = False) -> None:
    """Check that every implementation computes the layer: router x dtype x pass and the edge cases. Times nothing."""
    from harness.cases.validation import validation_cases
    from harness.report.validation import summarise
    from harness.running.plan import make_plan
    from harness.running.session import gate_only, limits_for

    machine = _machine()
    where = device or machine.best_device
    made = make_plan("validate", "", validation_cases(where), machine, only=_names(impl))
    with terminal.Bar(made.planned) as bar:
        records = gate_only(list(made.planned), machine, limits_for(made.devices, timeout), bar)
    summary = summarise(records)
    if as_json:
        _print_json(summary)
    else:
        shown = [list(row.items())[:-1] for row in summary]  # the last column says why; too wide for a terminal
        headers = [key for key, _ in shown[0]] if shown else []
        rows = [[str(cell) for _, cell in row] for row in shown]
        terminal.out.print(terminal.table(f"agreement with the float64 oracle on {where}", headers, rows))
        for name, reason in sorted({(r.impl.name, r.reason) for r in records if r.status == "unsupported"}):
            terminal.out.print(f"{name}: {reason}", markup=False, highlight=False)
        terminal.out.print(terminal.status_line(bar.statuses))
    if not any(record.status == "ok" for record in records):
        raise typer.Exit(NOTHING if all(record.status == "unsupported" for record in records) else FAILURES)
    raise typer.Exit(FAILURES if any(record.status not in {"ok", "unsupported"} for record in records) else DONE)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories; several go side by side.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where report.md and its pictures go.")],
) -> None:
    """Write one report about one run or several."""
    from harness.records.store import load_run
    from harness.report.page import write_report

    loaded = [load_run(path) for path in runs]
    for run_ in loaded:
        if run_.torn_lines:
            terminal.fail(f"{run_.path}: the last line of records.jsonl is torn and was skipped")
    terminal.out.print(f"Report: {write_report(loaded, out)}", soft_wrap=True, highlight=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can and cannot measure, and why."""
    from harness.running.doctor import diagnose

    machine = _machine()
    findings = diagnose(machine.environment, machine.facts)
    if as_json:
        _print_json({"environment": machine.environment, "findings": findings})
        return
    colours = {"ok": "green", "limited": "yellow", "missing": "red"}
    for finding in findings:
        colour = colours[finding.status]
        said = "; ".join(part for part in (finding.what, finding.why, finding.advice) if part)
        terminal.out.print(f"[{colour}]{finding.status:8}[/] [bold]{finding.topic}[/]: {escape(said)}", highlight=False)


def _machine() -> Machine:
    from harness.running.machine import look_around

    with terminal.err.status("looking at this machine"):
        return look_around()


def _names(impl: str) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in impl.split(",")) if impl else None


def _estimate(cases: int, seconds: float, memory_bytes: int) -> str:
    return f"{cases} cases, at most about {terminal.duration(seconds)}, up to {memory_bytes / 2**30:.1f} GiB of memory"


def _print_json(content: object) -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def _exit_with(error: Exception, code: int) -> NoReturn:
    terminal.fail(str(error))
    raise SystemExit(code)


def main() -> None:
    """Entry point: one line for bad input and for a machine that cannot measure, no traceback."""
    from harness.running.machine import MachineError

    try:
        app()
    except ValueError as error:
        _exit_with(error, BAD_INPUT)
    except MachineError as error:
        _exit_with(error, NOTHING)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
