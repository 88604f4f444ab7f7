"""Commands that hand figures to other tools: ``export asv`` and ``export csv``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness import terminal
from harness.cli.app import app

export = typer.Typer(no_args_is_help=True, help="Write runs in another tool's format.")
app.add_typer(export, name="export")


@export.callback()
def formats() -> None:
    """Write runs in another tool's format."""


@export.command("asv")
def asv_(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories; of one commit: repeats.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="asv's results; those of asv.conf.json by default.")
    ] = None,
    machine: Annotated[str, typer.Option("--machine", metavar="NAME", help="Instead of the runs' host name.")] = "",
    commit: Annotated[str, typer.Option("--commit", metavar="SHA", help="Instead of the commit in the runs.")] = "",
) -> None:
    """Add runs to the history that asv shows, beside what asv measured itself."""
    from harness.export.asv import export_runs
    from harness.export.asv_calls import checkout, config
    from harness.records.store import load_run

    root = checkout()
    loaded = [load_run(path) for path in dict.fromkeys(path.resolve() for path in runs)]
    for file in export_runs(loaded, out or Path(config(root).results_dir), root, machine=machine, commit=commit):
        terminal.out.print(f"Results: {file}", soft_wrap=True, highlight=False, markup=False)
    terminal.out.print("`nox -s asv -- publish` writes asv's pages.", markup=False)


@export.command("csv")
def csv(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories, all into one table.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.csv", help="Where it goes; to the terminal by default.")
    ] = None,
) -> None:
    """Write a table with a row for each record, for pandas, R or a spreadsheet."""
    from harness.export.csv import table
    from harness.records.store import load_run

    found = table([load_run(path) for path in runs])
    if out is None:
        sys.stdout.write(found.to_csv(index=False))
        return
    try:
        found.to_csv(out, index=False)
    except OSError as error:
        raise ValueError(f"--out = {str(out)!r}: cannot be written: {error.strerror or error}") from None
    terminal.out.print(f"Table: {out}", soft_wrap=True, highlight=False, markup=False)
