"""What the commands share: the app, exit codes, options."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness import terminal
from harness.report.escape import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.running.machine import Machine
    from harness.running.plan import Plan

MIB, GIB = 2**20, 2**30
DONE, FAILURES, BAD_INPUT, NOTHING, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: done; done, but something disagreed, crashed, erred or got slower; bad input; nothing was measured or
comparable; Ctrl-C."""

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
ImplOrFile = Annotated[
    str,
    typer.Option(
        "--impl", metavar="A,B", help="Only these implementations; FILE.py:NAME, or FILE.py, brings in one of your own."
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="D", help="cpu, cuda or cuda:N; the best there is by default.")
]
Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="5m",
        help="Time to measure in; the suite's by default. Weights and checks of large layers come on top, see plan.",
    ),
]
Set = Annotated[list[str], typer.Option("--set", metavar="AXIS=V1,V2", help="Replace an axis of every sweep.")]
Model = Annotated[
    str, typer.Option("--model", metavar="CONFIG.JSON", help="Measure the layer of this Hugging Face model.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds without a sign of life before a kill.")]


def this_machine(files: tuple[str, ...] = ()) -> Machine:
    """Look around, with a word to whoever waits; ``files`` are the user's own implementations."""
    from harness.running.files import check_imported
    from harness.running.machine import look_around

    with terminal.err.status("looking at this machine"):
        machine = look_around(files=files)
    check_imported(files, machine)
    return machine


def names(impl: str) -> tuple[str, ...] | None:
    """Split ``--impl``; None when it was left out."""
    return tuple(name.strip() for name in impl.split(",")) if impl else None


def check_distinct(runs: Sequence[Path]) -> None:
    """Refuse to lay a run beside itself.

    Raises
    ------
    ValueError
        for the first directory that was given already, be it under another name.
    """
    for number, path in enumerate(runs):
        if path.resolve() in [earlier.resolve() for earlier in runs[:number]]:
            raise ValueError(f"RUN = {str(path)!r}: the same directory twice")


def new_run(name: str) -> Path:
    """Where a run goes that was given no place: a folder in ``results`` with the time of day."""
    return Path("results") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def command_line() -> str:
    """Return the command as it was given, for the run's own record."""
    return shlex.join(["moebench", *sys.argv[1:]])


def estimate(cases: int, seconds: float, memory_bytes: int) -> str:
    """Say beforehand what a run will take."""
    many = "1 case" if cases == 1 else f"{cases} cases"
    memory = f"{memory_bytes / GIB:.1f} GiB" if memory_bytes >= GIB else f"{memory_bytes / MIB:.0f} MiB"
    return f"{many}, about {terminal.duration(seconds)}, up to {memory} of memory"


def say_absences(plan: Plan) -> None:
    """Say once, before anything is measured, what a suite asks for that is not here or does not fit."""
    from harness.running.plan import absences

    said = [absences(plan.not_here)] if plan.not_here else []
    for line in [*said, *(f"left out: {one}" for one in plan.left_out)]:
        terminal.err.print(escape(one_line(line)), highlight=False, soft_wrap=True)


def print_json(content: object) -> None:
    """Write to standard output for machines."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
